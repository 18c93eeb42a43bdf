"""Multi-head attention.

Chapter: Many heads
Exported from chapters/04_heads.md; edit it there, not here.
"""

import math
from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer.attention import fused_attention, scaled_dot_product_attention
from transformer.products import Linear, fixed_linear, slow_by_mkl

__all__ = ["FewRows", "KeyValueCache", "MultiHeadAttention", "StepAttention", "merge_heads", "split_heads"]


def split_heads(
    x: Float[Tensor, "*batch length width"], num_heads: int
) -> Float[Tensor, "*batch heads length d_head"]:
    """Cut the last axis into `num_heads` equal pieces, and move these before the length."""
    return x.unflatten(-1, (num_heads, -1)).transpose(-3, -2)


def merge_heads(
    x: Float[Tensor, "*batch heads length d_head"],
) -> Float[Tensor, "*batch length width"]:
    """Undo `split_heads`: lay the heads side by side again."""
    return x.transpose(-3, -2).flatten(-2)


def _head_width(d_model: int, num_heads: int, given: int | None) -> int:
    """The given width of a head, or else an equal share of `d_model`."""
    if given is None and d_model % num_heads:
        raise ValueError(f"d_model={d_model} does not divide into num_heads={num_heads}; give d_k and d_v")
    return d_model // num_heads if given is None else given


def _check_fit(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
    """ValueError if keys and values do not pair, or a mask does not say what its axes are."""
    if key.shape[:-1] != value.shape[:-1]:
        shapes = f"{tuple(key.shape)} and {tuple(value.shape)}"
        raise ValueError(f"each key needs its value, but their shapes are {shapes}")
    if mask is not None and mask.dim() not in (2, query.dim() + 1):
        needed = "(queries, keys) or (batch, heads, queries, keys), axes may be 1"
        raise ValueError(f"mask must be {needed}, but its shape is {tuple(mask.shape)}")


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each on its own projections of the input (Sec. 3.2.2).

    `d_k` and `d_v`, the widths of one head, are d_model / num_heads unless given.
    Raises ValueError if that is no whole number.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        d_k: int | None = None,
        d_v: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query = Linear(d_model, num_heads * _head_width(d_model, num_heads, d_k), bias)
        self.key = Linear(d_model, self.query.out_features, bias)
        self.value = Linear(d_model, num_heads * _head_width(d_model, num_heads, d_v), bias)
        self.output = Linear(self.value.out_features, d_model, bias)

    def forward(
        self,
        query: Float[Tensor, "*batch queries d_model"],
        key: Float[Tensor, "*batch keys d_model"],
        value: Float[Tensor, "*batch keys d_model"],
        mask: Bool[Tensor, "*#batch #heads #queries #keys"] | Bool[Tensor, "#queries #keys"] | None = None,
        *,
        need_weights: bool = False,
    ) -> tuple[Float[Tensor, "*batch queries d_model"], Float[Tensor, "*batch heads queries keys"] | None]:
        """Attend from `query` to `key` and `value`; True in `mask` means "may attend".

        Returns the output, and every head's weights if `need_weights` (else None, and faster).
        A query that may attend to nothing gets zeros from each head. ValueError if keys and
        values do not pair or the mask has other axes, TypeError if it is not boolean.
        """
        _check_fit(query, key, value, mask)
        q = split_heads(self.query(query), self.num_heads)  # (batch, heads, queries, d_k)
        k = split_heads(self.key(key), self.num_heads)  # (batch, heads, keys, d_k)
        v = split_heads(self.value(value), self.num_heads)  # (batch, heads, keys, d_v)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            heads, weights = scaled_dot_product_attention(q, k, v, mask, dropout=dropout)
        else:
            heads, weights = fused_attention(q, k, v, mask, dropout=dropout), None
        return self.output(merge_heads(heads)), weights


class KeyValueCache:
    """The keys and values of the words so far, with room for more.

    `rows` holds those of the first words: in each row the keys of all heads, together `key_width`
    wide, then the values. The first new word moves them, so `rows` itself stays as it is.
    """

    def __init__(self, rows: Float[Tensor, "batch seen widths"], key_width: int, num_heads: int):
        self.length = rows.shape[1]
        self._key_width, self._num_heads = key_width, num_heads
        self._keep(rows)

    def _keep(self, rows: Tensor) -> None:
        self._rows = rows  # (batch, room, widths)
        parts = rows.tensor_split([self._key_width], -1)
        self._room = [split_heads(part, self._num_heads) for part in parts]
        self._look()

    def _look(self) -> None:
        # (batch, heads, length, d_head) each
        self.keys, self.values = (part[:, :, : self.length] for part in self._room)

    def append(self, new: Float[Tensor, "batch new widths"]) -> None:
        """Write new words behind the others, in twice the room if there is too little."""
        end = self.length + new.shape[1]
        if end > self._rows.shape[1]:
            room = new.new_empty(len(new), 2 * end, new.shape[2])
            room[:, : self.length] = self._rows[:, : self.length]
            self._keep(room)
        self._rows[:, self.length : end] = new
        self.length = end
        self._look()

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these rows of the batch, in this order; one may be kept several times."""
        self._keep(self._rows[rows])


class FewRows:
    """x Wᵀ + b for a few x at a time, by one linear layer or by several side by side.

    The weights are a copy, and stay as they are now.
    """

    def __init__(self, *layers: tuple[Tensor, Tensor | None]):
        weights, biases = zip(*layers, strict=True)
        self.table = torch.cat(weights).detach().T.contiguous()  # Wᵀ, (d_model, widths)
        given = [w.new_zeros(len(w)) if b is None else b for w, b in layers]
        there = any(bias is not None for bias in biases)
        self.bias = torch.cat(given).detach() if there else None
        self._every = torch.arange(len(self.table), device=self.table.device)
        self._first = self._every[:1]
        self._looks_up = slow_by_mkl(self.table, "one")

    @cached_property
    def _multiply(self) -> Callable[[Tensor], Tensor]:
        return fixed_linear(self.table.T, self.bias)  # made ready when it is first needed

    def __call__(self, x: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows widths"]:
        """What the layers make of x, side by side."""
        if x.shape[0] != 1 or x.dtype != self.table.dtype:
            return self._multiply(x)
        if not self._looks_up:
            return F.linear(x, self.table.T, self.bias)
        found = torch.embedding_bag(  # every row of the table, weighted, from the first on
            self.table, self._every, self._first, False, 0, False, x.view(-1)
        )[0]  # (1, widths)
        return found if self.bias is None else found.add_(self.bias)


class _Absorbed:
    """The keys and values of one sentence, with the query's and the output's weights multiplied in."""

    def __init__(self, ask: FewRows, output: FewRows, cache: KeyValueCache):
        keys, values = cache.keys[0], cache.values[0]  # (heads, seen, d_head) each
        self._num_heads, _, width = keys.shape
        keys = keys / math.sqrt(width)
        asked = keys @ ask.table.T.unflatten(0, (self._num_heads, -1))  # (heads, seen, d_model)
        told = values @ output.table.unflatten(0, (self._num_heads, -1))  # (heads, seen, d_model)
        bias = None if ask.bias is None else (keys @ ask.bias.view(self._num_heads, -1, 1)).flatten()
        self._score = FewRows((asked.flatten(0, 1), bias))
        self._sum = FewRows((told.flatten(0, 1).T, output.bias))

    def tell(self, x: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows d_model"]:
        """The answers to words that ask."""
        scores = self._score(x).unflatten(1, (self._num_heads, -1))  # (rows, heads, seen)
        return self._sum(scores.softmax(-1).flatten(1))

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Nothing to do: the only sentence is kept, or nobody asks any more."""


class StepAttention:
    """A MultiHeadAttention, made ready to be asked step by step, with a cache of keys and values.

    If it `grows`, every word that asks is first added to the cache. The weights are a copy; use it
    where no gradients are recorded.
    """

    def __init__(self, attention: MultiHeadAttention, *, grows: bool):
        parts = attention.query, attention.key, attention.value, attention.output
        query, key, value, output = ((part.weight, part.bias) for part in parts)
        self._num_heads, self._grows = attention.num_heads, grows
        self._width = attention.query.out_features  # of all heads' queries, and of their keys
        self._kept = self._width + attention.value.out_features  # of their keys and values
        self._ask = FewRows(query, key, value) if grows else FewRows(query)
        self._tell = self._ask if grows else FewRows(key, value)
        self._output = FewRows(output)

    def start(
        self, seen: Float[Tensor, "batch seen d_model"], *, alone: bool = False
    ) -> "KeyValueCache | _Absorbed":
        """The cache of the words that are there from the beginning, perhaps none.

        If they are `alone` (a single sentence without padding), few, and do not grow, the cache has
        our weights absorbed.
        """
        told = self._tell(seen.flatten(0, 1))[:, -self._kept :].unflatten(0, seen.shape[:2])
        cache = KeyValueCache(told, self._width, self._num_heads)
        short = 0 < cache.length <= self._width // self._num_heads
        if alone and short and not self._grows:
            return _Absorbed(self._ask, self._output, cache)
        return cache

    def __call__(
        self,
        x: Float[Tensor, "rows d_model"],
        cache: "KeyValueCache | _Absorbed",
        mask: Bool[Tensor, "#batch #heads #new #seen"] | None = None,
    ) -> Float[Tensor, "rows d_model"]:
        """The answers to new words, equally many of each sentence; True in `mask`: "may attend".

        The rows of a sentence are neighbours.
        """
        if isinstance(cache, _Absorbed):
            return cache.tell(x)
        batch, query = cache.keys.shape[0], self._ask(x)  # (rows, widths)
        if self._grows:
            query, added = query.tensor_split([self._width], 1)
            cache.append(added.view(batch, -1, added.shape[1]))
        query = query.view(batch, -1, self._num_heads, self._width // self._num_heads)
        told = fused_attention(query.transpose(1, 2), cache.keys, cache.values, mask)
        return self._output(told.transpose(1, 2).reshape(x.shape[0], -1))
