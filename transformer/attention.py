"""Scaled dot-product attention, readable and fused.

Chapter: Scaled dot-product attention
Exported from chapters/03_attention.md; edit it there, not here.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["fused_attention", "scaled_dot_product_attention"]


def _must_be_boolean(mask: Tensor | None) -> None:
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean, True for 'may attend', not {mask.dtype}")


def scaled_dot_product_attention(
    query: Float[Tensor, "*batch queries d_k"],
    key: Float[Tensor, "*batch keys d_k"],
    value: Float[Tensor, "*batch keys d_v"],
    mask: Bool[Tensor, "*#batch #queries #keys"] | None = None,
    *,
    dropout: float = 0.0,
) -> tuple[Float[Tensor, "*batch queries d_v"], Float[Tensor, "*batch queries keys"]]:
    """Attention(Q, K, V) = softmax(Q Kᵀ / √d_k) V, Eq. 1 of Vaswani et al. (2017), the readable way.

    In `mask`, True means "may attend"; a query that may attend to nothing gets zeros.
    `dropout` is the share of weights that are set to zero, always: pass 0 when not training.
    Returns the output and the weights. Raises TypeError for a mask of numbers.
    """
    _must_be_boolean(mask)
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (*batch, queries, keys)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, dim=-1)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)  # a row of -inf alone became NaN: now it is zeros
    weights = F.dropout(weights, dropout)
    return weights @ value, weights


def fused_attention(
    query: Float[Tensor, "*batch queries d_k"],
    key: Float[Tensor, "*batch keys d_k"],
    value: Float[Tensor, "*batch keys d_v"],
    mask: Bool[Tensor, "*#batch #queries #keys"] | None = None,
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "*batch queries d_v"]:
    """What `scaled_dot_product_attention` returns first, from PyTorch's fused kernel: no weights are kept.

    `dropout` as there, too: pass 0 when not training. Raises TypeError for a mask of numbers.
    """
    _must_be_boolean(mask)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
