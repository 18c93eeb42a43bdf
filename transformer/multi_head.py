"""Multi-head attention.

Chapter: Many heads
Exported from chapters/04_heads.md; edit it there, not here.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer.attention import fused_attention, scaled_dot_product_attention

__all__ = ["CachedAttention", "FewRows", "MultiHeadAttention", "merge_heads", "split_heads"]


def split_heads(
    x: Float[Tensor, "batch length width"], num_heads: int
) -> Float[Tensor, "batch heads length d_head"]:
    """Cut the last axis into `num_heads` equal pieces, and move these before the length."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(
    x: Float[Tensor, "batch heads length d_head"],
) -> Float[Tensor, "batch length width"]:
    """Undo `split_heads`: lay the heads side by side again."""
    return x.transpose(1, 2).flatten(-2)


def _head_width(d_model: int, num_heads: int, given: int | None) -> int:
    """The given width of a head, or else an equal share of `d_model`."""
    if given is None and d_model % num_heads:
        raise ValueError(f"d_model={d_model} does not divide into num_heads={num_heads}; give d_k and d_v")
    return d_model // num_heads if given is None else given


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
        self.query = nn.Linear(d_model, num_heads * _head_width(d_model, num_heads, d_k), bias)
        self.key = nn.Linear(d_model, self.query.out_features, bias)
        self.value = nn.Linear(d_model, num_heads * _head_width(d_model, num_heads, d_v), bias)
        self.output = nn.Linear(self.value.out_features, d_model, bias)

    def forward(
        self,
        query: Float[Tensor, "batch queries d_model"],
        key: Float[Tensor, "batch keys d_model"],
        value: Float[Tensor, "batch keys d_model"],
        mask: Bool[Tensor, "#batch #heads #queries #keys"] | Bool[Tensor, "#queries #keys"] | None = None,
        *,
        need_weights: bool = False,
    ) -> tuple[Float[Tensor, "batch queries d_model"], Float[Tensor, "batch heads queries keys"] | None]:
        """Attend from `query` to `key` and `value`; True in `mask` means "may attend".

        Returns the output, and every head's weights if `need_weights` (else None, and faster).
        A query that may attend to nothing gets zeros from each head.
        """
        q = split_heads(self.query(query), self.num_heads)  # (batch, heads, queries, d_k)
        k = split_heads(self.key(key), self.num_heads)  # (batch, heads, keys, d_k)
        v = split_heads(self.value(value), self.num_heads)  # (batch, heads, keys, d_v)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            heads, weights = scaled_dot_product_attention(q, k, v, mask, dropout=dropout)
        else:
            heads, weights = fused_attention(q, k, v, mask, dropout=dropout), None
        return self.output(merge_heads(heads)), weights


def _append(kept: Tensor, length: int, new: Tensor) -> Tensor:
    """Write `new` behind the first `length` keys, in twice the room if there is too little."""
    end = length + new.shape[2]
    if end > kept.shape[2]:
        room = kept.new_empty(*kept.shape[:2], 2 * end, kept.shape[3])
        room[:, :, :length] = kept[:, :, :length]
        kept = room
    kept[:, :, length:end] = new
    return kept


class FewRows:
    """x Wᵀ + b for a few x at a time, by one linear layer or by several side by side."""

    def __init__(self, *layers: tuple[Tensor, Tensor | None]):
        weights, biases = zip(*layers, strict=True)
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        self.weight = weight.detach()  # (widths, d_model)
        self.bias = None if biases[0] is None else torch.cat(biases).detach()
        self.by_column = False

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch widths"]:
        """What the layers make of x, side by side."""
        if not self.by_column and x.numel() > 2 * x.shape[-1]:
            self.weight, self.by_column = self.weight.T.contiguous().T, True
        return F.linear(x, self.weight, self.bias)


class CachedAttention:
    """A MultiHeadAttention that is asked step by step and keeps keys and values.

    `seen` is there from the beginning, perhaps of length 0; if it `grows`, every word that
    asks is added to it first. To be asked where no gradients are recorded.
    """

    @torch.no_grad()
    def __init__(
        self,
        attention: MultiHeadAttention,
        seen: Float[Tensor, "batch seen d_model"],
        *,
        grows: bool,
    ):
        parts = [attention.query, attention.key, attention.value]
        self.num_heads, self.length = attention.num_heads, seen.shape[1]
        kept = (split_heads(part(seen), self.num_heads) for part in parts[1:])
        self.keys, self.values = (part.contiguous() for part in kept)  # (batch, heads, room, d_head)
        asked = parts if grows else parts[:1]
        self._project = FewRows(*((part.weight, part.bias) for part in asked))
        self._widths = [part.out_features for part in asked]
        self._output = FewRows((attention.output.weight, attention.output.bias))

    def __call__(
        self,
        x: Float[Tensor, "batch new d_model"],
        mask: Bool[Tensor, "#batch #heads #new #seen"] | None = None,
    ) -> Float[Tensor, "batch new d_model"]:
        """What the new words are told; True in `mask` means "may attend"."""
        shape = *x.shape[:2], self.num_heads, -1
        parts = self._project(x).split_with_sizes(self._widths, -1)
        query, *added = (part.view(shape).transpose(1, 2) for part in parts)
        if added:  # a key and a value of each word, (batch, heads, new, d_head)
            self.keys = _append(self.keys, self.length, added[0])
            self.values = _append(self.values, self.length, added[1])
            self.length += x.shape[1]
        keys, values = self.keys[:, :, : self.length], self.values[:, :, : self.length]
        return self._output(merge_heads(fused_attention(query, keys, values, mask)))

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these rows of the batch, in this order; one may be kept several times."""
        self.keys, self.values = self.keys[rows], self.values[rows]
