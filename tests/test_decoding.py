"""Greedy and beam search: cached or not, wide or narrow, together or alone, they must say the same."""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from transformer.beam import DecodingState, PrefixState, beam_search, length_penalty, start_decoding
from transformer.config import TransformerConfig
from transformer.decoding import Codec, greedy_decode, translate
from transformer.encoder_decoder import EncoderDecoder
from transformer.model import CachedState, Transformer
from transformer.multi_head import FewRows, KeyValueCache, MultiHeadAttention, StepAttention

few = settings(max_examples=25, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
seeds = st.integers(0, 2**32 - 1)
specials = st.permutations([0, 1, 2])
PAD, BOS, EOS = 0, 1, 2


def opinionated(
    seed: int, special: Sequence[int] = (PAD, BOS, EOS), vocab_size: int = 6, **changes: Any
) -> Transformer:
    """A small model with random weights, large enough for it to prefer some tokens clearly."""
    torch.manual_seed(seed)
    names = ("pad_id", "bos_id", "eos_id")
    sizes = {"d_model": 8, "num_heads": 2, "d_ff": 12, **dict(zip(names, special, strict=True)), **changes}
    model = Transformer(TransformerConfig.tiny(vocab_size, **sizes)).double().eval()
    torch.nn.init.normal_(model.embedding.weight, std=0.7)
    return model


def sources(model: Transformer, *lengths: int) -> Tensor:
    """Random sentences of these lengths, each with its end, filled up with padding."""
    config = model.config
    words = torch.tensor([i for i in range(config.vocab_size) if i not in (config.pad_id, config.eos_id)])
    rows = torch.full((len(lengths), max(lengths)), config.pad_id)
    for row, length in zip(rows, lengths, strict=True):
        row[: length - 1] = words[torch.randint(len(words), (length - 1,))]
        row[length - 1] = config.eos_id
    return rows


class Forgetful(EncoderDecoder):
    """The same model without `start`: it must read everything anew."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.config, self.model = model.config, model

    def encode(self, source: Tensor) -> Tensor:
        return self.model.encode(source)

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        return self.model.decode(target, memory, source)

    def project(self, states: Tensor) -> Tensor:
        return self.model.project(states)


@few
@given(
    seeds, st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(1, 9),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_a_cached_attention_is_the_attention(
    seed: int, d_k: int, d_v: int, before: int, steps: int, grows: bool, bias: bool
) -> None:
    """A few words at a time, with rows chosen on the way, as if all had been there at once."""
    torch.manual_seed(seed)
    attention = MultiHeadAttention(8, 2, d_k=d_k, d_v=d_v, bias=bias).double()
    seen = torch.randn(3, before + (not grows), 8, dtype=torch.float64)
    ready = StepAttention(attention, grows=grows)
    cache = ready.start(seen)
    for _ in range(steps):
        new = int(torch.randint(1, 4, ()))
        x = torch.randn(len(seen), new, 8, dtype=torch.float64)
        if grows:
            seen = torch.cat([seen, x], 1)
        mask = torch.rand(len(seen), 1, new, seen.shape[1]) < 0.8
        expected = attention(x, seen, seen, mask)[0]
        answer = ready(x.flatten(0, 1), cache, mask)
        torch.testing.assert_close(answer.view_as(x), expected, rtol=0, atol=1e-10)
        assert not answer.requires_grad and cache.length == seen.shape[1]
        rows = torch.randint(len(seen), (int(torch.randint(1, 5, ())),))
        seen = seen[rows]
        cache.select(rows)


def test_a_cache_never_writes_into_what_it_was_given() -> None:
    seen = torch.ones(1, 4, 8)
    cache = KeyValueCache(seen[:, :2], 4, 2)
    cache.append(torch.zeros(1, 1, 8))
    assert torch.equal(seen, torch.ones(1, 4, 8)) and (cache.keys[:, :, :3].sum(), cache.length) == (8, 3)


@few
@given(
    seeds, st.integers(1, 4), st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=3)
)
def test_a_few_rows_are_a_linear_layer(seed: int, count: int, sizes: list[tuple[int, bool]]) -> None:
    """One row, which is looked up in float32, as well as several; and what was made ready stays."""
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(5, width, bias) for width, bias in sizes]
    few_rows = FewRows(*((layer.weight, layer.bias) for layer in layers))
    x = torch.randn(count, 5)
    expected = torch.cat([layer(x) for layer in layers], 1)
    for layer in layers:
        layer.weight.data.zero_()
    torch.testing.assert_close(few_rows(x), expected)


@pytest.mark.parametrize("rows", [1, 3])
def test_decoding_under_autocast(rows: int) -> None:
    """What autocast makes narrow meets weights that are not."""
    model, source = opinionated(0).float(), torch.randint(3, 6, (rows, 4))
    with torch.autocast("cpu", torch.bfloat16):
        said, searched = greedy_decode(model, source, max_length=6), beam_search(model, source, max_length=6)
    assert said.shape[0] == searched.shape[0] == rows


def test_room_is_taken_seldom() -> None:
    cache = KeyValueCache(torch.zeros(1, 0, 16), 8, 2)
    moves, place = 0, None
    for _ in range(500):
        cache.append(torch.zeros(1, 1, 16))
        moves += cache.keys.data_ptr() != place
        place = cache.keys.data_ptr()
    assert moves < 12


@few
@given(
    seeds, specials, st.booleans(), st.sampled_from(["sinusoidal", "learned"]), st.sampled_from([None, 3]),
    st.integers(1, 3), st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 6),
)  # fmt: skip
def test_the_cached_state_is_the_prefix_state(
    seed: int, special: list[int], norm_first: bool, positions: Any, d_k: int | None, num_layers: int,
    lengths: list[int], steps: int,
) -> None:  # fmt: skip
    sizes = {"norm_first": norm_first, "positions": positions, "d_k": d_k, "num_layers": num_layers}
    model = opinionated(seed, special, **sizes)
    source = sources(model, *lengths)
    plain, cached = PrefixState(model, source), start_decoding(model, source)
    assert isinstance(cached, CachedState) and isinstance(cached, DecodingState)
    rows = torch.arange(len(source))
    real = torch.tensor([i for i in range(6) if i != model.config.pad_id])
    for _ in range(steps):
        tokens = real[torch.randint(5, rows.shape)]
        expected = plain.step(tokens)
        torch.testing.assert_close(cached.step(tokens), expected, rtol=0, atol=1e-10)
        rows = torch.randint(len(rows), (int(torch.randint(1, 5, ())),))
        plain.select(rows)
        cached.select(rows)


@pytest.mark.parametrize("bend", [torch.nn.SiLU(), torch.nn.GELU(), torch.nn.ReLU()])
def test_single_words_go_through_the_layers_own_activation(bend: torch.nn.Module) -> None:
    model = opinionated(0)
    for layer in model.decoder.layers:
        layer.feed_forward[1] = bend
    source, target = sources(model, 3, 5), torch.tensor([[BOS, 3, 4, 5], [BOS, 5, 5, 3]])
    state, expected = model.frozen().start(source), model(source, target)
    for position, tokens in enumerate(target.T):
        torch.testing.assert_close(state.step(tokens), expected[:, position], rtol=0, atol=1e-10)


@few
@given(seeds, specials, st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 5))
def test_rows_of_one_sentence_share_its_keys(
    seed: int, special: list[int], lengths: list[int], steps: int
) -> None:
    """As many rows of each sentence as a beam is wide: only `seen` moves, until a sentence leaves."""
    model = opinionated(seed, special)
    source = sources(model, *lengths)
    plain, cached = PrefixState(model, source), model.start(source)
    real = torch.tensor([i for i in range(6) if i != model.config.pad_id])
    count, width = len(source), 1
    for _ in range(steps):
        tokens = real[torch.randint(5, (count * width,))]
        torch.testing.assert_close(cached.step(tokens), plain.step(tokens), rtol=0, atol=1e-10)
        assert {len(cache.keys) for cache in cached.own} == {count}
        on = torch.randperm(count)[: int(torch.randint(1, count + 1, ()))].sort().values
        parent = torch.randint(width, (len(on), int(torch.randint(1, 4, ()))))
        rows = (on[:, None] * width + parent).flatten()
        plain.select(rows)
        cached.select(rows)
        count, width = parent.shape


def test_what_was_decoded_may_be_learned_from() -> None:
    """Neither the tokens nor the model remember that they come from `inference_mode`."""
    model = opinionated(0, positions="sinusoidal")
    source = sources(model, 3, 5)
    never = torch.zeros(6).double().index_fill(0, torch.tensor([EOS]), -1e9)
    model.output_layer = lambda: (model.embedding.weight, never)  # type: ignore[method-assign]
    for search in (greedy_decode, beam_search):
        target = search(model, source, max_length=520)  # more than the table of positions holds at first
        assert not target.is_inference() and len(model.positions.table) > 520
        for learner in (model, copy.deepcopy(model)):
            learner(source, target).sum().backward()
            assert learner.embedding.weight.grad.isfinite().all()


@few
@given(seeds, st.integers(1, 9), st.integers(0, 2), st.integers(1, 4), st.booleans())
def test_a_single_sentence_short_or_long_padded_or_not(
    seed: int, length: int, padding: int, beam: int, bias: bool
) -> None:
    """Short is what has no more words than a head is wide, here four."""
    model = opinionated(seed)
    for layer in model.decoder.layers:
        for name in ("query", "key", "value", "output"):
            part = layer.cross_attention.get_submodule(name)
            part.bias = torch.nn.Parameter(torch.randn_like(part.bias)) if bias else None
    source = torch.nn.functional.pad(sources(model, length), (0, padding), value=PAD)
    greedy, found = (greedy_decode(each, source, max_length=9) for each in (model, Forgetful(model)))
    assert torch.equal(greedy, found)
    greedy, found = (beam_search(each, source, beam=beam, max_length=9) for each in (model, Forgetful(model)))
    assert torch.equal(greedy, found)
    state, plain = model.start(source), PrefixState(model, source)
    for _ in range(3):
        torch.testing.assert_close(state.step(torch.tensor([4])), plain.step(torch.tensor([4])))
    assert ("_Absorbed" in str(type(state.other[0]))) == (length <= 4 and not padding)


def tensors_in(thing: object) -> Iterator[Tensor]:
    """All that a cache keeps."""
    if isinstance(thing, Tensor):
        yield thing
    for part in thing if isinstance(thing, (list, tuple)) else getattr(thing, "__dict__", {}).values():
        yield from tensors_in(part)


def test_the_state_keeps_no_gradients() -> None:
    model = opinionated(0)
    for lengths in ((3,), (3, 5)):  # a single sentence absorbs weights
        state = model.start(sources(model, *lengths))
        assert not state.step(torch.full((len(lengths),), BOS)).requires_grad
        kept = list(tensors_in([state.own, state.other]))
        assert len(kept) > 4 and not any(tensor.requires_grad for tensor in kept)


def test_a_frozen_model_says_what_it_said_and_its_model_goes_on() -> None:
    model = opinionated(0)
    source, frozen = sources(model, 3, 5), model.frozen()
    said = greedy_decode(model, source, max_length=9)
    assert torch.equal(greedy_decode(frozen, source, max_length=9), said)
    with torch.no_grad():
        model.decoder.layers[0].cross_attention.value.weight.mul_(-3)
    changed = greedy_decode(model, source, max_length=9)
    assert torch.equal(greedy_decode(frozen, source, max_length=9), said) and not torch.equal(changed, said)
    copied = greedy_decode(copy.deepcopy(frozen), source, max_length=9)
    assert torch.equal(copied, changed)  # a copy is an ordinary model again
    assert Forgetful(model).frozen().model is model  # nothing to make ready


@few
@given(seeds, specials, st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 4))
def test_cached_and_not_together_and_alone(
    seed: int, special: list[int], lengths: list[int], beam: int
) -> None:
    model = opinionated(seed, special)
    source = sources(model, *lengths)
    greedy = greedy_decode(model, source, max_length=12)
    assert torch.equal(greedy_decode(Forgetful(model), source, max_length=12), greedy)
    assert torch.equal(beam_search(model, source, beam=1, max_length=12), greedy)
    found = beam_search(model, source, beam=beam, max_length=12)
    assert torch.equal(beam_search(Forgetful(model), source, beam=beam, max_length=12), found)
    pad, eos = model.config.pad_id, model.config.eos_id
    for search, together in ((greedy_decode, greedy), (beam_search, found)):
        extra: dict[str, Any] = {"beam": beam} if search is beam_search else {}
        for row, said in zip(source, together, strict=True):
            short = row[row != pad][None]
            alone = search(model, short, max_length=12, **extra)[0]
            assert torch.equal(said[: len(alone)], alone) and (said[len(alone) :] == pad).all()
            assert said[0] == model.config.bos_id and (alone != pad).all() and (alone[:-1] != eos).all()


def log_chances(model: Transformer, source: Tensor, beginning: Sequence[int]) -> list[float]:
    given_tokens = torch.tensor([[model.config.bos_id, *beginning]])
    with torch.no_grad():
        return model(source[None], given_tokens)[0, -1].log_softmax(-1).tolist()


def plain_beam(model: Transformer, source: Tensor, beam: int, alpha: float, limit: int) -> list[int]:
    """Beam search as one would write it down: no batch, no state, no early end."""
    alive: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    done: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, limit + 1):
        longer = []
        for total, beginning in alive:
            for token, log_p in enumerate(log_chances(model, source, beginning)):
                if token != model.config.pad_id:
                    longer.append((total + log_p, (*beginning, token)))
        kept = sorted(longer, reverse=True)[: beam - len(done)]
        penalty = ((5 + length) / 6) ** alpha
        done += [(total / penalty, y) for total, y in kept if y[-1] == model.config.eos_id]
        alive = [(total, y) for total, y in kept if y[-1] != model.config.eos_id]
    return [model.config.bos_id, *max(done or alive)[1]]


@few
@given(seeds, specials, st.integers(1, 5), st.sampled_from([0.0, 0.3, 0.6, 1.0, 2.0]), st.integers(1, 7))
def test_the_batched_search_is_the_plain_one(
    seed: int, special: list[int], beam: int, alpha: float, limit: int
) -> None:
    model = opinionated(seed, special)
    source = sources(model, 4, 2, 5)
    found = beam_search(model, source, beam=beam, alpha=alpha, max_length=limit)
    for row, said in zip(source, found, strict=True):
        expected = plain_beam(model, row[row != model.config.pad_id], beam, alpha, limit)
        assert said[said != model.config.pad_id].tolist() == expected


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_a_beam_as_wide_as_everything_finds_the_best(alpha: float) -> None:
    missed = 0
    for seed in range(8):
        model = opinionated(seed, vocab_size=5)
        [source] = sources(model, 4)
        scores: dict[tuple[int, ...], float] = {}
        waiting: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for total, beginning in waiting:  # it grows while we read it
            for token, log_p in enumerate(log_chances(model, source, beginning)):
                y = (*beginning, token)
                if token == EOS:
                    scores[y] = (total + log_p) / ((5 + len(y)) / 6) ** alpha
                elif token != PAD and len(y) < 4:
                    waiting.append((total + log_p, y))
        assert len(scores) == 1 + 3 + 9 + 27
        best = [BOS, *max(scores, key=lambda y: scores[y])]
        wide = beam_search(model, source[None], beam=120, alpha=alpha, max_length=4)
        assert wide.tolist() == [best]
        missed += beam_search(model, source[None], beam=1, alpha=alpha, max_length=4).tolist() != [best]
    assert missed > 0  # or the test would be too easy


class Puppet(EncoderDecoder):
    """Says what its script says, one row of it for each sentence, and notes how many were asked."""

    config = TransformerConfig.tiny(10)

    def __init__(self, script: list[list[int]]):
        super().__init__()
        one_hot = torch.nn.functional.one_hot(torch.tensor(script), 10)
        self.script = torch.nn.Parameter(9.0 * one_hot)
        self.asked: list[int] = []

    def encode(self, source: Tensor) -> Tensor:
        return self.script[: len(source)]

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        self.asked.append(len(target))
        return memory[:, : target.shape[1]]

    def project(self, states: Tensor) -> Tensor:
        return states


TWO = torch.tensor([[5, 6, EOS, PAD, PAD], [5, 6, 7, 8, EOS]])


def test_who_has_ended_is_not_asked_again() -> None:
    script = [[5, 6, EOS, 7, 7, 7], [5, 5, 5, 5, EOS, 7]]
    puppet = Puppet(script)
    before = puppet.script.detach().clone()
    expected = [[BOS, 5, 6, EOS, PAD, PAD], [BOS, 5, 5, 5, 5, EOS]]
    assert greedy_decode(puppet, TWO).tolist() == expected and puppet.asked == [2, 2, 2, 1, 1]
    assert beam_search(puppet, TWO, beam=3, alpha=0.0).tolist() == expected
    assert torch.equal(puppet.script, before)  # logits are changed at will, the model is not


@pytest.mark.parametrize("search", [greedy_decode, beam_search])
def test_limits(search: Any) -> None:
    endless = Puppet([[7] * 60, [7] * 60])
    extra = {"beam": 1} if search is beam_search else {}
    said = search(endless, TWO, **extra)
    assert said.shape == (2, 1 + 5 + 50) and (said == 7).sum(1).tolist() == [3 + 50, 5 + 50]
    assert search(endless, TWO, max_length=0).tolist() == [[BOS], [BOS]]
    assert search(endless, TWO[:1], max_length=3, **extra).tolist() == [[BOS, 7, 7, 7]]
    with pytest.raises(ValueError, match="max_length"):
        search(endless, TWO, max_length=-1)


def test_padding_is_never_said() -> None:
    assert (greedy_decode(Puppet([[PAD] * 5]), TWO[:1], max_length=4) != PAD).all()
    assert (beam_search(Puppet([[PAD] * 5]), TWO[:1], beam=20, max_length=4) != PAD).all()


def test_what_is_cut_off_counts_only_if_nothing_ended() -> None:
    endless = Puppet([[7] * 60])
    assert beam_search(endless, TWO[:1], beam=1, max_length=4).tolist() == [[BOS, 7, 7, 7, 7]]
    assert beam_search(endless, TWO[:1], beam=30, max_length=4)[0, -1] == EOS


def test_the_search_does_not_stop_while_there_is_hope() -> None:
    torn = Puppet([[7] * 8 + [EOS]])
    torn.script.data *= 50
    torn.script.data[0, 0, [EOS, 7]] = torch.tensor([450.1, 450.0])
    assert beam_search(torn, TWO[:1], beam=2, alpha=0.0).tolist() == [[BOS, EOS]]
    assert beam_search(torn, TWO[:1], beam=2, alpha=1.0).tolist() == [[BOS, *[7] * 8, EOS]]


@pytest.mark.parametrize("wrong", [{"beam": 0}, {"beam": -1}, {"alpha": -0.1}, {"alpha": math.nan}])
def test_arguments_that_cannot_work_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        beam_search(Puppet([[7] * 9]), TWO, **wrong)


def test_the_length_penalty() -> None:
    assert length_penalty(1, alpha=0.6) == 1 and length_penalty(7, alpha=1.0) == 2
    both = length_penalty(torch.tensor([7, 19]), alpha=0.5)
    torch.testing.assert_close(both, torch.tensor([2.0, 4.0]).sqrt())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 40])
def test_other_precisions_and_a_source_without_words(dtype: torch.dtype, length: int) -> None:
    model = opinionated(3).to(dtype)
    source = sources(model, length)
    assert greedy_decode(model, source, max_length=5)[0, 0] == BOS
    assert beam_search(model, source, beam=9, max_length=5)[0, 0] == BOS


def test_learned_positions_end_somewhere() -> None:
    model = opinionated(0, positions="learned", max_length=8)
    only_4 = torch.zeros(6, 8).double(), torch.eye(6).double()[4]  # whatever the state
    model.output_layer = lambda: only_4  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="position 8 was never learned"):
        greedy_decode(model, sources(model, 3))


class Digits:
    pad_id, eos_id = PAD, EOS

    def encode(self, text: str) -> list[int]:
        return [int(digit) for digit in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(str(i) for i in ids if i != self.pad_id)


class Echo(Puppet):
    """Says what it has heard."""

    def encode(self, source: Tensor) -> Tensor:
        return 9.0 * torch.nn.functional.one_hot(source, 10)


def test_translating_keeps_the_order_and_the_search() -> None:
    codec: Codec = Digits()
    model = opinionated(6)
    texts = ["345", "5", "", "34543", "44"]
    for beam in (1, 3):
        said = translate(Echo([[PAD]]), codec, texts, beam=beam, batch_size=2)
        assert said == [f"{BOS}{text}{EOS}" for text in texts]
        assert len(translate(Echo([[PAD]]), codec, ["345"], beam=beam, max_length=2)[0]) <= 1 + 2
    sentences, found = [torch.tensor([[*codec.encode(text), EOS]]) for text in texts], []
    for alpha in (0.0, 2.0):
        searched = [beam_search(model, one, beam=3, alpha=alpha, max_length=7)[0] for one in sentences]
        found.append(translate(model, codec, texts, beam=3, alpha=alpha, max_length=7))
        assert found[-1] == [codec.decode(row.tolist()) for row in searched]
    assert found[0] != found[1]  # or alpha would not have been tried
    assert translate(model, codec, []) == []
    with pytest.raises(ValueError, match="beam"):
        translate(model, codec, texts, beam=0)


def test_translating_pads_with_the_codecs_own_id() -> None:
    model, codec = opinionated(5, (3, BOS, EOS)), Digits()
    codec.pad_id = 3
    texts = ["45", "5", "", "45044", "44"]
    alone = [translate(model, codec, [text], max_length=7)[0] for text in texts]
    assert translate(model, codec, texts, max_length=7) == alone


def test_an_empty_batch() -> None:
    model = opinionated(0)
    nobody = torch.zeros(0, 3, dtype=torch.long)
    assert greedy_decode(model, nobody).shape == beam_search(model, nobody).shape == (0, 1)


def test_narrow_ids_are_ids() -> None:
    model, ids = opinionated(0), torch.tensor([[3, 4, 5, 2]])
    for search in (greedy_decode, beam_search):
        assert torch.equal(search(model, ids.int(), max_length=5), search(model, ids, max_length=5))


def test_what_is_no_list_of_sentences_or_no_batch_is_refused() -> None:
    with pytest.raises(TypeError, match="list"):
        translate(opinionated(0), Digits(), "345")
    with pytest.raises(ValueError, match="batch_size"):
        translate(opinionated(0), Digits(), ["3"], batch_size=0)
