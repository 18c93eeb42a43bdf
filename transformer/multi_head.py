"""Multi-head attention.

Chapter: Many heads
Exported from chapters/04_heads.md; edit it there, not here.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from transformer.attention import fused_attention, scaled_dot_product_attention

__all__ = ["MultiHeadAttention", "merge_heads", "split_heads"]


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
