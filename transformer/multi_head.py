"""Multi-head attention.

Chapter: Many heads
Exported from chapters/04_heads.md; edit it there, not here.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer.attention import fused_attention, scaled_dot_product_attention

__all__ = ["CachedAttention", "MultiHeadAttention", "merge_heads", "split_heads"]


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


def _choose(kept: Tensor, spare: Tensor | None, length: int, rows: Tensor) -> Tensor:
    """The first `length` keys of these rows, in `spare` if that has the right shape."""
    shape = (len(rows), *kept.shape[1:])
    chosen = spare if spare is not None and spare.shape == shape else kept.new_empty(shape)
    torch.index_select(kept[:, :, :length], 0, rows, out=chosen[:, :, :length])
    return chosen


def _side_by_side(layers: list[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """The weights and the bias of one layer that does the work of several."""
    weight = torch.cat([layer.weight for layer in layers])  # (widths, d_model)
    weight = weight.T.contiguous().T  # with few rows, this layout is the faster one
    has_bias = layers[0].bias is not None
    return weight, torch.cat([layer.bias for layer in layers]) if has_bias else None


class CachedAttention:
    """A MultiHeadAttention that is asked one word at a time and keeps keys and values.

    `seen` is there from the beginning, perhaps of length 0; if it `grows`, every word that
    asks is added to it first. No gradients are passed on.
    """

    @torch.no_grad()
    def __init__(
        self,
        attention: MultiHeadAttention,
        seen: Float[Tensor, "rows seen d_model"],
        *,
        grows: bool,
    ):
        parts = [attention.query, attention.key, attention.value]
        self.attention, self.length = attention, seen.shape[1]
        kept = (split_heads(part(seen), attention.num_heads) for part in parts[1:])
        self.kept = [part.contiguous() for part in kept]  # (rows, heads, room, d_head)
        self._spare: list[Tensor | None] = [None, None]
        asked = parts if grows else parts[:1]
        self._layer, self._widths = _side_by_side(asked), [part.out_features for part in asked]

    @torch.no_grad()
    def __call__(
        self,
        x: Float[Tensor, "rows d_model"],
        mask: Bool[Tensor, "#rows #heads 1 #seen"] | None = None,
    ) -> Float[Tensor, "rows d_model"]:
        """What each row's newest word is told; True in `mask` means "may attend"."""
        shape = len(x), self.attention.num_heads, 1, -1
        parts = F.linear(x, *self._layer).split(self._widths, dim=-1)
        query, *new = (part.reshape(shape) for part in parts)  # (rows, heads, 1, d_head)
        if new:
            self.kept = [_append(a, self.length, b) for a, b in zip(self.kept, new, strict=True)]
            self.length += 1
        keys, values = (kept[:, :, : self.length] for kept in self.kept)
        heads = fused_attention(query, keys, values, mask)  # (rows, heads, 1, d_v)
        return self.attention.output(heads.flatten(1))

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these rows, in this order; one may be kept several times."""
        pairs = list(zip(self.kept, self._spare, strict=True))
        self._spare = [kept for kept, _ in pairs]
        self.kept = [_choose(kept, spare, self.length, rows) for kept, spare in pairs]
