"""Embeddings, feed-forward networks, encoder and decoder layers.

Chapter: The layer
Exported from chapters/07_layer.md; edit it there, not here.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer.multi_head import MultiHeadAttention
from transformer.products import Linear

__all__ = ["AddAndNorm", "DecoderLayer", "Dropout", "EncoderLayer", "FeedForward", "TokenEmbedding"]


class TokenEmbedding(nn.Embedding):
    """One learned vector per token, multiplied by √d_model (Sec. 3.4)."""

    def __init__(self, vocab_size: int, d_model: int):
        super().__init__(vocab_size, d_model)
        nn.init.normal_(self.weight, std=d_model**-0.5)  # times √d_model: variance 1

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length d_model"]:
        """The vectors of the tokens."""
        return super().forward(tokens) * math.sqrt(self.embedding_dim)


class FeedForward(nn.Sequential):
    """FFN(x) = max(0, x W₁ + b₁) W₂ + b₂ (Eq. 2), the same at every position."""

    def __init__(self, d_model: int, d_ff: int):
        super().__init__(Linear(d_model, d_ff), nn.ReLU(), Linear(d_ff, d_model))


class Dropout(nn.Dropout):
    """`nn.Dropout`, at a fraction of its cost on a CPU.

    There 16 random bits decide about a number; p is rounded to a multiple of 2⁻¹⁶.
    """

    def forward(self, input: Tensor) -> Tensor:
        """In training, a number is 0 with probability p, or else divided by 1 - p."""
        lowest = round(self.p * 2**16)  # so many of all values
        on_cpu = input.device.type == "cpu" and not torch.compiler.is_compiling()
        if not (self.training and on_cpu and 0 < lowest < 2**16):
            return super().forward(input)
        count = input.numel()
        drawn = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = drawn.view(torch.int16)[:count].ge_(lowest - 2**15)  # (count,), 0 or 1
        scale = kept.to(input.dtype).mul_(2**16 / (2**16 - lowest))
        return input * scale.view(input.shape)


class AddAndNorm(nn.Module):
    """A residual connection: LayerNorm(x + Dropout(Sublayer(x))) (Sec. 3.1 and 5.4).

    With `norm_first`, not the paper's way, x + Dropout(Sublayer(LayerNorm(x))).
    """

    def __init__(self, d_model: int, *, dropout: float = 0.0, norm_first: bool = False):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)
        self.norm_first = norm_first

    def forward(
        self,
        x: Float[Tensor, "*batch d_model"],
        sublayer: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "*batch d_model"]:
        """Send x through the sub-layer and add it back."""
        if self.norm_first:
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each inside Add & Norm (Fig. 1, left)."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int,
        *,
        d_k: int | None = None,
        d_v: int | None = None,
        dropout: float = 0.0,
        norm_first: bool = False,
    ):
        super().__init__()
        self.self_attention = MultiHeadAttention(d_model, num_heads, d_k=d_k, d_v=d_v)
        self.feed_forward = FeedForward(d_model, d_ff)
        self.add_norm1 = AddAndNorm(d_model, dropout=dropout, norm_first=norm_first)
        self.add_norm2 = AddAndNorm(d_model, dropout=dropout, norm_first=norm_first)

    def forward(
        self,
        x: Float[Tensor, "batch source d_model"],
        mask: Bool[Tensor, "*#batch #source #source"] | None = None,
    ) -> Float[Tensor, "batch source d_model"]:
        """One step of refinement; True in `mask` means "may attend"."""
        x = self.add_norm1(x, lambda x: self.self_attention(x, x, x, mask)[0])
        return self.add_norm2(x, self.feed_forward)


class DecoderLayer(nn.Module):
    """Self-attention, attention to `memory`, feed-forward (Fig. 1, right)."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int,
        *,
        d_k: int | None = None,
        d_v: int | None = None,
        dropout: float = 0.0,
        norm_first: bool = False,
    ):
        super().__init__()
        self.self_attention = MultiHeadAttention(d_model, num_heads, d_k=d_k, d_v=d_v)
        self.cross_attention = MultiHeadAttention(d_model, num_heads, d_k=d_k, d_v=d_v)
        self.feed_forward = FeedForward(d_model, d_ff)
        self.add_norm1 = AddAndNorm(d_model, dropout=dropout, norm_first=norm_first)
        self.add_norm2 = AddAndNorm(d_model, dropout=dropout, norm_first=norm_first)
        self.add_norm3 = AddAndNorm(d_model, dropout=dropout, norm_first=norm_first)

    def forward(
        self,
        x: Float[Tensor, "batch target d_model"],
        memory: Float[Tensor, "batch source d_model"],
        mask: Bool[Tensor, "*#batch #target #target"] | None = None,
        memory_mask: Bool[Tensor, "*#batch #target #source"] | None = None,
    ) -> Float[Tensor, "batch target d_model"]:
        """`mask` is for target words, `memory_mask` for source words; True = may."""
        attend, ask = self.self_attention, self.cross_attention
        x = self.add_norm1(x, lambda x: attend(x, x, x, mask)[0])
        x = self.add_norm2(x, lambda x: ask(x, memory, memory, memory_mask)[0])
        return self.add_norm3(x, self.feed_forward)
