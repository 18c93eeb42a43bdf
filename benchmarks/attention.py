"""Attention alone: the readable form and the fused one, forward and backward, time and memory by length.

One sequence, 8 heads of 64, without a mask and with a causal one, in float32. The memory of each case is
measured in a process of its own. Printed are JSON rows; --record also writes them into
chapters/records/bench_attention.json.

    python benchmarks/attention.py [--threads 2] [--rounds 5] [--record]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import product

import torch
from record import Run, provenance
from side_by_side import in_new_process, interleaved, medians, options, parse, report, resident
from torch import Tensor

from transformer.attention import fused_attention, scaled_dot_product_attention
from transformer.masking import causal_mask

ABOUT = "Attention alone, forward and backward: the readable form and the fused one, by length."
HEADS, WIDTH = 8, 64
LENGTHS = (128, 256, 512, 1024, 2048, 4096)


def explicit_attention(*given: Tensor | None) -> Tensor:
    return scaled_dot_product_attention(*given)[0]


KINDS = {"explicit": explicit_attention, "fused": fused_attention}


def attending(length: int, causal: bool, kind: str) -> Callable[[], None]:
    """Attention and its gradients, to be timed."""
    torch.manual_seed(0)
    q_k_v = [torch.randn(1, HEADS, length, WIDTH, requires_grad=True) for _ in range(3)]
    mask = causal_mask(length) if causal else None
    above = torch.randn(1, HEADS, length, WIDTH)

    def attend() -> None:
        torch.autograd.grad(KINDS[kind](*q_k_v, mask), q_k_v, above)

    return attend


def memory(length: int, causal: bool, kind: str, threads: int) -> float:
    """How much the peak memory of this process grows by attending once."""
    torch.set_num_threads(threads)
    attending(8, causal, kind)()  # what the library needs in any case
    attend, before = attending(length, causal, kind), resident()
    attend()
    return resident() - before


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(options(__doc__), arguments)
    began = time.process_time()
    cases = list(product((16,), (True,), KINDS) if given.smoke else product(LENGTHS, (False, True), KINDS))
    peaks = {case: in_new_process(memory, *case, given.threads) for case in cases}
    work = {case: attending(*case) for case in cases}
    seconds = interleaved(work, given.rounds)
    origin = provenance(0, time.process_time() - began) | {"rounds": given.rounds}
    rows: list[Run] = []
    for case in cases:
        length, causal, kind = case
        typical = medians(seconds[case])
        row: Run = {"kind": kind, "length": length, "causal": causal}
        row |= {"cpu_seconds": round(typical.cpu, 5), "wall_seconds": round(typical.wall, 5)}
        rows.append(row | {"memory_mib": round(peaks[case], 1), "provenance": origin})
    settings = {"heads": HEADS, "width": WIDTH}
    report("attention", ABOUT, settings, {"threads": given.threads}, rows, record=given.record)


if __name__ == "__main__":
    main()
