"""Scores, intervals and averaged weights, as an engineer uses them."""

import builtins
import copy
import math

import pytest
import torch

from transformer import (
    Tokenizer,
    Transformer,
    TransformerConfig,
    average_models,
    average_weights,
    batch_loss,
    bleu,
    bootstrap_interval,
    exact_match,
    mean_surprise,
    seed_interval,
    token_batches,
)

WANTED = ["die Katze sieht den alten Hund .", "der Hund sieht die Katze nicht .", "das ist ein Haus ."]
SAID = ["die Katze sieht den alte Hund .", "der Hund sieht die Katze nicht .", "das ist das haus ."]


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(TransformerConfig.tiny(300, d_model=16, d_ff=32, num_layers=1)).eval()


def test_bleu_is_sacrebleus_own_number():
    sacrebleu = pytest.importorskip("sacrebleu")
    assert bleu(SAID, WANTED).score == pytest.approx(sacrebleu.corpus_bleu(SAID, [WANTED]).score)
    lower = sacrebleu.corpus_bleu(SAID, [WANTED], lowercase=True, tokenize="none", force=True).score
    assert bleu(SAID, WANTED, lowercase=True, tokenize="none").score == pytest.approx(lower)
    assert bleu(WANTED, WANTED).score == pytest.approx(100)


def test_bleu_prints_its_signature():
    score = bleu(SAID, WANTED, lowercase=True)
    assert "case:lc" in score.signature and "tok:13a" in score.signature
    assert str(score) == f"BLEU {score.score:.1f}  {score.signature}"


def test_bleu_takes_tuples_and_not_the_references_for_the_translations():
    assert bleu(tuple(SAID), tuple(WANTED)) == bleu(SAID, WANTED)
    short = [" ".join(text.split()[:4]) for text in WANTED]  # 12 words of 19, all of them right
    assert bleu(short, WANTED).score == pytest.approx(100 * math.exp(1 - 19 / 12))
    assert bleu(WANTED, short).score != pytest.approx(bleu(short, WANTED).score)


def test_bleu_without_sacrebleu_says_what_to_install(monkeypatch):
    imported = builtins.__import__

    def missing(name, *rest):
        if name.startswith("sacrebleu"):
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="pip install sacrebleu"):
        bleu(SAID, WANTED)


@pytest.mark.parametrize("score", [bleu, exact_match])
@pytest.mark.parametrize(("said", "wanted"), [(SAID[:2], WANTED), (SAID, WANTED[:1]), ([], [])])
def test_lists_of_different_lengths_are_refused(score, said, wanted):
    with pytest.raises(ValueError, match=f"{len(said)} translations for {len(wanted)} references"):
        score(said, wanted)


def test_exact_match_counts_whole_sentences():
    assert exact_match(SAID, WANTED) == pytest.approx(1 / 3)
    assert exact_match(WANTED, WANTED) == 1
    assert exact_match([text + " " for text in WANTED], WANTED) == 0


def test_bootstrap_interval_repeats_itself_and_holds_the_mean():
    values = [1.0] * 70 + [0.0] * 30
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert low < 0.7 < high and high - low == pytest.approx(2 * 1.96 * math.sqrt(0.21 / 100), rel=0.15)
    narrow = bootstrap_interval(values, confidence=0.5)
    assert low < narrow[0] < 0.7 < narrow[1] < high
    real = [i**0.5 for i in range(100)]
    assert bootstrap_interval(real, seed=1) != bootstrap_interval(real)
    assert bootstrap_interval(real, samples=10) != bootstrap_interval(real)


def test_bootstrap_interval_does_not_touch_the_global_randomness():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    bootstrap_interval([0.0, 1.0])
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_interval_is_students():
    mean, half = seed_interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert seed_interval([5.0, 5.0]) == (5, 0)
    for runs in ([1.0], [1.0] * 11):
        with pytest.raises(ValueError, match="from 2 to 10 runs"):
            seed_interval(runs)


def test_the_average_is_a_new_model_half_way(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(2)
    before = copy.deepcopy(model.state_dict())
    mean = average_models([model, other])
    for name, weight in mean.state_dict().items():
        torch.testing.assert_close(weight, before[name] + 1)
        assert torch.equal(model.state_dict()[name], before[name])
    assert not mean.training


def test_averaged_weights_keep_their_types():
    states = [
        {"w": torch.full((2,), value), "steps": torch.tensor(step)} for value, step in ((1.0, 3), (4.0, 8))
    ]
    mean = average_weights(states)
    assert mean["w"].tolist() == [2.5, 2.5] and mean["w"].dtype == torch.float32
    assert mean["steps"].item() == 8 and mean["steps"].dtype == torch.int64


@pytest.mark.parametrize(
    "states",
    [[], [{"w": torch.zeros(2)}, {"v": torch.zeros(2)}], [{"w": torch.zeros(2)}, {"w": torch.zeros(3)}]],
)
def test_weights_of_different_models_are_refused(states):
    with pytest.raises(ValueError, match="weights of one model"):
        average_weights(states)


def test_mean_surprise_counts_tokens_and_not_batches(model):
    texts = ["a b", "a bb ccc dddd eeeee ffffff", "b", "c c c c"]
    examples = Tokenizer.train(texts, 262).examples([(text, text) for text in texts])
    for smoothing in (0.0, 0.1):
        total = count = 0
        for batch in token_batches(examples, 1000):
            for source, target in zip(*batch, strict=True):  # one sentence alone, without its padding
                single = type(batch)(source[source > 0][None], target[target > 0][None])
                tokens = single.target.shape[1] - 1
                total += tokens * batch_loss(model, single, smoothing=smoothing).item()
                count += tokens
        for max_tokens in (40, 1000):
            surprise = mean_surprise(model, examples, max_tokens=max_tokens, smoothing=smoothing)
            assert surprise == pytest.approx(total / count, rel=1e-5)
