"""CPU seconds per written token at several lengths: greedy and beam search, with the cache and without.

The model has random weights and never ends a sentence, so that every run writes exactly what it is asked for.
One thread, rounds interleaved, medians; about two minutes. Prints JSON; with --record it also writes
chapters/records/decoding_cost.json.

    python benchmarks/decoding_cost.py [--rounds 3] [--record]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from peers import endless
from record import RECORDS, Run, provenance, save_runs
from torch import Tensor

from transformer.beam import beam_search
from transformer.config import TransformerConfig
from transformer.decoding import greedy_decode
from transformer.encoder_decoder import EncoderDecoder
from transformer.model import Transformer

ABOUT = "CPU seconds per token of greedy decoding and beam search, by length, with the cache and without."
SIZES: Run = {"vocab_size": 8000, "d_model": 256, "num_heads": 4, "d_ff": 1024, "num_layers": 3}
SOURCE_LENGTH = 20
# cached?, beam, sentences, tokens of each
CASES = [(cached, 1, 1, tokens) for tokens in (16, 64, 256) for cached in (True, False)]
CASES += [(True, 1, 32, 64), (False, 1, 32, 64), (True, 1, 32, 256), (True, 4, 1, 64), (True, 4, 32, 64)]


class Uncached(EncoderDecoder):
    """The same model without a state of its own: each step reads all tokens so far."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.config, self.model = model.config, model
        self.encode, self.decode, self.project = model.encode, model.decode, model.project  # type: ignore[method-assign]


def cpu_seconds(model: EncoderDecoder, source: Tensor, beam: int, tokens: int) -> float:
    """The processor time of writing `tokens` tokens for each source."""
    start = time.process_time()
    if beam == 1:
        said = greedy_decode(model, source, max_length=tokens)
    else:
        said = beam_search(model, source, beam=beam, max_length=tokens)
    seconds = time.process_time() - start
    if said.shape != (len(source), tokens + 1):
        raise RuntimeError(f"{tokens} tokens were asked for, not {said.shape[1] - 1}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="write chapters/records/decoding_cost.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    began = time.process_time()
    cached = endless(Transformer(TransformerConfig(**SIZES)).eval())
    models: dict[bool, EncoderDecoder] = {True: cached, False: Uncached(cached)}
    source = torch.randint(3, SIZES["vocab_size"], (32, SOURCE_LENGTH))
    cpu_seconds(cached, source, 1, 8)  # warm up
    seconds: dict[tuple[bool, int, int, int], list[float]] = {case: [] for case in CASES}
    for _ in range(arguments.rounds):
        for case in CASES:
            keep, beam, sentences, tokens = case
            seconds[case].append(cpu_seconds(models[keep], source[:sentences], beam, tokens))
    runs = []
    for (keep, beam, sentences, tokens), times in seconds.items():
        each = statistics.median(times) / (sentences * tokens)
        run: Run = {"cached": keep, "beam": beam, "sentences": sentences, "tokens": tokens}
        runs.append(
            run | {"ms_per_token": round(1000 * each, 4), "tokens_per_cpu_second": round(1 / each, 1)}
        )
        print(json.dumps(runs[-1]))
    settings = SIZES | {"source_length": SOURCE_LENGTH, "rounds": arguments.rounds}
    if arguments.record:
        settings["provenance"] = provenance(0, time.process_time() - began)
        save_runs(RECORDS / "decoding_cost.json", ABOUT, settings, runs)


if __name__ == "__main__":
    main()
