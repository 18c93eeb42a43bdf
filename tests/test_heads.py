"""Heads measured, switched off and cut out, as an engineer uses it."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from transformer import (
    Batch,
    RecurrentConfig,
    RecurrentTranslator,
    Tokenizer,
    Transformer,
    TransformerConfig,
    attention_heads,
    beam_search,
    greedy_decode,
    head_confidence,
    head_importance,
    offset_share,
    positional_heads,
    pruned,
    sentence_maps,
    token_batches,
    without,
    word_alignment,
    word_numbers,
    word_weights,
)
from transformer import heads as heads_module

SETTINGS = [{}, {"norm_first": True}, {"positions": "learned"}, {"d_k": 3, "d_v": 5}]
EXAMPLES = [([5, 6, 7, 2], [1, 8, 9, 2]), ([4, 2], [1, 3, 4, 5, 6, 2]), ([3, 3, 3, 3, 3, 2], [1, 7, 2])]


def tiny(**changes: object) -> Transformer:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_ff": 24, "num_heads": 4, **changes}
    model = Transformer(TransformerConfig.tiny(20, **sizes)).double().eval()
    for weight in model.parameters():  # biases, too
        torch.nn.init.normal_(weight, std=0.3)
    return model


@pytest.fixture(params=SETTINGS, ids=str)
def model(request: pytest.FixtureRequest) -> Transformer:
    return tiny(**request.param)


@pytest.fixture
def batch() -> Batch:
    [together] = token_batches(EXAMPLES, 1000)
    return together


def logits(model: Transformer, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(batch.source, batch.target[:, :-1])


def some_choices(model: Transformer) -> list[list[tuple[str, int, int]]]:
    heads = attention_heads(model)
    whole = [[(kind, layer, head) for head in range(4)] for kind, layer in (("encoder", 1), ("cross", 0))]
    return [
        [],
        heads[:1],
        heads[::3],
        heads[1::2] * 2,
        *whole,
        [head for head in heads if head[1] == 0],
        heads,
    ]


def test_heads_are_counted_kind_by_kind() -> None:
    heads = attention_heads(tiny(num_heads=2, num_layers=3))
    assert heads[:3] == [("encoder", 0, 0), ("encoder", 0, 1), ("encoder", 1, 0)]
    assert len(heads) == 18 and heads[-1] == ("cross", 2, 1)


def test_a_pruned_model_is_the_one_with_its_heads_off(model: Transformer, batch: Batch) -> None:
    for heads in some_choices(model):
        off, small = without(model, *heads), pruned(model, *heads)
        torch.testing.assert_close(logits(small, batch), logits(off, batch), rtol=0, atol=1e-12)
        for search in (greedy_decode, beam_search):
            for source in (batch.source, batch.source[:1]):
                assert torch.equal(search(small, source, max_length=9), search(off, source, max_length=9))


def test_a_head_that_is_off_brings_back_zeros(batch: Batch) -> None:
    """Against a mask of ones and zeros on what the heads bring back."""
    model, heads = tiny(), [("encoder", 1, 2), ("decoder", 0, 0), ("decoder", 0, 3), ("cross", 1, 1)]
    silent = copy.deepcopy(model)
    for kind, layer, head in heads:
        block = (silent.encoder if kind == "encoder" else silent.decoder).layers[layer]
        attention = block.cross_attention if kind == "cross" else block.self_attention

        def silence(module: object, given: tuple[Tensor], head: int = head) -> tuple[Tensor]:
            keep = torch.ones(4, 4, dtype=torch.float64)
            keep[head] = 0
            return (given[0] * keep.flatten(),)

        attention.output.register_forward_pre_hook(silence)
    torch.testing.assert_close(logits(without(model, *heads), batch), logits(silent, batch))
    assert not torch.allclose(logits(model, batch), logits(silent, batch))


def test_the_model_itself_stays_as_it_was(batch: Batch) -> None:
    model = tiny()
    weights, before = copy.deepcopy(model.state_dict()), logits(model, batch)
    for change in (without, pruned):
        change(model, ("encoder", 0, 0), ("cross", 1, 3))
        assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
        assert torch.equal(logits(model, batch), before)
        assert torch.equal(logits(change(model), batch), before)


@pytest.mark.parametrize("change", [without, pruned])
def test_a_model_made_ready_does_not_decode_with_the_old_heads(change, batch: Batch) -> None:
    model, cross = tiny(), [("cross", layer, head) for layer in (0, 1) for head in range(4)]
    changed = change(model.frozen(), *cross)
    states = [m.start(batch.source).step(batch.target[:, 0]) for m in (changed, change(model, *cross), model)]
    assert torch.equal(states[0], states[1]) and not torch.allclose(states[0], states[2])


def test_what_is_cut_out_is_saved(model: Transformer) -> None:
    def size(model: Transformer) -> int:
        return sum(weight.numel() for weight in model.parameters())

    d_k, d_v = model.config.d_k or 4, model.config.d_v or 4
    one = 2 * d_k * 17 + d_v * 17 + 16 * d_v
    assert size(model) - size(pruned(model, ("decoder", 1, 2))) == one
    small = pruned(model, *[("decoder", 1, head) for head in range(4)])
    assert size(model) - size(small) == 4 * one - (3 * 17 + 16)  # the stand-in


def test_pruning_goes_on_where_it_stopped(batch: Batch) -> None:
    model = tiny()
    once = pruned(model, ("encoder", 0, 0), ("encoder", 0, 2))
    twice = pruned(pruned(model, ("encoder", 0, 0)), ("encoder", 0, 1))  # it moved up
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))
    assert attention_heads(once)[:3] == [("encoder", 0, 0), ("encoder", 0, 1), ("encoder", 1, 0)]


def test_a_pruned_model_can_be_trained_and_its_stand_in_stays_silent(batch: Batch) -> None:
    model = pruned(tiny(), ("encoder", 0, 1), *[("cross", 0, head) for head in range(4)]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        out = model(batch.source, batch.target[:, :-1])
        losses.append(F.cross_entropy(out.flatten(0, 1), batch.target[:, 1:].flatten()))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert not model.decoder.layers[0].cross_attention.output.weight.any()


@pytest.mark.parametrize("change", [without, pruned])
@pytest.mark.parametrize(
    ("head", "message"),
    [
        (("self", 0, 0), r"\('self', 0, 0\): the kind must be one of encoder, decoder, cross"),
        (("cross", 2, 0), r"\('cross', 2, 0\): the layer must be from 0 to 1"),
        (("cross", -1, 0), r"\('cross', -1, 0\): the layer must be from 0 to 1"),
        (("decoder", 1, 4), r"\('decoder', 1, 4\): the head must be from 0 to 3"),
        (("encoder", 1, -1), r"\('encoder', 1, -1\): the head must be from 0 to 3"),
    ],
)
def test_a_head_that_is_not_there_is_named(change, head, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(tiny(), ("encoder", 0, 0), head)


def test_only_a_transformer_has_heads(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the shapes are not checked, which would refuse it, too."""
    for name in ("_attentions", "_gate_slopes"):
        monkeypatch.setattr(heads_module, name, inspect.unwrap(getattr(heads_module, name)))
    other = RecurrentTranslator(RecurrentConfig(20, d_model=16))
    calls = [(attention_heads, ()), (without, ()), (pruned, ())]
    calls += [(head_importance, ([batch],)), (sentence_maps, ([batch],))]
    for call, rest in calls:
        with pytest.raises(TypeError, match="which has heads, not RecurrentTranslator"):
            list(inspect.unwrap(call)(other, *rest))


def test_maps_are_those_of_each_sentence_alone(model: Transformer, batch: Batch) -> None:
    for together, source, target in zip(sentence_maps(model, [batch]), *batch, strict=True):
        source, target = source[source > 0], target[target > 0]
        alone = model.attention_maps(source[None], target[None, :-1])
        for kind, maps in alone.items():
            torch.testing.assert_close(together[kind], maps[0])


def test_confidence_and_offsets_by_hand() -> None:
    one = torch.tensor([[[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.9, 0.1]]]])  # (1, 1, 3, 3)
    two = torch.tensor([[[[1.0]]]])
    maps = [{"encoder": one}, {"encoder": two}]
    head = ("encoder", 0, 0)
    assert head_confidence(maps)[head] == pytest.approx((0.5 + 1 + 0.9 + 1) / 4)
    assert offset_share(maps, 0)[head] == pytest.approx((0.5 + 0 + 0.1 + 1) / 4)
    assert offset_share(maps, -1)[head] == pytest.approx((1 + 0.9) / 2)
    assert offset_share(maps, 1)[head] == pytest.approx(0.5 / 2)
    assert offset_share(maps, 9)[head] == 0
    assert positional_heads(maps) == {head: -1}
    assert positional_heads(maps, threshold=0.96) == {}
    assert positional_heads(maps, reach=0) == {}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_importance_is_the_slope_of_each_sentence(smoothing: float) -> None:
    """Against differences, sentence by sentence: a gate is a factor on W^O's columns."""
    model = tiny()
    singles = [Batch(torch.tensor([s]), torch.tensor([t])) for s, t in EXAMPLES]

    def loss(model: Transformer, one: Batch) -> float:
        out = logits(model, one).flatten(0, 1)
        wanted = one.target[:, 1:].flatten()
        return F.cross_entropy(out, wanted, label_smoothing=smoothing, reduction="sum").item()

    def scaled(head: tuple[str, int, int], factor: float) -> Transformer:
        other, (kind, layer, number) = copy.deepcopy(model), head
        block = (other.encoder if kind == "encoder" else other.decoder).layers[layer]
        attention = block.cross_attention if kind == "cross" else block.self_attention
        attention.output.weight.data[:, 4 * number : 4 * number + 4] *= factor
        return other

    importance = head_importance(model, token_batches(EXAMPLES, 14), smoothing=smoothing)
    assert list(importance) == attention_heads(model)
    tokens = sum(len(target) - 1 for _, target in EXAMPLES)
    for head in attention_heads(model)[::5]:
        up, down = scaled(head, 1 + 1e-5), scaled(head, 1 - 1e-5)
        pulls = [abs(loss(up, one) - loss(down, one)) / 2e-5 for one in singles]
        assert importance[head] == pytest.approx(sum(pulls) / tokens, rel=1e-5)


def test_importance_leaves_nothing_behind(batch: Batch) -> None:
    model = tiny()
    before = logits(model, batch)
    with torch.no_grad():
        first = head_importance(model, [batch])
    assert first == head_importance(model, iter([batch]))
    assert torch.equal(logits(model, batch), before)
    assert all(weight.grad is None for weight in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_importance_of_a_pruned_model_knows_its_heads(batch: Batch) -> None:
    model = pruned(tiny(), ("encoder", 0, 0), *[("cross", 1, head) for head in range(4)])
    importance = head_importance(model, [batch])
    assert list(importance) == attention_heads(model)
    assert importance["cross", 1, 0] == 0  # the stand-in


def test_words_of_pieces() -> None:
    assert word_numbers(["ein", " H", "und", " ", "Ä", " ."]) == [0, 1, 1, 2, 2, 3]
    assert word_numbers([]) == []
    weights = torch.rand(2, 3, 5, 5).softmax(-1)
    words = word_weights(weights, [0, 1, 1, 1], [0, 0, 1, 2])  # an end on each side
    assert words.shape == (2, 3, 2, 3)
    torch.testing.assert_close(words[..., 1, 0], weights[..., 1:4, :2].sum(-1).mean(-1))
    torch.testing.assert_close(words[..., 0, 2], weights[..., 0, 3])


class TestAlignment:
    texts = ["der Hund sieht die Katze .", "the dog sees the cat ."]

    @pytest.fixture
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.train(self.texts * 2, 270)

    @pytest.fixture
    def model(self, tokenizer: Tokenizer) -> Transformer:
        torch.manual_seed(0)
        model = Transformer(TransformerConfig.tiny(len(tokenizer), d_model=16, d_ff=24)).eval()
        for weight in model.parameters():  # or all would look everywhere
            torch.nn.init.normal_(weight)
        return model

    def test_one_word_for_each(self, model: Transformer, tokenizer: Tokenizer) -> None:
        german, english = self.texts
        found = word_alignment(model, tokenizer, english, german)
        assert len(found) == 6 and set(found) <= set(range(6))
        last = [("cross", 1, head) for head in range(4)]
        assert found == word_alignment(model, tokenizer, english, german, *last)
        assert found == word_alignment(model, tokenizer, f"  {english}", german.replace(" ", "  "))

    def test_it_is_the_word_with_most_weight(self, model: Transformer, tokenizer: Tokenizer) -> None:
        """Against sums, piece by piece."""
        german, english = self.texts
        [(source, target)] = tokenizer.examples([(english, german)])
        maps = model.attention_maps(torch.tensor([source]), torch.tensor([target[:-1]]))["cross"][0]
        asked, said = (word_numbers(tokenizer.pieces(tokenizer.encode(text))) for text in (german, english))
        answers = []
        for some in ([], [("cross", 0, 1)], [("cross", 1, 0), ("cross", 0, 1)]):
            sums = torch.zeros(6, 6)
            for _, layer, head in some or [("cross", 1, head) for head in range(4)]:
                for query, word in enumerate(asked):
                    for key, other in enumerate(said):
                        sums[word, other] += maps[layer, head, query, key]
            answers.append(word_alignment(model, tokenizer, english, german, *some))
            assert answers[-1] == sums.argmax(1).tolist()
        assert answers[0] != answers[1]  # or the test would be too easy

    def test_what_it_refuses(self, model: Transformer, tokenizer: Tokenizer) -> None:
        for head in (("encoder", 0, 0), ("cross", 0, 4)):
            with pytest.raises(ValueError, match="is no head of the cross-attention"):
                word_alignment(model, tokenizer, "a", "b", head)
        for pair in (("", "b"), ("a", " ")):
            with pytest.raises(ValueError, match="a word each"):
                word_alignment(model, tokenizer, *pair)
