"""A linear layer by MKL and by oneDNN: billions of operations a second, in several shapes.

In float32. Both take each round one after the other; a first round warms up. Printed are JSON rows; --record
also writes them into chapters/records/bench_products.json, beside those of other processors.

    python benchmarks/products.py [--threads 2] [--rounds 5] [--record]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import product
from statistics import median

import torch
import torch.nn.functional as F
from record import Run, processor, provenance
from side_by_side import interleaved, options, parse, report
from torch import Tensor

from transformer.products import by_onednn

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
    return max(1, WORK // (2 * torch.Size(shape).numel()))


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
    same = {"processor": processor(), "threads": given.threads}
    report("products", ABOUT, {"rounds": given.rounds}, same, found, record=given.record)


if __name__ == "__main__":
    main()
