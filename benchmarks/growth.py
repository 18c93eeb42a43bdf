"""The kinds of layers in the paper's Table 1, each alone: time by length and by width.

Self-attention without projections, by scaled dot products and by additive scores, a recurrent layer (nn.RNN)
and a convolution of width 3 (nn.Conv1d), forward and backward, on one sequence in float32. All take each
round one after the other; a first round warms up. Printed are JSON rows; --record also writes them into
chapters/records/bench_growth.json.

    python benchmarks/growth.py [--threads 2] [--rounds 5] [--record]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import product

import torch
from record import Run, processor, provenance
from side_by_side import interleaved, medians, options, parse, report
from torch import Tensor, nn

from transformer.attention import scaled_dot_product_attention

ABOUT = "The kinds of layers in Table 1, each alone, forward and backward: time by length and by width."
SHAPES = [(length, 256) for length in (64, 128, 256, 512, 1024, 2048, 4096)]
SHAPES += [(256, width) for width in (64, 128, 512, 1024, 2048)]
WORK = 2**30  # operations of a turn, so that it lasts long enough to be timed


def self_attention(width: int) -> Callable[[Tensor], Tensor]:
    return lambda x: scaled_dot_product_attention(x, x, x)[0]


def additive(width: int) -> Callable[[Tensor], Tensor]:
    score = nn.Linear(width, 1, bias=False)
    return lambda x: torch.softmax(score(torch.tanh(x[:, None] + x))[..., 0], dim=1) @ x


def recurrent(width: int) -> Callable[[Tensor], Tensor]:
    layer = nn.RNN(width, width)
    return lambda x: layer(x)[0]


def convolutional(width: int) -> Callable[[Tensor], Tensor]:
    layer = nn.Conv1d(width, width, 3, padding=1)
    return lambda x: layer(x.T).T


KINDS = {
    "self-attention": self_attention,
    "additive": additive,
    "recurrent": recurrent,
    "convolutional": convolutional,
}


def fits(kind: str, length: int, width: int) -> bool:
    """Whether the layer's numbers have room; additive scores need `width` of them for each pair of words."""
    return kind != "additive" or length * length * width <= 2**27


def turns(length: int, width: int) -> int:
    """How often a layer has to work for it to be about as much as WORK, but not for ever."""
    return max(1, min(20, WORK // (12 * length * width * max(length, width))))


def working(kind: str, length: int, width: int) -> Callable[[], None]:
    """A layer and its gradients, again and again, to be timed."""
    torch.manual_seed(0)
    layer, above = KINDS[kind](width), torch.randn(length, width)
    x = torch.randn(length, width, requires_grad=True)

    def work() -> None:
        for _ in range(turns(length, width)):
            layer(x).backward(above)

    return work


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(options(__doc__), arguments)
    began = time.process_time()
    every = product(KINDS, [(8, 4)] if given.smoke else SHAPES)
    cases = [case for case in every if fits(case[0], *case[1])]
    seconds = interleaved({case: working(case[0], *case[1]) for case in cases}, given.rounds)
    origin = provenance(0, time.process_time() - began) | {"rounds": given.rounds}
    rows: list[Run] = []
    for kind, (length, width) in cases:
        wall = medians(seconds[kind, (length, width)]).wall / turns(length, width)
        row: Run = {"kind": kind, "length": length, "width": width, "milliseconds": round(1000 * wall, 3)}
        rows.append(row | {"provenance": origin})
    same = {"processor": processor(), "threads": given.threads}
    report("growth", ABOUT, {}, same, rows, record=given.record)


if __name__ == "__main__":
    main()
