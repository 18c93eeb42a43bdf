"""Decoding: tokens a second, beside other implementations of the same model.

Greedy and a beam of 4, one sentence and 32 at a time, 16 to 256 tokens each. The weights are random and no
sentence ends, so that each gets exactly the tokens that are asked for; the sources have 20. In float32. All
peers take each case of each round one after the other; a first round warms up. Printed are JSON rows;
--record also writes them into chapters/records/bench_decoding.json, beside those of other processors. The
yardstick is how fast memory is read: each token of a single sentence needs all weights once.

    python benchmarks/decoding.py [--size base] [--threads 2] [--rounds 5] [--peers ours marian …] [--record]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
from peers import PEERS, SIZES, Peer, about, build
from record import Run, processor, provenance
from side_by_side import interleaved, medians, options, parse, report, speeds
from torch import Tensor

ABOUT = "Decoding beside other implementations of the same model: speed by beam, batch and length."
SOURCE_LENGTH = 20
NUMBERS, READINGS = torch.ones(5 * 2**20), 50  # 20 MiB, about as much as a token of the small model needs


def reading() -> None:
    """The yardstick: nothing but reading numbers, again and again, to be timed."""
    for _ in range(READINGS):
        NUMBERS.sum()


def times(sentences: int, tokens: int) -> int:
    """How often it is done in a turn, so that even the shortest lasts long enough to be timed."""
    return max(1, 512 // (sentences * tokens))


def writing(peer: Peer, beam: int, source: Tensor, tokens: int) -> Callable[[], None]:
    """Writing that many tokens for each source, as often as a turn asks for, to be timed."""
    write = partial(peer.greedy, source) if beam == 1 else partial(peer.beam, source, beam)

    def run() -> None:
        for _ in range(times(len(source), tokens)):
            said = write(tokens)
            if said.shape != (len(source), tokens):
                raise RuntimeError(f"{peer.title}: {tokens} tokens were asked for, not {tuple(said.shape)}")

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(options(__doc__, list(PEERS)), arguments)
    sizes, began = SIZES[given.size], time.process_time()
    cases = list(product((1, 4), (1, 32), (16, 64, 256)))  # beam, sentences, tokens
    if given.smoke:
        cases = list(product((1, 4), (1, 3), (5,)))
    peers, rows = build(given.peers, sizes, "greedy")
    for peer in peers.values():
        if peer.model:
            peer.model.eval()
    torch.manual_seed(0)
    sources = torch.randint(3, sizes.vocab_size, (32, SOURCE_LENGTH))
    work = {}
    for (beam, sentences, tokens), name in product(cases, peers):
        if beam == 1 or peers[name].beam:
            run = writing(peers[name], beam, sources[:sentences], tokens)
            work[beam, sentences, tokens, name] = run
    seconds = interleaved({**work, "yardstick": reading}, given.rounds)
    rate = READINGS * NUMBERS.nbytes / medians(seconds["yardstick"]).wall
    origin = provenance(0, time.process_time() - began)
    for case in cases:
        beam, sentences, tokens = case
        spent = {name: seconds[*case, name] for name in peers if (*case, name) in seconds}
        speed = speeds(spent, sentences * tokens * times(sentences, tokens))
        which: Run = {"beam": beam, "sentences": sentences, "tokens": tokens}
        for name in speed:
            rows.append(about(name, peers[name]) | which | speed[name] | {"provenance": origin})
    yardstick = {"peer": "yardstick", "gigabytes_per_second": round(rate / 1e9, 1)}
    rows.append(yardstick | {"provenance": origin})
    same = {"processor": processor(), "size": given.size, "threads": given.threads}
    report("decoding", ABOUT, {"source_length": SOURCE_LENGTH}, same, rows, record=given.record)


if __name__ == "__main__":
    main()
