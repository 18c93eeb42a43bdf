"""GRU, GRU with attention, Transformer: the same texts, steps and batches, about the same number of weights.

Two corpora made of the 30,000 sentences of the fragment: as they are, and texts of one to three of them. For
each run the record holds a learning curve over steps and over seconds of one core, and the scores at its end.
Writes chapters/records/ladder.json after each run and skips what is recorded there: stop and start it again
as you like. One to three minutes a run on one core.

    python benchmarks/ladder.py [--seeds 0 1 2] [--only gru gru-attention transformer] [--corpus texts]
"""

from __future__ import annotations

import argparse
import time

import torch
from record import RECORDS, Run, load_runs, provenance, save_runs

from transformer.config import TransformerConfig
from transformer.corpora import fragment_corpus
from transformer.data import Corpus, Pair, Tokenizer
from transformer.decoding import translate
from transformer.encoder_decoder import EncoderDecoder
from transformer.evaluation import bleu, exact_match, mean_surprise
from transformer.model import Transformer
from transformer.recurrent import RecurrentConfig, RecurrentTranslator
from transformer.training import Trainer, TrainingConfig

PATH = RECORDS / "ladder.json"
ABOUT = "Three encoder-decoders on the fragment: the same data, steps and batches, about the same size."
SETTINGS: Run = {"steps": 1200, "max_tokens": 600, "vocab_size": 860}
# peak rate and warm-up: for each the better of these two
RATES = {"gru": (4e-3, 100), "gru-attention": (4e-3, 100), "transformer": (2e-3, 200)}
MODELS = {"gru": "GRU", "gru-attention": "GRU + attention", "transformer": "Transformer"}


def joined(pairs: list[Pair]) -> list[Pair]:
    """The pairs in their order, as texts of one, two and three sentences in turn."""
    texts, start = [], 0
    while start < len(pairs):
        part = pairs[start : start + 1 + len(texts) % 3]
        texts.append((" ".join(a for a, _ in part), " ".join(b for _, b in part)))
        start += len(part)
    return texts


def build(model: str, vocab_size: int) -> EncoderDecoder:
    """One rung of the ladder, with about 770,000 parameters."""
    if model == "transformer":
        return Transformer(TransformerConfig.tiny(vocab_size))
    attention = model == "gru-attention"
    width = 170 if attention else 178
    return RecurrentTranslator(RecurrentConfig(vocab_size, width, attention=attention, dropout=0.0))


def curve(trainer: Trainer, held_out: list) -> tuple[list[list[float]], float]:
    """Train; at every tenth of the way [step, seconds so far, surprise on held-out texts]."""
    points, seconds = [], 0.0
    for tenth in range(1, 11):
        start = time.process_time()
        trainer.run(trainer.config.steps * tenth // 10)
        seconds += time.process_time() - start
        surprise = mean_surprise(trainer.model.eval(), held_out)
        points.append([trainer.step, round(seconds, 1), round(surprise, 4)])
    return points, seconds


def run(kind: str, corpus: Corpus, tokenizer: Tokenizer, name: str, seed: int) -> Run:
    """Train one model with one seed, and measure it on all held-out sentences."""
    torch.manual_seed(seed)
    model = build(name, len(tokenizer))
    rate, warmup = RATES[name]
    recipe: Run = {"max_tokens": SETTINGS["max_tokens"], "peak_rate": rate, "warmup": warmup, "seed": seed}
    config = TrainingConfig(SETTINGS["steps"], **recipe)
    trainer = Trainer(model, tokenizer.examples(corpus.train), config)
    points, seconds = curve(trainer, tokenizer.examples(corpus.validation))
    new: Run = {"corpus": kind, "model": MODELS[name], "seed": seed, "curve": points}
    new |= {"peak_rate": rate, "warmup": warmup}
    new["parameters"] = sum(weight.numel() for weight in model.parameters())
    for split in ("test", "unseen"):
        sources, wanted = zip(*getattr(corpus, split), strict=True)
        longest = max(len(tokenizer.encode(text)) for text in wanted) + 5
        said = translate(model, tokenizer, sources, max_length=longest)
        score = bleu(said, wanted, tokenize="none")  # its words are separated already
        new[split] = {"exact": exact_match(said, wanted), "bleu": round(score.score, 2)}
    return new | {"signature": score.signature, "provenance": provenance(seed, seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--corpus", nargs="+", choices=["texts", "sentences"], default=["texts", "sentences"])
    chosen = parser.parse_args()
    runs = load_runs(PATH, SETTINGS)
    plain = fragment_corpus()
    tokenizer = Tokenizer.train([text for pair in plain.train for text in pair], SETTINGS["vocab_size"])
    texts = Corpus(*(joined(getattr(plain, part)) for part in ("train", "validation", "test", "unseen")))
    corpora = {"texts": texts, "sentences": plain}
    for seed in chosen.seeds:
        for kind in chosen.corpus:
            for name in chosen.only:
                if any((r["corpus"], r["model"], r["seed"]) == (kind, MODELS[name], seed) for r in runs):
                    continue
                new = run(kind, corpora[kind], tokenizer, name, seed)
                runs.append(new)
                save_runs(PATH, ABOUT, SETTINGS, runs)
                shown = "  ".join(f"{split} {new[split]['exact']:.3f}" for split in ("test", "unseen"))
                seconds = new["provenance"]["seconds"]
                print(f"{kind:9} {name:14} seed {seed}  {shown}  {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
