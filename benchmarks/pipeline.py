"""From text to batches: sentences a second, on 29,000 pairs as long as Multi30k's.

Learning a vocabulary, writing all texts as token ids, and putting them into batches of 2,048 tokens.
Printed are JSON rows; --record also writes them into chapters/records/bench_pipeline.json.

    python benchmarks/pipeline.py [--rounds 5] [--record]
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from record import Run, provenance
from side_by_side import captions, interleaved, medians, options, parse, report

from transformer.data import Tokenizer, padding_share, token_batches

ABOUT = "From text to batches: sentences a second."


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(options(__doc__), arguments)
    began = time.process_time()
    pairs = captions(300 if given.smoke else 29_000)
    texts = [text for pair in pairs for text in pair]
    tokenizer = Tokenizer.train(texts, 8000)
    examples = tokenizer.examples(pairs)
    work = {
        "learn the vocabulary": lambda: Tokenizer.train(texts, 8000),
        "text into ids": lambda: tokenizer.examples(pairs),
        "ids into batches": lambda: token_batches(examples, 2048, seed=0),
    }
    seconds = {step: medians(times) for step, times in interleaved(work, given.rounds).items()}
    origin = provenance(0, time.process_time() - began) | {"rounds": given.rounds}
    rows: list[Run] = []
    for step, typical in seconds.items():
        speed = {"sentences_per_second": round(len(texts) / typical.wall)}
        times = {"cpu_seconds": round(typical.cpu, 4), "wall_seconds": round(typical.wall, 4)}
        rows.append({"step": step} | speed | times | {"provenance": origin})
    settings = {"pairs": len(pairs), "pieces": len(tokenizer)}
    settings |= {"padding": round(padding_share(token_batches(examples, 2048, seed=0)), 4)}
    report("pipeline", ABOUT, settings, {"threads": given.threads}, rows, record=given.record)


if __name__ == "__main__":
    main()
