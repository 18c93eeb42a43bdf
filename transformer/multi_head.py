"""Multi-head attention.

Chapter: Many heads
Exported from chapters/04_heads.md; edit it there, not here.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer.attention import fused_attention, scaled_dot_product_attention

__all__ = ["KeyValueCache", "MultiHeadAttention", "merge_heads", "split_heads"]


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
        mask: Bool[Tensor, "#batch #heads #queries #seen"] | Bool[Tensor, "#queries #seen"] | None = None,
        *,
        need_weights: bool = False,
        cache: "KeyValueCache | None" = None,
    ) -> tuple[Float[Tensor, "batch queries d_model"], Float[Tensor, "batch heads queries seen"] | None]:
        """Attend from `query` to `key` and `value`; True in `mask` means "may attend".

        Returns the output, and every head's weights if `need_weights` (else None, and faster).
        A query that may attend to nothing gets zeros from each head. With a `cache`, keys and
        values are added to it, and all that it holds are seen; without, just these are.
        """
        q = split_heads(self.query(query), self.num_heads)  # (batch, heads, queries, d_k)
        k = split_heads(self.key(key), self.num_heads)  # (batch, heads, keys, d_k)
        v = split_heads(self.value(value), self.num_heads)  # (batch, heads, keys, d_v)
        if cache is not None:
            k, v = cache.extend(k, v)  # (batch, heads, seen, d_k) and (batch, heads, seen, d_v)
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


class KeyValueCache:
    """The keys and values that one attention has seen. It passes no gradients on to them."""

    def __init__(self) -> None:
        self.length = 0
        self._kept: list[Tensor] = []  # keys, values: (batch, heads, room, d_head)
        self._spare: list[Tensor] = []  # the same, to be chosen into

    def extend(
        self,
        keys: Float[Tensor, "batch heads new d_k"],
        values: Float[Tensor, "batch heads new d_v"],
    ) -> tuple[Float[Tensor, "batch heads seen d_k"], Float[Tensor, "batch heads seen d_v"]]:
        """Append keys and values, perhaps none (length 0); return all that there are now."""
        new = keys.detach(), values.detach()
        if self.length == 0:
            self._kept = [first.clone() for first in new]
        elif keys.shape[2]:
            pairs = zip(self._kept, new, strict=True)
            self._kept = [_append(kept, self.length, more) for kept, more in pairs]
        self.length += keys.shape[2]
        kept_keys, kept_values = (kept[:, :, : self.length] for kept in self._kept)
        return kept_keys, kept_values

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these rows of the batch, in this order; one may be kept several times."""
        shapes = [(len(rows), *kept.shape[1:]) for kept in self._kept]
        if [spare.shape for spare in self._spare] != shapes:
            self._spare = [self._kept[0].new_empty(shape) for shape in shapes]
        for kept, spare in zip(self._kept, self._spare, strict=True):
            seen, chosen = (x[:, :, : self.length] for x in (kept, spare))
            torch.index_select(seen, 0, rows, out=chosen)
        self._kept, self._spare = self._spare, self._kept
