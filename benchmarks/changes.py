"""What makes ours fast on a processor, one change at a time: a step of training, and greedy decoding.

The small model of the comparisons. Each row keeps the changes of the rows above it. All rows take each round
one after the other; a first round warms up. Printed are JSON rows; --record also writes them into
chapters/records/bench_changes.json, beside those of other processors.

    python benchmarks/changes.py [--threads 2] [--rounds 5] [--record]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from statistics import median
from unittest import mock

import torch
from gpu import readable_attention
from peers import SIZES, SMOOTHING, endless
from record import Run, processor, provenance
from side_by_side import captions, interleaved, medians, options, parse, report
from torch import Tensor, nn
from training import MAX_TOKENS, make_batches

import transformer.cached_state
import transformer.multi_head
import transformer.products
from transformer.config import TransformerConfig
from transformer.data import Batch
from transformer.decoding import greedy_decode
from transformer.encoder_decoder import EncoderDecoder
from transformer.fused_loss import fused_loss
from transformer.layers import Dropout
from transformer.learning import batch_loss
from transformer.model import Transformer
from transformer.multi_head import FewRows, StepAttention
from transformer.products import linear

ABOUT = "What makes ours fast on a processor, one change at a time."
TRAINING = [
    "as in the chapters",
    "fused attention",
    "fused Adam",
    "the loss in portions",
    "dropout from fewer bits",
    "oneDNN where MKL is slow",
]
DECODING = [
    "everything anew",
    "a cache",
    "weights by column",
    "a source absorbs weights",
    "made ready once",
    "look-up, oneDNN where MKL is slow",
]
TOKENS, SOURCE_LENGTH = 64, 20


@contextmanager
def a_number_for_each_coin() -> Iterator[None]:
    """Dropout as PyTorch has it."""
    with mock.patch.object(Dropout, "forward", nn.Dropout.forward):
        yield


@contextmanager
def mkl_alone() -> Iterator[None]:
    """All linear layers as PyTorch computes them."""
    slow = dict.fromkeys((f"MKL_IS_SLOW_WITH_{rows}" for rows in ("ONE", "FEW", "MANY")), False)
    with mock.patch.multiple(transformer.products, **slow):
        yield


class Multiplied(FewRows):
    """A single row is multiplied as others are, by weights that lie as they always lay."""

    def __init__(self, *layers: tuple[Tensor, Tensor | None]):
        super().__init__(*layers)
        self.by_row = self.table.T.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """What the layers make of x."""
        return linear(x, self.by_row, self.bias)


@contextmanager
def all_rows_multiplied() -> Iterator[None]:
    """No decoder looks a row up."""
    with ExitStack() as patches:
        for module in (transformer.multi_head, transformer.cached_state):
            patches.enter_context(mock.patch.object(module, "FewRows", Multiplied))
        yield


@contextmanager
def nothing_absorbed() -> Iterator[None]:
    """Cross-attention computes queries, also for a single sentence."""
    start = StepAttention.start
    with mock.patch.object(StepAttention, "start", lambda self, seen, *, alone=False: start(self, seen)):
        yield


def learning(sizes: TransformerConfig, batches: Sequence[Batch], changes: int) -> Callable[[], None]:
    """A step on each batch, with the first of the changes."""
    torch.manual_seed(0)
    model = Transformer(sizes).train()
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, foreach=False, fused=changes >= 2)
    loss_of = fused_loss if changes >= 3 else batch_loss

    def learn() -> None:
        with ExitStack() as old:
            if changes < 1:
                old.enter_context(readable_attention())
            if changes < 4:
                old.enter_context(a_number_for_each_coin())
            if changes < 5:
                old.enter_context(mkl_alone())
            for batch in batches:
                adam.zero_grad()
                loss_of(model, batch, smoothing=SMOOTHING).backward()
                adam.step()

    return learn


class Forgetful(EncoderDecoder):
    """The same model without a state of its own: each step reads all tokens so far."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.config, self.encode, self.decode, self.project = (
            model.config, model.encode, model.decode, model.project,
        )  # fmt: skip


def writing(sizes: TransformerConfig, source: Tensor, changes: int, tokens: int) -> Callable[[], None]:
    """Greedy translations that never end, with the first of the changes."""
    torch.manual_seed(0)
    model = endless(Transformer(sizes).eval())
    made: EncoderDecoder = Forgetful(model) if changes < 1 else model
    ready = cache(model.frozen)  # when it is first asked for, so under the patches of its rung

    def write() -> None:
        with ExitStack() as old:
            if changes < 2:
                old.enter_context(all_rows_multiplied())
            if changes < 3:
                old.enter_context(nothing_absorbed())
            if changes < 5:
                old.enter_context(mkl_alone())
            greedy_decode(ready() if changes >= 4 else made, source, max_length=tokens)

    return write


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(options(__doc__), arguments)
    began, sizes = time.process_time(), SIZES["toy" if given.smoke else "small"]
    max_tokens, pairs, tokens = (200, 1000, 5) if given.smoke else (MAX_TOKENS, 29_000, TOKENS)
    batches = make_batches(captions(pairs), sizes.vocab_size, max_tokens)
    source = torch.randint(
        3, sizes.vocab_size, (32, SOURCE_LENGTH), generator=torch.Generator().manual_seed(0)
    )
    learned = sum(int((batch.target[:, 1:] != 0).sum()) for batch in batches)
    ladders: dict[str, tuple[list[str], int, Callable[[int], Callable[[], None]]]] = {
        "training": (TRAINING, learned, partial(learning, sizes, batches)),
        "greedy, one sentence": (DECODING, tokens, partial(writing, sizes, source[:1], tokens=tokens)),
        "greedy, 32 sentences": (DECODING, 32 * tokens, partial(writing, sizes, source, tokens=tokens)),
    }
    rows: list[Run] = []
    for ladder, (names, count, build) in ladders.items():
        seconds = interleaved({name: build(changes) for changes, name in enumerate(names)}, given.rounds)
        for change, name in enumerate(names):
            typical = medians(seconds[name])
            row = {"ladder": ladder, "change": name, "tokens_per_cpu_second": round(count / typical.cpu, 1)}
            before = seconds[names[max(change - 1, 0)]]
            turns = zip(before, seconds[name], strict=True)
            row["ratio"] = round(median(b.cpu / a.cpu for b, a in turns), 3)
            rows.append(row)
    origin = provenance(0, time.process_time() - began) | {"rounds": given.rounds}
    rows = [row | {"provenance": origin} for row in rows]
    same = {"processor": processor(), "threads": given.threads}
    report("changes", ABOUT, {"tokens": tokens}, same, rows, record=given.record)


if __name__ == "__main__":
    main()
