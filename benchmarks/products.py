"""A linear layer by MKL and by oneDNN: billions of operations a second, in several shapes.

In float32. Both take each round one after the other; a first round warms up. Then the memory that oneDNN
keeps after many numbers of rows, in a process of its own: asked as they come, and as the package asks.
Printed are JSON rows; --record also writes them into chapters/records/bench_products.json, beside those of
other processors.

    python benchmarks/products.py [--threads 2] [--rounds 5] [--record]
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from itertools import product
from statistics import median

import torch
import torch.nn.functional as F
from record import Run, processor, provenance
from side_by_side import in_new_process, interleaved, options, parse, report, resident
from torch import Tensor

import transformer.products
from transformer.products import Linear, by_onednn

ABOUT = "A linear layer by MKL and by oneDNN: billions of operations a second, by shape."
ROWS = (2048, 32, 1)
LAYERS = ((256, 1024), (1024, 256), (256, 8000))  # d_in, d_out
WORK = 2**31  # operations of a turn, so that it lasts long enough to be timed


def libraries() -> dict[str, Callable[..., Tensor]]:
    """Who can multiply here: x, weight and perhaps a bias → x Wᵀ + b."""
    found = {"mkl": F.linear, "onednn": lambda x, weight, bias=None: by_onednn(x, weight, bias)}
    return found if hasattr(torch.ops.mkldnn, "_linear_pointwise") else {"mkl": F.linear}


def multiplying(multiply: Callable[..., Tensor], rows: int, d_in: int, d_out: int) -> Callable[[], None]:
    """The same product again and again, to be timed."""
    x, weight, bias = torch.randn(rows, d_in), torch.randn(d_out, d_in), torch.randn(d_out)
    times = turns(rows, d_in, d_out)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(times):
                multiply(x, weight, bias)

    return run


def turns(*shape: int) -> int:
    """How many products are as much as WORK."""
    return max(1, min(5000, WORK // (2 * torch.Size(shape).numel())))


def kept(count: int, in_blocks: bool) -> float:
    """By how many MiB the process grows with a layer and its gradients for so many numbers of rows."""
    torch.set_num_threads(1)
    transformer.products.MKL_IS_SLOW = True
    layer, x, above = Linear(256, 1024), torch.randn(2400, 256), torch.randn(2400, 1024)
    x.requires_grad_(in_blocks)

    def ask(rows: int) -> None:
        some, their = x[:rows], above[:rows]
        if in_blocks:
            layer(some).backward(their)
        else:
            by_onednn(some, layer.weight, layer.bias)
            by_onednn(their, layer.weight.T, None)
            by_onednn(their.T, some.T, None)

    with torch.set_grad_enabled(in_blocks):
        ask(2400)
        before = resident()
        for rows in random.Random(0).sample(range(1400, 2400), count):
            ask(rows)
    return resident() - before


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(options(__doc__), arguments)
    began = time.process_time()
    cases = [(4, 8, 8)] if given.smoke else [(rows, *layer) for rows, layer in product(ROWS, LAYERS)]
    by = libraries()
    work = {(*case, name): multiplying(by[name], *case) for case in cases for name in by}
    seconds = interleaved(work, given.rounds)
    origin, found = provenance(0, time.process_time() - began), []
    for case in cases:
        row: Run = dict(zip(("rows", "d_in", "d_out"), case, strict=True))
        walls = {name: [each.wall for each in seconds[*case, name]] for name in by}
        operations = turns(*case) * 2 * torch.Size(case).numel()
        row |= {name: round(operations / median(wall) / 1e9, 1) for name, wall in walls.items()}
        if "onednn" in by:
            pairs = zip(walls["mkl"], walls["onednn"], strict=True)
            row["ratio"] = round(median(a / b for a, b in pairs), 3)
        found.append(row | {"provenance": origin})
    if "onednn" in by:
        count = 10 if given.smoke else 800
        for in_blocks in (False, True):
            mib = round(in_new_process(kept, count, in_blocks))
            found.append({"shapes": count, "in_blocks": in_blocks, "kept_mib": mib, "provenance": origin})
    same = {"processor": processor(), "threads": given.threads}
    report("products", ABOUT, {"rounds": given.rounds}, same, found, record=given.record)


if __name__ == "__main__":
    main()
