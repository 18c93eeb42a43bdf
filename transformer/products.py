"""Products with matrices, by the faster of PyTorch's libraries.

Chapter: Two libraries for one product
Exported from chapters/96_products.md; edit it there, not here.
"""

import math
import platform
import re
from collections.abc import Callable, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import flop_registry, register_flop_formula

__all__ = [
    "HAS_BOTH",
    "Linear",
    "MKL_IS_SLOW_WITH_FEW",
    "MKL_IS_SLOW_WITH_MANY",
    "MKL_IS_SLOW_WITH_ONE",
    "by_onednn",
    "fixed_linear",
    "linear",
    "slow_by_mkl",
    "weight_gradient",
]


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b from oneDNN, without gradients.

    Shapes (…, d_in), (d_out, d_in) and (d_out,) give (…, d_out).
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


HAS_BOTH = (  # libraries, and a way to ask oneDNN
    torch.backends.mkl.is_available()
    and torch.backends.mkldnn.is_available()
    and all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))
)


def _family_by_amd() -> int:
    """The generation of a processor by AMD, of any other 0."""
    about = Path("/proc/cpuinfo")  # Linux only
    words = about.read_text(encoding="utf-8") if about.exists() else platform.processor()
    family = re.search(r"family\s*:?\s*(\d+)", words, re.IGNORECASE)
    return int(family[1]) if family and "AuthenticAMD" in words else 0


_FAMILY = _family_by_amd()
_SIXTEEN = torch.backends.cpu.get_cpu_capability() == "AVX512"  # numbers at once
MKL_IS_SLOW_WITH_MANY = HAS_BOTH and _FAMILY >= 26  # rows: a model that learns
MKL_IS_SLOW_WITH_FEW = HAS_BOTH and _FAMILY > 0  # rows: a model that writes side by side
MKL_IS_SLOW_WITH_ONE = MKL_IS_SLOW_WITH_FEW and _SIXTEEN  # row: a model that writes a sentence


def slow_by_mkl(factor: Tensor, rows: Literal["one", "few", "many"]) -> bool:
    """Whether so many rows had better be multiplied with this by another than MKL."""
    slow = {"one": MKL_IS_SLOW_WITH_ONE, "few": MKL_IS_SLOW_WITH_FEW, "many": MKL_IS_SLOW_WITH_MANY}
    return slow[rows] and factor.device.type == "cpu" and factor.dtype == torch.float32


def _goes_to_onednn(x: Tensor, other: Tensor, d_out: int) -> bool:
    """Whether oneDNN can be asked, and answers earlier although it begins later."""
    enough = 2**23 if torch.is_grad_enabled() else 2**21  # gradients take some Python of ours
    return (
        slow_by_mkl(x, "many")
        and x.dtype == other.dtype
        and x.numel() >= 4 * x.shape[-1]  # rows
        and x.numel() * d_out >= enough
        and not torch.is_autocast_enabled("cpu")
    )


_BLOCK = 512  # rows


def _filled_up(x: Tensor) -> Tensor:
    """x with rows of zeros behind it, so that their number is one of eleven."""
    rows = len(x)
    step = 4 if rows <= 8 else 8 if rows <= 32 else 32 if rows <= 128 else 128
    return F.pad(x, (0, 0, 0, -rows % step)) if rows % step else x


def _in_blocks(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`by_onednn` of the rows of x, asked in few shapes."""
    if len(x) <= _BLOCK:
        return by_onednn(_filled_up(x), weight, bias)[: len(x)]
    product = x.new_empty(len(x), len(weight))
    for some, place in zip(x.split(_BLOCK), product.split(_BLOCK), strict=True):
        place.copy_(by_onednn(_filled_up(some), weight, bias)[: len(some)])
    return product


def _tell_the_counter(formula: Callable[..., int]) -> Callable[..., int]:
    """Let it count `by_onednn` by this formula, unless it has one."""
    if HAS_BOTH and torch.ops.mkldnn._linear_pointwise not in flop_registry:
        register_flop_formula(torch.ops.mkldnn._linear_pointwise)(formula)
    return formula


@_tell_the_counter
def _operations(x: Sequence[int], weight: Sequence[int], *rest: Any, **named: Any) -> int:
    return 2 * math.prod(x) * weight[0]  # of the shapes of x and of the weight


def weight_gradient(
    above: Float[Tensor, "rows d_out"], x: Float[Tensor, "rows d_in"]
) -> Float[Tensor, "d_out d_in"]:
    """Gᵀ X, the gradient of W in x Wᵀ where G is that of the product."""
    if not _goes_to_onednn(x, above, above.shape[1]):
        return above.T @ x
    blocks = zip(above.split(_BLOCK), x.split(_BLOCK), strict=True)
    products = (by_onednn(_filled_up(their).T, _filled_up(some).T) for their, some in blocks)
    return reduce(Tensor.add_, products)


class _ByOneDNN(torch.autograd.Function):
    """x Wᵀ + b with gradients, all of them by oneDNN."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _in_blocks(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)

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
            _in_blocks(rows, weight.T).view_as(x) if for_x else None,
            weight_gradient(rows, x.reshape(-1, x.shape[-1])) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )


def linear(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, " d_out"] | None = None,
) -> Float[Tensor, "*batch d_out"]:
    """x Wᵀ + b like `F.linear`, up to rounding, by the faster of PyTorch's libraries.

    Gradients can be taken once, not of gradients, where oneDNN is asked: for large products in
    float32, on a processor with which MKL is slow.
    """
    if not _goes_to_onednn(x, weight, len(weight)):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        return _ByOneDNN.apply(x, weight, bias)
    return _ByOneDNN.forward(x, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear`, computed by `linear`, except where a compiler chooses the library."""

    def forward(self, input: Tensor) -> Tensor:
        """x Wᵀ + b."""
        if torch.compiler.is_compiling():
            return super().forward(input)
        return linear(input, self.weight, self.bias)


def fixed_linear(
    weight: Float[Tensor, "d_out d_in"], bias: Float[Tensor, " d_out"] | None = None
) -> Callable[[Tensor], Tensor]:
    """x ↦ x Wᵀ + b like `linear`, for many x of a few rows each, without gradients.

    A large weight in float32 is copied, on a processor by AMD, in the order that oneDNN reads best.
    """
    if not slow_by_mkl(weight, "few"):
        return partial(F.linear, weight=weight, bias=bias)
    if weight.numel() < (2**17 if _SIXTEEN else 2**20):
        return lambda x: linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return lambda x: _in_blocks(x, packed, bias) if x.dtype == weight.dtype else linear(x, weight, bias)
