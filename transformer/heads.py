"""What the heads do: maps, importance, pruning.

Chapter: What the heads do
Exported from chapters/15_inside.md; edit it there, not here.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from transformer.data import Batch, Tokenizer
from transformer.learning import label_smoothed_loss, teacher_forced
from transformer.model import Transformer
from transformer.multi_head import MultiHeadAttention

__all__ = [
    "Head",
    "Maps",
    "attention_heads",
    "head_confidence",
    "head_importance",
    "offset_share",
    "positional_heads",
    "pruned",
    "sentence_maps",
    "without",
    "word_alignment",
    "word_numbers",
    "word_weights",
]

Head = tuple[str, int, int]  # kind, layer, head; layer and head count from 0


def _attentions(model: Transformer) -> dict[str, list[MultiHeadAttention]]:
    """`model.attentions()`, or a word about a model that has none."""
    if not isinstance(model, Transformer):
        name = type(model).__name__
        raise TypeError(f"model must be a Transformer, which has heads, not {name}")
    return model.attentions()


def attention_heads(model: Transformer) -> list[Head]:
    """The address of every head: (kind, layer, head), kind by kind, layer by layer.

    Raises TypeError if `model` is no Transformer.
    """
    return [
        (kind, layer, head)
        for kind, each in _attentions(model).items()
        for layer, attention in enumerate(each)
        for head in range(attention.num_heads)
    ]


Maps = dict[str, Float[Tensor, "_layers _heads _queries _keys"]]


def sentence_maps(model: Transformer, batches: Iterable[Batch]) -> Iterator[Maps]:
    """Every sentence's maps, (layers, heads, queries, keys) by kind, without padding.

    A row of "decoder" and of "cross" belongs to the token that is about to be written.
    TypeError if `model` is no Transformer.
    """
    _attentions(model)  # is it one of ours?
    device, pad_id = next(model.parameters()).device, model.config.pad_id
    for batch in batches:
        source, target = (side.to(device) for side in batch)
        maps = model.attention_maps(source, target[:, :-1])
        read, written = (source != pad_id).sum(1), (target[:, 1:] != pad_id).sum(1)
        lengths = zip(read.tolist(), written.tolist(), strict=True)
        for row, (n, m) in enumerate(lengths):
            sizes = {"encoder": (n, n), "decoder": (m, m), "cross": (m, n)}
            yield {k: maps[k][row, :, :, :q, :s] for k, (q, s) in sizes.items()}


def _mean_over_queries(maps: Iterable[Maps], measure: Callable[[Tensor], Tensor]) -> dict[Head, float]:
    """Every head's mean of what `measure` says: (layers, heads, queries)."""
    sums: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    for sentence in maps:
        for kind, weights in sentence.items():
            values = measure(weights)  # (layers, heads, queries)
            sums[kind] = sums.get(kind, 0) + values.sum(-1)  # (layers, heads)
            counts[kind] += values.shape[-1]
    return {
        (kind, layer, head): mean
        for kind, each in sums.items()
        for layer, row in enumerate((each / max(counts[kind], 1)).tolist())
        for head, mean in enumerate(row)
    }


def head_confidence(maps: Iterable[Maps]) -> dict[Head, float]:
    """The mean over all queries of a head's largest weight (Voita et al. 2019)."""
    return _mean_over_queries(maps, lambda weights: weights.amax(-1))


def offset_share(maps: Iterable[Maps], offset: int) -> dict[Head, float]:
    """The mean weight on the token that is `offset` places to the right of the query.

    Queries without such a token do not count. -1 is the token before, 0 the token
    itself.
    """

    def diagonal(weights: Tensor) -> Tensor:
        return weights.diagonal(offset, dim1=-2, dim2=-1)  # (layers, heads, queries)

    return _mean_over_queries(maps, diagonal)


def positional_heads(maps: Sequence[Maps], *, threshold: float = 0.9, reach: int = 3) -> dict[Head, int]:
    """The heads that nearly always look at one offset, from -reach to reach, and it.

    `threshold` is the least mean weight there. (Voita et al. 2019 count instead how
    often it is the largest weight.)
    """
    found: dict[Head, int] = {}
    for offset in range(-reach, reach + 1):
        shares = offset_share(maps, offset)
        found |= {head: offset for head, share in shares.items() if share >= threshold}
    return found


def word_numbers(pieces: Sequence[str]) -> list[int]:
    """For each piece of a text, the number of its word: a space begins a new one."""
    begins = (int(i > 0 and piece.startswith(" ")) for i, piece in enumerate(pieces))
    return list(accumulate(begins))


def word_weights(
    weights: Float[Tensor, "*heads queries keys"],
    query_words: Sequence[int],
    key_words: Sequence[int],
) -> Float[Tensor, "*heads query_words key_words"]:
    """Weights between words: the mean over a query's pieces, the sum over a key's.

    `query_words` and `key_words` are the numbers of the pieces' words. Rows and columns
    beyond them, as of the end of a sentence, are left out.
    """

    def by_word(numbers: Sequence[int]) -> Tensor:
        there = torch.tensor(numbers, device=weights.device)
        return F.one_hot(there).to(weights.dtype)  # (pieces, words)

    some = weights[..., : len(query_words), : len(key_words)]
    asking, told = by_word(query_words), by_word(key_words)
    return (asking / asking.sum(0)).T @ some @ told


def _aligning(model: Transformer, heads: Sequence[Head]) -> Sequence[Head]:
    """These heads of the cross-attention; without any, those of its last layer."""
    cross = [head for head in attention_heads(model) if head[0] == "cross"]
    for head in heads:
        if head not in cross:
            raise ValueError(f"{head} is no head of the cross-attention")
    return heads or [head for head in cross if head[1] == cross[-1][1]]


def word_alignment(
    model: Transformer, tokenizer: Tokenizer, source: str, target: str, *heads: Head
) -> list[int]:
    """For each word of `target`, the number of the word of `source` with most weight.

    Of several heads of the cross-attention the mean counts; without any, that of the
    last layer's. Words are what spaces separate. Raises ValueError for other heads, and
    for no text.
    """
    chosen = _aligning(model, heads)
    texts = (" ".join(text.split()) for text in (source, target))
    said, asked = (tokenizer.encode(text) for text in texts)
    if not said or not asked:
        raise ValueError("source and target must have a word each")
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    batch = Batch(torch.tensor([[*said, eos]]), torch.tensor([[bos, *asked, eos]]))
    [maps] = sentence_maps(model, [batch])
    looks = torch.stack([maps["cross"][layer, head] for _, layer, head in chosen])
    words = [word_numbers(tokenizer.pieces(ids)) for ids in (asked, said)]
    return word_weights(looks.mean(0), *words).argmax(-1).tolist()


def _checked(attentions: dict[str, list[MultiHeadAttention]], head: Head) -> MultiHeadAttention:
    """The attention that a head belongs to; ValueError if there is no such head."""
    kind, layer, number = head
    if kind not in attentions:
        raise ValueError(f"{head}: the kind must be one of {', '.join(attentions)}")
    layers = attentions[kind]
    if not 0 <= layer < len(layers):
        raise ValueError(f"{head}: the layer must be from 0 to {len(layers) - 1}")
    if not 0 <= number < layers[layer].num_heads:
        most = layers[layer].num_heads - 1
        raise ValueError(f"{head}: the head must be from 0 to {most}")
    return layers[layer]


@torch.no_grad()
def without(model: Transformer, *heads: Head) -> Transformer:
    """A copy in which these heads bring back zeros.

    A head is (kind, layer, head), the kind being "encoder", "decoder" or "cross",
    counted from 0. ValueError if there is no such head, TypeError if `model` is no
    Transformer.
    """
    copied = copy.deepcopy(model)
    attentions = _attentions(copied)
    for head in heads:
        attention = _checked(attentions, head)
        columns = attention.output.weight.unflatten(1, (attention.num_heads, -1))
        columns[:, head[2]] = 0  # of (d_model, heads, d_v)
    return copied


def _with_gates(attention: MultiHeadAttention, gates: Float[Tensor, "batch heads"]) -> Any:
    """Multiply what each head brings back, sentence by sentence; returns the hook."""

    def multiply(module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        width = given[0].shape[-1] // attention.num_heads
        return (given[0] * gates.repeat_interleave(width, 1)[:, None],)

    return attention.output.register_forward_pre_hook(multiply)


def _gate_slopes(model: Transformer, batch: Batch, smoothing: float) -> tuple[dict[str, list[Tensor]], int]:
    """Each sentence's slopes, (batch, heads) by kind and layer, and how many tokens."""
    attentions = _attentions(model)
    like = next(model.parameters())
    rows = len(batch.source)
    gates = {
        kind: [torch.ones_like(like[:1, :1]).repeat(rows, a.num_heads) for a in each]
        for kind, each in attentions.items()
    }
    every = [gate.requires_grad_() for each in gates.values() for gate in each]
    with ExitStack() as hooks, torch.enable_grad():
        for kind, each in attentions.items():
            for attention, gate in zip(each, gates[kind], strict=True):
                hooks.enter_context(_with_gates(attention, gate))
        states, wanted = teacher_forced(model, batch)
        logits = model.project(states)  # (tokens, vocab)
        loss = len(wanted) * label_smoothed_loss(logits, wanted, smoothing=smoothing)
        slopes = iter(torch.autograd.grad(loss, every))
    by_kind = {kind: [next(slopes) for _ in each] for kind, each in gates.items()}
    return by_kind, len(wanted)


def head_importance(
    model: Transformer, batches: Iterable[Batch], *, smoothing: float = 0.0
) -> dict[Head, float]:
    """How strongly sentences pull at each head's gate (Michel et al. 2019, Sec. 4.1).

    The sum over sentences of `|∂L/∂gate|`, L being a sentence's loss, the sum over its
    tokens, divided by the target tokens of all sentences: nats per token. Raises
    TypeError if `model` is no Transformer. It should be in eval mode; it is asked on
    its own device.
    """
    total: Counter[Head] = Counter()
    tokens, device = 0, next(model.parameters()).device
    for batch in batches:
        there = Batch(*(side.to(device) for side in batch))
        slopes, count = _gate_slopes(model, there, smoothing)
        tokens += count
        for kind, each in slopes.items():
            for layer, slope in enumerate(each):
                for head, pull in enumerate(slope.abs().sum(0).tolist()):
                    total[kind, layer, head] += pull
    return {head: pull / max(tokens, 1) for head, pull in total.items()}


def _cut(attention: MultiHeadAttention, kept: list[int]) -> None:
    """Leave only these heads; without any, one of width 1 that brings back zero."""
    count, attention.num_heads = attention.num_heads, max(len(kept), 1)

    def rows(tensor: Tensor) -> nn.Parameter:  # (heads · width, …)
        some = tensor.unflatten(0, (count, -1))[kept].flatten(0, 1)
        return nn.Parameter(some if kept else torch.zeros_like(tensor[:1]))

    for layer in (attention.query, attention.key, attention.value):
        layer.weight = rows(layer.weight)
        layer.bias = None if layer.bias is None else rows(layer.bias)
        layer.out_features = len(layer.weight)
    columns = rows(attention.output.weight.T).T  # (d_model, heads · width)
    attention.output.weight = nn.Parameter(columns.contiguous())
    attention.output.in_features = attention.output.weight.shape[1]


@torch.no_grad()
def pruned(model: Transformer, *heads: Head) -> Transformer:
    """A smaller copy without these heads: its logits are those of `without`.

    The heads that stay are counted anew, from 0. Where none stays, one of width 1
    brings back zero. The copy's `attention_maps` need as many heads in each layer, and
    it cannot be loaded from a file, for its `config` says how many heads it had: save
    the model, and prune again. Errors are those of `without`.
    """
    copied = copy.deepcopy(model)
    attentions = _attentions(copied)
    gone: dict[MultiHeadAttention, set[int]] = {}
    for head in heads:
        gone.setdefault(_checked(attentions, head), set()).add(head[2])
    for attention, some in gone.items():
        kept = [head for head in range(attention.num_heads) if head not in some]
        _cut(attention, kept)
    return copied
