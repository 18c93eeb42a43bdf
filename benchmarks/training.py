"""Training: real target tokens a second, beside other implementations of the same model.

Four batches of about 2,048 target tokens, as long as those of Multi30k, are learned from in turn: loss,
gradient, a step of Adam. In float32, dropout on. All peers take each round one after the other; a first round
warms up. Printed are JSON rows; --record also writes them into chapters/records/bench_training.json, beside
those of other processors.

    python benchmarks/training.py [--size base] [--threads 2] [--rounds 5] [--peers ours marian …] [--record]

MFU is the share of the machine's own product of matrices, measured in the same rounds by the faster of
PyTorch's two libraries, that the work on real tokens reaches. The peak memory of each peer is measured in a
process of its own.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence

import torch
from peers import PEERS, SIZES, SMOOTHING, Peer, about, build
from products import multiplying, ways
from record import Run, processor, provenance
from side_by_side import (
    captions,
    in_new_process,
    interleaved,
    medians,
    options,
    parse,
    report,
    resident,
    speeds,
)

from transformer.config import TransformerConfig
from transformer.data import Batch, Pair, Tokenizer, padding_share, token_batches
from transformer.flops import step_flops

ABOUT = "Training beside other implementations of the same model: speed and memory, in interleaved rounds."
MAX_TOKENS, BATCHES = 2048, 4
EDGE, PRODUCTS = 2048, 4  # of the square matrices whose product is the yardstick, and how many a round


def make_batches(pairs: Sequence[Pair], vocab_size: int, max_tokens: int) -> list[Batch]:
    """The batches that all learn from."""
    tokenizer = Tokenizer.train([text for pair in pairs for text in pair], vocab_size)
    return token_batches(tokenizer.examples(pairs), max_tokens, seed=0)[:BATCHES]


def learning(peer: Peer, batches: Sequence[Batch]) -> Callable[[], None]:
    """One step of training on each batch, to be timed."""
    adam = torch.optim.Adam(peer.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)
    peer.model.train()

    def learn() -> None:
        for batch in batches:
            adam.zero_grad()
            peer.loss(batch).backward()
            adam.step()

    return learn


def products(edge: int) -> dict[str, Callable[[], None]]:
    """The yardsticks: nothing but products of square matrices by either library, to be timed."""
    a, b = torch.rand(edge, edge), torch.rand(edge, edge)
    return {name: multiplying(by, a, PRODUCTS) for name, by in ways(b, None, edge).items()}


def memory(name: str, sizes: TransformerConfig, threads: int, batches: list[tuple[list, list]]) -> Run:
    """The peak memory of a step on each batch, what Python and PyTorch took before, and what asking costs.

    `system_share` is the share of the processor's time in which the system works for us, once more on each
    batch: nearly all of it hands out memory.
    """
    torch.set_num_threads(threads)
    start = resident()
    peers, _ = build([name], sizes, "loss")
    learn = learning(peers[name], [Batch(*map(torch.tensor, sides)) for sides in batches])
    learn()
    peak, before = resident(), resource.getrusage(resource.RUSAGE_SELF)
    learn()
    after = resource.getrusage(resource.RUSAGE_SELF)
    system, user = after.ru_stime - before.ru_stime, after.ru_utime - before.ru_utime
    share = round(system / (system + user), 3)
    return {"start_mib": round(start), "peak_mib": round(peak), "system_share": share}


def work_of(sizes: TransformerConfig, batches: Sequence[Batch]) -> int:
    """The floating-point operations of a step on each batch, those on padding left out."""
    pairs = ((s, t) for batch in batches for s, t in zip(batch.source, batch.target, strict=True))
    return sum(step_flops(sizes, 1, int((s != 0).sum()), int((t[1:] != 0).sum())) for s, t in pairs)


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(options(__doc__, list(PEERS)), arguments)
    sizes, began = SIZES[given.size], time.process_time()
    max_tokens, edge, count = (200, 64, 1000) if given.smoke else (MAX_TOKENS, EDGE, 29_000)
    batches = make_batches(captions(count), sizes.vocab_size, max_tokens)
    tokens = sum(int((batch.target[:, 1:] != 0).sum()) for batch in batches)
    lists = [(batch.source.tolist(), batch.target.tolist()) for batch in batches]
    able = [name for name in given.peers if PEERS[name].loss and not PEERS[name].missing()]
    peaks = {name: in_new_process(memory, name, sizes, given.threads, lists) for name in able}

    peers, rows = build(given.peers, sizes, "loss")
    work = {name: learning(peer, batches) for name, peer in peers.items()}
    yardsticks = products(edge)
    seconds = interleaved(work | yardsticks, given.rounds)
    walls = {name: medians(seconds.pop(name)).wall for name in yardsticks}
    best = min(walls, key=lambda name: walls[name])
    rate = PRODUCTS * 2 * edge**3 / walls[best]
    origin = provenance(0, time.process_time() - began)
    for name, speed in speeds(seconds, tokens).items():
        row = about(name, peers[name]) | speed | peaks[name]
        row["parameters"] = sum(weight.numel() for weight in peers[name].parameters())
        row["mfu"] = round(work_of(sizes, batches) / medians(seconds[name]).wall / rate, 3)
        rows.append(row | {"provenance": origin})
    yardstick: Run = {"peer": "yardstick", "gflops": round(rate / 1e9, 1), "library": best}
    yardstick["target_tokens"] = tokens
    yardstick["padding"] = round(padding_share(batches), 3)
    yardstick["texts"] = "Multi30k" if os.environ.get("MULTI30K_DIR") else "the fragment"
    rows.append(yardstick | {"provenance": origin})
    settings = {"smoothing": SMOOTHING, "max_tokens": max_tokens, "batches": BATCHES}
    same = {"processor": processor(), "size": given.size, "threads": given.threads}
    report("training", ABOUT, settings, same, rows, record=given.record)


if __name__ == "__main__":
    main()
