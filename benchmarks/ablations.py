"""Change one size or setting of a tiny Transformer at a time, after Table 3, and record what it costs.

Writes chapters/records/ablations.json after each run and skips what is recorded there: stop it and start it
again as you like. About half a minute a run on one core, half an hour or more in all.

    python benchmarks/ablations.py [--seeds 0 1 2] [--only "1 head" base …]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from record import RECORDS, Run, load_runs, provenance, save_runs

from transformer.config import TransformerConfig
from transformer.corpora import fragment_corpus
from transformer.data import Tokenizer
from transformer.decoding import translate
from transformer.evaluation import bleu, exact_match, mean_surprise
from transformer.model import Transformer
from transformer.training import Trainer, TrainingConfig

PATH = RECORDS / "ablations.json"
ABOUT = "One change at a time to a tiny Transformer on the fragment corpus, after Table 3 of the paper."
SETTINGS: Run = {"steps": 700, "max_tokens": 600, "peak_rate": 2e-3, "warmup": 100, "vocab_size": 860}
# each variant: the paper's row (Table 3), what it changes of the model, and of the training
VARIANTS: dict[str, tuple[str, Run, Run]] = {
    "base": ("base", {}, {}),
    "1 head": ("A", {"num_heads": 1}, {}),
    "2 heads": ("A", {"num_heads": 2}, {}),
    "8 heads": ("A", {"num_heads": 8}, {}),
    "d_k 8": ("B", {"d_k": 8}, {}),
    "d_k 16": ("B", {"d_k": 16}, {}),
    "d_k 64": ("B", {"d_k": 64}, {}),
    "1 layer": ("C", {"num_layers": 1}, {}),
    "3 layers": ("C", {"num_layers": 3}, {}),
    "d_model 64": ("C", {"d_model": 64}, {}),
    "d_model 192": ("C", {"d_model": 192}, {}),
    "d_ff 64": ("C", {"d_ff": 64}, {}),
    "d_ff 1024": ("C", {"d_ff": 1024}, {}),
    "dropout 0.1": ("D", {"dropout": 0.1}, {}),
    "dropout 0.3": ("D", {"dropout": 0.3}, {}),
    "smoothing 0": ("D", {}, {"smoothing": 0.0}),
    "smoothing 0.3": ("D", {}, {"smoothing": 0.3}),
    "learned positions": ("E", {"positions": "learned", "max_length": 128}, {}),
    "pre-norm": ("not in Table 3", {"norm_first": True}, {}),
}


def taught(model: Transformer, corpus: Any, tokenizer: Tokenizer, seed: int, **changes: Any) -> Transformer:
    """The model after the training that all variants get, up to these changes, in eval mode."""
    recipe = {key: SETTINGS[key] for key in ("steps", "max_tokens", "peak_rate", "warmup")}
    config = TrainingConfig(seed=seed, **{**recipe, **changes})
    Trainer(model, tokenizer.examples(corpus.train), config).run()
    return model.eval()


def run(corpus: Any, tokenizer: Tokenizer, variant: str, seed: int) -> Run:
    """Train one variant with one seed, and measure it on the validation sentences."""
    row, sizes, training = VARIANTS[variant]
    start = time.process_time()
    torch.manual_seed(seed)
    model = Transformer(TransformerConfig.tiny(len(tokenizer), **sizes))
    taught(model, corpus, tokenizer, seed, **training)
    seconds = time.process_time() - start
    sources, wanted = zip(*corpus.validation, strict=True)
    longest = max(len(tokenizer.encode(text)) for text in wanted) + 5
    said = translate(model, tokenizer, sources, max_length=longest)
    score = bleu(said, wanted, tokenize="none")  # its words are separated already
    return {
        "variant": variant,
        "row": row,
        "seed": seed,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "surprise": round(mean_surprise(model, tokenizer.examples(corpus.validation)), 4),
        "exact": exact_match(said, wanted),
        "bleu": round(score.score, 2),
        "signature": score.signature,
        "provenance": provenance(seed, seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    chosen = parser.parse_args()
    runs = load_runs(PATH, SETTINGS)
    corpus = fragment_corpus()
    tokenizer = Tokenizer.train([text for pair in corpus.train for text in pair], SETTINGS["vocab_size"])
    for seed in chosen.seeds:
        for variant in chosen.only:
            if any((old["variant"], old["seed"]) == (variant, seed) for old in runs):
                continue
            new = run(corpus, tokenizer, variant, seed)
            runs.append(new)
            save_runs(PATH, ABOUT, SETTINGS, runs)
            print(
                f"{variant:18} seed {seed}  surprise {new['surprise']:.3f}  exact {new['exact']:.3f}  "
                f"BLEU {new['bleu']:.2f}  {new['provenance']['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
