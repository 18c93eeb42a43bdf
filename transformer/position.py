"""Sinusoidal and learned positional encodings.

Chapter: Position
Exported from chapters/06_position.md; edit it there, not here.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["LearnedPositions", "SinusoidalPositions", "sinusoidal_encoding"]


def sinusoidal_encoding(length: int, d_model: int, *, start: int = 0) -> Float[Tensor, "length d_model"]:
    """Positions start … start + length - 1 as sines (even columns) and cosines (odd columns), Sec. 3.5.

    Column pair 2i, 2i+1 turns with wavelength 2π · 10000^(2i / d_model). Raises ValueError if d_model is odd.
    """
    if d_model % 2:
        raise ValueError(f"d_model must be even, because sines and cosines come in pairs; it is {d_model}")
    position = torch.arange(start, start + length, dtype=torch.float64)[:, None]  # (length, 1)
    exponent = torch.arange(0, d_model, 2, dtype=torch.float64) / d_model  # (d_model/2,)
    angle = position * 10000.0**-exponent  # (length, d_model/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2).float()  # (length, d_model)


class SinusoidalPositions(nn.Module):
    """Adds the sinusoidal encoding to embeddings. Nothing is learned; any length will do."""

    table: Tensor

    def __init__(self, d_model: int):
        super().__init__()
        self.register_buffer("table", sinusoidal_encoding(512, d_model), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch length d_model"], start: int = 0
    ) -> Float[Tensor, "batch length d_model"]:
        """Add positions start, start + 1, … to the rows of x."""
        end = start + x.shape[1]
        if end > len(self.table):  # grow in powers of two, so that decoding word by word rarely does
            self.table = sinusoidal_encoding(2 ** (end - 1).bit_length(), x.shape[2]).to(self.table)
        return x + self.table[start:end]


class LearnedPositions(nn.Module):
    """Adds one learned vector per position, up to `max_length` of them."""

    def __init__(self, max_length: int, d_model: int):
        super().__init__()
        self.table = nn.Parameter(torch.randn(max_length, d_model) / math.sqrt(d_model))

    def forward(
        self, x: Float[Tensor, "batch length d_model"], start: int = 0
    ) -> Float[Tensor, "batch length d_model"]:
        """Add positions start, start + 1, … to the rows of x; ValueError beyond `max_length`."""
        end = start + x.shape[1]
        if end > len(self.table):
            raise ValueError(
                f"position {end - 1} was never learned: this table holds {len(self.table)} positions"
            )
        return x + self.table[start:end]
