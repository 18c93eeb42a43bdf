"""Three ways to score a query against a key, at three widths, in a tiny Transformer, after Sec. 3.2.1.

Writes chapters/records/scores.json after each run and skips what is recorded there: stop it and start it
again as you like. Half a minute to one and a half a run on one core, about half an hour in all.

    python benchmarks/scores.py [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
from ablations import SETTINGS, taught
from record import RECORDS, Run, load_runs, provenance, save_runs
from torch import Tensor, nn

from transformer.config import TransformerConfig
from transformer.corpora import fragment_corpus
from transformer.data import Tokenizer
from transformer.evaluation import mean_surprise
from transformer.model import Transformer
from transformer.multi_head import MultiHeadAttention, merge_heads, split_heads

PATH = RECORDS / "scores.json"
ABOUT = "Scaled and unscaled dot products and additive scores in a tiny Transformer on the fragment corpus."
HEADS = (16, 4, 1)  # of 128 numbers together, so that a query has 8, 32 or 128


class Unscaled(MultiHeadAttention):
    """Multi-head attention whose scores are dot products as they are, without 1 / √d_k."""

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """(batch, heads, queries, keys)"""
        return query @ key.mT

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor
    ) -> tuple[Tensor, None]:
        """As MultiHeadAttention's, for a mask that leaves every query a key."""
        layers = (self.query, query), (self.key, key), (self.value, value)
        q, k, v = (split_heads(layer(x), self.num_heads) for layer, x in layers)
        weights = self.scores(q, k).masked_fill(~mask, -math.inf).softmax(-1)
        return self.output(merge_heads(weights @ v)), None


class Additive(Unscaled):
    """Multi-head attention with the scores v · tanh(q + k) of Bahdanau et al. (2015), a v for each head."""

    def __init__(self, d_model: int, num_heads: int, **options: Any):
        super().__init__(d_model, num_heads, **options)
        d_k = self.query.out_features // num_heads
        self.v = nn.Parameter(torch.randn(num_heads, d_k, 1) / math.sqrt(d_k))

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """(batch, heads, queries, keys)"""
        network = torch.tanh(query[..., :, None, :] + key[..., None, :, :])  # (…, queries, keys, d_k)
        return (network.flatten(2, 3) @ self.v).unflatten(2, network.shape[2:4])[..., 0]


SCORES = {"scaled": MultiHeadAttention, "unscaled": Unscaled, "additive": Additive}


def run(corpus: Any, tokenizer: Tokenizer, score: str, heads: int, seed: int) -> Run:
    """Train with one score, one number of heads and one seed; the surprise on the validation sentences."""
    start = time.process_time()
    torch.manual_seed(seed)
    with patch("transformer.layers.MultiHeadAttention", SCORES[score]):
        model = Transformer(TransformerConfig.tiny(len(tokenizer), num_heads=heads))
    taught(model, corpus, tokenizer, seed)
    seconds = time.process_time() - start
    surprise = mean_surprise(model, tokenizer.examples(corpus.validation))
    return {
        "score": score,
        "heads": heads,
        "d_k": model.config.d_model // heads,
        "seed": seed,
        "surprise": round(surprise, 4),
        "provenance": provenance(seed, seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = parser.parse_args()
    runs = load_runs(PATH, SETTINGS)
    corpus = fragment_corpus()
    tokenizer = Tokenizer.train([text for pair in corpus.train for text in pair], SETTINGS["vocab_size"])
    for seed, heads, score in product(chosen.seeds, HEADS, SCORES):
        if any((old["score"], old["heads"], old["seed"]) == (score, heads, seed) for old in runs):
            continue
        new = run(corpus, tokenizer, score, heads, seed)
        runs.append(new)
        save_runs(PATH, ABOUT, SETTINGS, runs)
        seconds = new["provenance"]["seconds"]
        print(
            f"{score:8} d_k {new['d_k']:3} seed {seed}  surprise {new['surprise']:.3f}  {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
