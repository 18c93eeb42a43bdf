"""A linear layer by MKL and by oneDNN: billions of operations a second, in several shapes.

In float32, the weight by row, as a layer has it; with few rows of x also by column and in oneDNN's own
order, and with a single one also by a look-up. Then a layer that learns: the product and both gradients. Then
all matrices that a token of the small model needs, one after another, multiplied and looked up. All take each
round one after the other; a first round warms up. Last the memory that oneDNN keeps after many
numbers of rows, in a process of its own: asked as they come, and as the package asks. Printed are JSON rows;
--record also writes them into chapters/records/bench_products.json, beside those of other processors.

    python benchmarks/products.py [--threads 2] [--rounds 5] [--record]
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from statistics import median
from unittest import mock

import torch
import torch.nn.functional as F
from record import Run, processor, provenance
from side_by_side import Seconds, in_new_process, interleaved, options, parse, report, resident
from torch import Tensor

import transformer.products
from transformer.multi_head import FewRows
from transformer.products import HAS_BOTH, Linear, by_onednn, fixed_linear

ABOUT = "A linear layer by MKL and by oneDNN: billions of operations a second, by shape."
ROWS = (2048, 32, 4, 1)
FEW = 32  # rows at most, for the other orders
LAYERS = ((256, 1024), (1024, 256), (256, 8000), (512, 2048), (512, 2064))  # d_in, d_out
LEARNED = ((128, 128), (256, 256), (256, 1024), (1024, 256))  # the layers that learn
BATCH = 1980  # rows, from which they learn
OF_A_LAYER = ((256, 768), (256, 256), (256, 80), (80, 256), (256, 1024), (1024, 256))  # a source of 20 tokens
OF_A_TOKEN = (*OF_A_LAYER * 3, (256, 8000))
LIBRARIES = ("mkl", "onednn") if HAS_BOTH else ("mkl",)
WORK = 2**31  # operations of a turn, so that it lasts long enough to be timed


def ways(weight: Tensor, bias: Tensor | None, rows: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Who can multiply here, and in which order of the weight: x ↦ x Wᵀ + b."""
    found: dict[str, Callable[[Tensor], Tensor]] = {"mkl": lambda x: F.linear(x, weight, bias)}
    if HAS_BOTH:
        found["onednn"] = lambda x: by_onednn(x, weight, bias)
    if rows == 1:
        looking_up = FewRows((weight, bias))
        looking_up._looks_up = True
        found["looked_up"] = looking_up
    if HAS_BOTH and rows <= FEW:
        by_column = weight.T.contiguous().T
        found["by_column"] = lambda x: by_onednn(x, by_column, bias)
        with mock.patch.object(transformer.products, "MKL_IS_SLOW_WITH_FEW", True):
            found["own_order"] = fixed_linear(weight, bias)
    return found


def multiplying(multiply: Callable[[Tensor], Tensor], x: Tensor, times: int) -> Callable[[], None]:
    """The same product again and again, to be timed."""

    def run() -> None:
        with torch.inference_mode():
            for _ in range(times):
                multiply(x)

    return run


def learning(onednn: bool, rows: int, d_in: int, d_out: int, times: int) -> Callable[[], None]:
    """A layer and the gradients of x and of its weights, again and again, to be timed."""
    layer, x, above = Linear(d_in, d_out), torch.randn(rows, d_in), torch.randn(rows, d_out)
    wanted = [x.requires_grad_(), *layer.parameters()]

    def run() -> None:
        with mock.patch.object(transformer.products, "MKL_IS_SLOW_WITH_MANY", onednn):
            for _ in range(times):
                torch.autograd.grad(layer(x), wanted, above)

    return run


def runs(learned: bool, rows: int, d_in: int, d_out: int) -> dict[str, Callable[[], None]]:
    """All ways to compute a case, to be timed."""
    times = turns(rows, d_in, d_out)
    if learned:
        return {name: learning(name == "onednn", rows, d_in, d_out, times) for name in LIBRARIES}
    x, weight, bias = torch.randn(rows, d_in), torch.randn(d_out, d_in), torch.randn(d_out)
    return {name: multiplying(by, x, times) for name, by in ways(weight, bias, rows).items()}


def token_by_token(layers: Sequence[tuple[int, int]], times: int) -> dict[str, Callable[[], None]]:
    """All products that a token of one sentence needs, again and again, to be timed."""
    asked = [(torch.randn(1, d_in), torch.randn(d_out, d_in), torch.randn(d_out)) for d_in, d_out in layers]
    ready = [(FewRows((weight, bias)), x) for x, weight, bias in asked]

    def run(looks_up: bool) -> None:
        for few, _ in ready:
            few._looks_up = looks_up
        with torch.inference_mode():
            for _ in range(times):
                for few, x in ready:
                    few(x)

    return {name: partial(run, name == "looked_up") for name in ("mkl", "looked_up")}


def compared(taken: Mapping[str, Sequence[Seconds]], other: str, operations: int) -> Run:
    """Billions of operations a second of each way, and how many times as fast as MKL the other one is."""
    walls = {name: [each.wall for each in times] for name, times in taken.items()}
    row: Run = {name: round(operations / median(wall) / 1e9, 1) for name, wall in walls.items()}
    if other in walls:
        pairs = zip(walls["mkl"], walls[other], strict=True)
        row["ratio"] = round(median(a / b for a, b in pairs), 3)
    return row


def turns(*shape: int) -> int:
    """How many products are as much as WORK."""
    return max(1, min(5000, WORK // (2 * torch.Size(shape).numel())))


def kept(count: int, in_blocks: bool) -> float:
    """By how many MiB the process grows with a layer and its gradients for so many numbers of rows."""
    torch.set_num_threads(1)
    transformer.products.MKL_IS_SLOW_WITH_MANY = True
    layer, x, above = Linear(256, 1024), torch.randn(2400, 256), torch.randn(2400, 1024)
    x.requires_grad_(in_blocks)

    def ask(rows: int) -> None:
        some, their = x[:rows], above[:rows]
        if in_blocks:
            layer(some).backward(their)
        else:
            by_onednn(some, layer.weight, layer.bias)
            by_onednn(their, layer.weight.T)
            by_onednn(their.T, some.T)

    with torch.set_grad_enabled(in_blocks):
        ask(2400)
        before = resident()
        for rows in random.Random(0).sample(range(1400, 2400), count):
            ask(rows)
    return resident() - before


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(options(__doc__), arguments)
    began = time.process_time()
    layers, learned, batch = (((64, 64),), ((128, 256),), 400) if given.smoke else (LAYERS, LEARNED, BATCH)
    cases = [(False, rows, *layer) for rows, layer in product((4, 1) if given.smoke else ROWS, layers)]
    cases += [(True, batch, *layer) for layer in learned]
    of_a_token, tokens = ((64, 64),) if given.smoke else OF_A_TOKEN, 100
    found: list[Run] = []
    work = {(*case, name): run for case in cases for name, run in runs(*case).items()}
    work |= {("token", name): run for name, run in token_by_token(of_a_token, tokens).items()}
    seconds = interleaved(work, given.rounds)
    origin = provenance(0, time.process_time() - began) | {"rounds": given.rounds}
    for case in cases:
        learns, shape = case[0], torch.Size(case[1:])
        row: Run = dict(zip(("rows", "d_in", "d_out"), shape, strict=True)) | {"learned": learns}
        taken = {key[-1]: times for key, times in seconds.items() if key[:-1] == case}
        operations = turns(*shape) * 2 * shape.numel() * (3 if learns else 1)
        found.append(row | compared(taken, "onednn", operations) | {"provenance": origin})
    taken = {name: seconds["token", name] for name in ("mkl", "looked_up")}
    operations = tokens * 2 * sum(d_in * d_out for d_in, d_out in of_a_token)
    row = {"layers": len(of_a_token)} | compared(taken, "looked_up", operations)
    found.append(row | {"provenance": origin})
    if HAS_BOTH and given.threads == 1:  # the memory does not depend on it
        count = 10 if given.smoke else 800
        for in_blocks in (False, True):
            mib = round(in_new_process(kept, count, in_blocks))
            found.append({"shapes": count, "in_blocks": in_blocks, "kept_mib": mib, "provenance": origin})
    same = {"processor": processor(), "threads": given.threads}
    report("products", ABOUT, {}, same, found, record=given.record)


if __name__ == "__main__":
    main()
