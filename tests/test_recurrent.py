"""The recurrent translators in use: padding, decoding word by word, and training through the common tools."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.data import Batch, pad
from transformer.decoding import greedy_decode
from transformer.learning import batch_loss
from transformer.recurrent import AdditiveAttention, RecurrentConfig, RecurrentTranslator, alignment
from transformer.training import Trainer, TrainingConfig

sentences = st.lists(st.lists(st.integers(3, 11), min_size=1, max_size=6), min_size=1, max_size=4)
both = pytest.mark.parametrize("attention", [False, True])


def model(attention: bool, **changes: object) -> RecurrentTranslator:
    torch.manual_seed(0)
    sizes = {"d_model": 8, "num_layers": 2, "dropout": 0.0, **changes}
    return RecurrentTranslator(RecurrentConfig(12, attention=attention, **sizes)).double().eval()


@both
@given(sources=sentences, extra=st.integers(1, 5))
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
def test_padding_changes_nothing(attention: bool, sources: list[list[int]], extra: int) -> None:
    ours = model(attention)
    source = pad([*sources, [3] * (max(map(len, sources)) + extra)])
    target = torch.full((len(source), 3), 5)
    together = ours(source, target)
    for row, ids in enumerate(sources):
        torch.testing.assert_close(
            together[row], ours(torch.tensor([ids]), target[:1])[0], rtol=0, atol=1e-10
        )


@both
def test_word_by_word_is_all_at_once(attention: bool) -> None:
    ours, source = model(attention), pad([[5, 6, 7, 2], [8, 2]])
    said = greedy_decode(ours, source, max_length=6)
    logits = ours(source, said[:, :-1])
    logits[..., 0] = -torch.inf  # padding is never said
    real = said[:, 1:] != 0
    assert torch.equal(logits.argmax(-1)[real], said[:, 1:][real])


@both
def test_the_common_trainer_learns_a_sentence_by_heart(attention: bool) -> None:
    ours = model(attention, d_model=16, num_layers=1, dropout=0.1).float()
    before = copy.deepcopy(ours.state_dict())
    settings = TrainingConfig(steps=80, max_tokens=100, peak_rate=0.02, warmup=5, smoothing=0.0)
    trainer = Trainer(ours, [([5, 6, 7, 2], [1, 7, 6, 5, 2]), ([8, 9, 2], [1, 9, 8, 2])], settings)
    trainer.run()
    said = greedy_decode(ours.eval(), pad([[5, 6, 7, 2], [8, 9, 2]]), max_length=5)
    assert said.tolist() == [[1, 7, 6, 5, 2], [1, 9, 8, 2, 0]]
    assert all(not torch.equal(before[name], weight) for name, weight in ours.state_dict().items())


@both
def test_every_weight_gets_a_gradient_and_dropout_is_only_for_training(attention: bool) -> None:
    ours, source, target = model(attention, dropout=0.5), torch.tensor([[5, 6, 2]]), torch.tensor([[1, 4, 2]])
    assert torch.equal(ours(source, target), ours(source, target))
    assert not torch.equal(ours.train()(source, target), ours(source, target))
    batch_loss(ours.eval(), Batch(source, target), smoothing=0.0).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in ours.parameters())


def test_a_state_that_may_attend_to_nothing_gets_zeros() -> None:
    attention = AdditiveAttention(4)
    values = torch.randn(2, 3, 4, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False] * 3])
    context, weights = attention(torch.randn(2, 4), attention.of_entry(values), values, mask)
    assert not context[1].any() and not weights[1].any() and weights[0, 2] == 0
    context.sum().backward()
    assert values.grad is not None and values.grad.isfinite().all()


def test_what_cannot_work_is_refused() -> None:
    for wrong in ({"d_model": 7}, {"d_model": 0}, {"num_layers": 0}, {"dropout": -0.1}, {"bos_id": 12}):
        with pytest.raises(ValueError):
            RecurrentConfig(12, **wrong)
    with pytest.raises(ValueError, match="looks nowhere"):
        alignment(model(False), torch.tensor([[5, 2]]), torch.tensor([[1]]))
