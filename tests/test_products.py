"""Linear layers by the other library: equal up to rounding, wherever they are asked."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import transformer.products
from transformer.config import TransformerConfig
from transformer.data import Batch
from transformer.fused_loss import fused_loss
from transformer.learning import batch_loss
from transformer.model import Transformer
from transformer.multi_head import FewRows
from transformer.products import HAS_BOTH, Linear, fixed_linear, linear


@pytest.mark.parametrize(
    ("words", "family"),
    [
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n", 26),
        ("AMD64 Family 25 Model 33 Stepping 0, AuthenticAMD", 25),
        ("vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n", 0),
        ("", 0),
    ],
)
@pytest.mark.parametrize("on_linux", [True, False])
def test_the_generation_is_what_the_processor_says(
    words: str, family: int, on_linux: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "cpuinfo"
    if on_linux:
        about.write_text(words)
    monkeypatch.setattr(transformer.products, "Path", lambda name: about)
    monkeypatch.setattr("platform.processor", lambda: words)
    assert transformer.products._family_by_amd() == family


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where MKL is slow, wherever this is."""
    if not HAS_BOTH:
        pytest.skip("this build of PyTorch has no oneDNN")
    for slow in ("MKL_IS_SLOW_WITH_ONE", "MKL_IS_SLOW_WITH_FEW", "MKL_IS_SLOW_WITH_MANY", "_SIXTEEN"):
        monkeypatch.setattr(transformer.products, slow, True)


@pytest.fixture
def asked(onednn: None, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What oneDNN is asked from now on: the shape of x, the width of the result, the weight's layout."""
    notes, by_onednn = [], transformer.products.by_onednn

    def noting(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        notes.append((*x.shape, len(weight), weight.layout))
        return by_onednn(x, weight, bias)

    monkeypatch.setattr(transformer.products, "by_onednn", noting)
    return notes


def was_asked(product: Tensor) -> bool:
    """Whether oneDNN made this."""
    return "ByOneDNN" in str(product.grad_fn)


def layouts(x: Tensor) -> list[Tensor]:
    """The same numbers, laid out in other ways: by column, with gaps, and as a part of something larger."""
    return [x, x.mT.contiguous().mT, x.repeat_interleave(2, -1)[..., ::2], torch.cat([x, x])[: len(x)]]


LOSSES: list[Callable[[Tensor], Tensor]] = [
    lambda y: y.square().sum(),
    lambda y: y.sum(),  # its gradient is one number, repeated without being stored
    lambda y: y.transpose(-1, -2).reshape(-1)[::3].cos().sum(),
]


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_values_and_gradients_are_those_of_f_linear(bias: bool, loss: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(6, 64, 96), torch.randn(300, 96) / 10
    above = torch.randn(300) if bias else None
    for given_x, given_weight in zip(layouts(x), layouts(weight), strict=True):
        found = []
        for multiply in (linear, F.linear):
            leaves = [t.detach().requires_grad_() for t in (given_x, given_weight, above) if t is not None]
            product = multiply(*leaves)
            found.append([product, *torch.autograd.grad(loss(product), leaves)])
        assert was_asked(found[0][0])
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
        with torch.inference_mode():
            torch.testing.assert_close(linear(*leaves), found[1][0], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("onednn")
def test_only_large_products_in_float32_go_there() -> None:
    layer = Linear(512, 4096)
    assert was_asked(layer(torch.randn(4, 512)))
    assert not was_asked(layer(torch.randn(3, 512))) and not was_asked(layer(torch.randn(512)))
    assert not was_asked(Linear(64, 64)(torch.randn(100, 64)))
    assert layer(torch.randn(0, 512)).shape == (0, 4096)
    assert not was_asked(Linear(512, 4096).double()(torch.randn(4, 512).double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(4, 512)).dtype == torch.bfloat16
    on_meta = Linear(512, 4096, device="meta")(torch.empty(4, 512, device="meta"))
    assert on_meta.device.type == "meta"


def test_it_is_asked_in_few_shapes(asked: list[tuple[Any, ...]]) -> None:
    """For it keeps what it prepared for each."""
    layer = Linear(512, 1024)
    for rows in range(16, 1200, 3):
        x = torch.randn(rows, 512, requires_grad=True)
        product = layer(x)
        torch.testing.assert_close(product, F.linear(x, layer.weight, layer.bias), rtol=1e-4, atol=1e-4)
        layer.zero_grad()
        product.sum().backward()
        assert x.grad is not None and layer.weight.grad is not None
        torch.testing.assert_close(x.grad[-1], layer.weight.sum(0), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(layer.weight.grad[5], x.sum(0), rtol=1e-3, atol=1e-3)
    assert 0 < len(set(asked)) <= 3 * 11  # the product and both gradients


@pytest.mark.parametrize("bias", [True, False])
def test_a_weight_that_stays_is_laid_out_once(bias: bool, asked: list[tuple[Any, ...]]) -> None:
    """In oneDNN's own order if it is large; asked in few shapes as well; equal to `F.linear` in any case."""
    for d_in, d_out in ((512, 256), (64, 32)):
        torch.manual_seed(0)
        weight, added = torch.randn(d_out, d_in), torch.randn(d_out) if bias else None
        for laid_out in (weight, weight.T.contiguous().T):
            with torch.no_grad():
                multiply = fixed_linear(laid_out, added)
                for rows in (0, 1, 2, 3, 5, 7, 40, 513):
                    x = torch.randn(rows, d_in)
                    torch.testing.assert_close(multiply(x), F.linear(x, weight, added), rtol=1e-4, atol=1e-4)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # what it makes narrow is multiplied so
            x = torch.randn(5, d_in).bfloat16()
            assert multiply(x).dtype == torch.bfloat16
        if d_in == 512:
            assert {layout for *_, layout in asked} == {torch._mkldnn} and len(set(asked)) <= 6
            asked.clear()
    assert {layout for *_, layout in asked} <= {torch.strided}
    exact = torch.randn(5, 512, dtype=torch.float64)
    weight = torch.randn(256, 512, dtype=torch.float64)
    torch.testing.assert_close(fixed_linear(weight)(exact), F.linear(exact, weight))


def test_a_model_that_learns_and_one_that_writes_may_be_answered_differently(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an older processor by AMD: MKL is slow with few rows, and not with many."""
    monkeypatch.setattr(transformer.products, "MKL_IS_SLOW_WITH_MANY", False)
    layer, x = Linear(512, 1024), torch.randn(64, 512)
    layer(x).sum().backward()
    assert not asked
    with torch.no_grad():
        layer(x)
        assert not asked
        fixed_linear(layer.weight)(x)
    assert {layout for *_, layout in asked} == {torch._mkldnn}


def test_only_a_large_table_is_worth_a_copy_without_instructions_for_sixteen_numbers(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformer.products, "_SIXTEEN", False)
    monkeypatch.setattr(transformer.products, "MKL_IS_SLOW_WITH_MANY", False)
    x, of_a_layer, of_the_vocabulary = torch.randn(4, 256), torch.randn(1024, 256), torch.randn(8000, 256)
    fixed_linear(of_a_layer)(x)
    assert not asked
    fixed_linear(of_the_vocabulary)(x)
    assert {layout for *_, layout in asked} == {torch._mkldnn}


def test_no_row_is_looked_up_without_instructions_for_sixteen_numbers() -> None:
    asking = "import transformer.products; print(transformer.products.MKL_IS_SLOW_WITH_ONE)"
    without = os.environ | {"ATEN_CPU_CAPABILITY": "avx2"}
    said = subprocess.run([sys.executable, "-c", asking], env=without, capture_output=True, text=True)
    assert said.stdout == "False\n", said.stderr


def test_a_single_row_is_looked_up_multiplied_or_among_others(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three ways of few rows; an AMD without instructions for sixteen numbers takes the last two."""
    looked_up, look_up = [], torch.embedding_bag
    monkeypatch.setattr(torch, "embedding_bag", lambda *args: looked_up.append(1) or look_up(*args))
    layer, x = nn.Linear(512, 1024), torch.randn(5, 512)
    for slow_with_one in (True, False):
        monkeypatch.setattr(transformer.products, "MKL_IS_SLOW_WITH_ONE", slow_with_one)
        few = FewRows((layer.weight, layer.bias))
        torch.testing.assert_close(few(x[:1]), layer(x[:1]))
        assert len(looked_up) == 1 and not asked
    torch.testing.assert_close(few(x), layer(x))
    assert len(looked_up) == 1 and {layout for *_, layout in asked} == {torch._mkldnn}


def test_gradients_that_nobody_wants_are_not_computed(asked: list[tuple[Any, ...]]) -> None:
    layer, x = Linear(512, 4096), torch.randn(4, 512, requires_grad=True)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None and layer.bias.grad is not None
    assert len(asked) == 2  # for the product and the gradient of x


@pytest.mark.usefixtures("onednn")
def test_a_second_derivative_is_an_error_and_not_wrong() -> None:
    weight = torch.randn(4096, 512, requires_grad=True)
    product = linear(torch.randn(4, 512), weight)
    [first] = torch.autograd.grad(product.square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.usefixtures("onednn")
def test_the_counter_of_operations_knows_it() -> None:
    layer = Linear(512, 4096)
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(4, 512)).sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 4 * 512 * 4096  # the result, and the weight's gradient


def steps_of(sizes: TransformerConfig, loss_of: Callable[..., Tensor]) -> list[Tensor]:
    """The losses and the last weights of a short training."""
    torch.manual_seed(0)
    model = Transformer(sizes).train()
    source, target = torch.randint(3, 500, (2, 40, 20))
    target[:, 0] = 1
    adam, losses = torch.optim.Adam(model.parameters(), lr=1e-3), []
    for _ in range(3):
        loss = loss_of(model, Batch(source, target), smoothing=0.1)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.detach())
    return [*losses, *(weight.detach() for weight in model.parameters())]


@pytest.mark.parametrize("loss_of", [batch_loss, fused_loss])
def test_a_training_is_the_same_up_to_rounding_and_repeats_itself(
    loss_of: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = TransformerConfig(500, d_model=64, num_heads=2, d_ff=256, num_layers=1, dropout=0.0)
    if not HAS_BOTH:
        pytest.skip("this build of PyTorch has no oneDNN")
    monkeypatch.setattr(transformer.products, "MKL_IS_SLOW_WITH_MANY", False)
    usual = steps_of(sizes, loss_of)
    monkeypatch.setattr(transformer.products, "MKL_IS_SLOW_WITH_MANY", True)
    once, again = steps_of(sizes, loss_of), steps_of(sizes, loss_of)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(once, usual, strict=True))  # it was asked
    torch.testing.assert_close(once[:3], usual[:3], rtol=1e-4, atol=1e-4)
