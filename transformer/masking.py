"""Padding and causal masks.

Chapter: Masks: what must not be seen
Exported from chapters/05_masks.md; edit it there, not here.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["causal_mask", "padding_mask"]


def padding_mask(tokens: Int[Tensor, "batch length"], pad_id: int) -> Bool[Tensor, "batch 1 1 length"]:
    """True where a token is real, False where it only fills up the batch.

    The two axes of length 1 let one mask serve every head and every query.
    """
    return (tokens != pad_id)[:, None, None, :]


def causal_mask(length: int, *, device: torch.device | str | None = None) -> Bool[Tensor, "length length"]:
    """True where the key does not come after the query: position i sees 0 … i (Sec. 3.2.3)."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()
