"""Products with matrices, by the faster of PyTorch's libraries.

Chapter: Two libraries for one product
Exported from chapters/96_products.md; edit it there, not here.
"""

import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import flop_registry, register_flop_formula

__all__ = ["Linear", "MKL_IS_SLOW", "by_onednn", "linear"]


def by_onednn(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, " d_out"] | None,
) -> Float[Tensor, "*batch d_out"]:
    """x Wᵀ + b from oneDNN, without gradients."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _made_by_amd() -> bool:
    """Whether the processor says so."""
    about = Path("/proc/cpuinfo")  # Linux only
    words = about.read_text(encoding="utf-8") if about.exists() else platform.processor()
    return "AuthenticAMD" in words


MKL_IS_SLOW = (
    torch.backends.mkl.is_available()
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and _made_by_amd()
)


def _large(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's answer comes earlier although it begins later."""
    rows = x.numel() // x.shape[-1]
    return rows >= 4 and rows * weight.numel() >= 2**19


def _tell_the_counter(formula: Callable[..., int]) -> Callable[..., int]:
    """Let it count `by_onednn` by this formula, unless it has one."""
    if MKL_IS_SLOW and torch.ops.mkldnn._linear_pointwise not in flop_registry:
        register_flop_formula(torch.ops.mkldnn._linear_pointwise)(formula)
    return formula


@_tell_the_counter
def _operations(x: Sequence[int], weight: Sequence[int], *rest: Any, **named: Any) -> int:
    return 2 * math.prod(x) * weight[0]  # of the shapes of x and of the weight


class _ByOneDNN(torch.autograd.Function):
    """`by_onednn` with gradients, which oneDNN computes as well."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return by_onednn(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = above.reshape(-1, len(weight)).contiguous()  # (rows, d_out)
        return (
            by_onednn(rows, weight.T, None).view_as(x) if for_x else None,
            by_onednn(rows.T, x.reshape(-1, x.shape[-1]).T, None) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )


def linear(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, " d_out"] | None = None,
) -> Float[Tensor, "*batch d_out"]:
    """x Wᵀ + b like `F.linear`, up to rounding, by the faster of PyTorch's libraries.

    Gradients can be taken once, not of gradients, where oneDNN is asked: for large products in
    float32, on a processor by AMD.
    """
    if (
        not MKL_IS_SLOW
        or x.device.type != "cpu"
        or not x.dtype == weight.dtype == torch.float32
        or not _large(x, weight)
        or torch.is_autocast_enabled("cpu")
    ):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        return _ByOneDNN.apply(x, weight, bias)
    return by_onednn(x, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear`, computed by `linear`, except where a compiler chooses the library."""

    def forward(self, input: Tensor) -> Tensor:
        """x Wᵀ + b."""
        if torch.compiler.is_compiling():
            return super().forward(input)
        return linear(input, self.weight, self.bias)
