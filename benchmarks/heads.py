"""Do other seeds give other heads? What each head of the small translator is worth, for several seeds.

Trains the model of chapter 15 once a seed (`python -m transformer train --corpus fragment`, three minutes on
one core) into runs/heads, unless it is there; seed 1 is the model in chapters/models. Then switches each head
off. Writes chapters/records/heads.json after each seed, and skips the seeds that are recorded there.

    python benchmarks/heads.py [--seeds 0 1]
"""

from __future__ import annotations

import argparse
import time
from itertools import combinations
from pathlib import Path

import torch
from record import RECORDS, ROOT, Run, load_runs, provenance, save_runs

from transformer.__main__ import main as command
from transformer.corpora import fragment_corpus
from transformer.data import Tokenizer, token_batches
from transformer.decoding import translate
from transformer.evaluation import exact_match, mean_surprise
from transformer.fragment.nouns import ADJECTIVES, NOUNS
from transformer.heads import (
    Head,
    attention_heads,
    head_confidence,
    head_importance,
    sentence_maps,
    without,
    word_numbers,
    word_weights,
)
from transformer.model import Transformer
from transformer.run_files import load_run

PATH = RECORDS / "heads.json"
PUBLISHED = 1  # the seed of the model in chapters/models
ABOUT = "The small translator from several seeds: what each of its heads is worth, and where it looks."
ARTICLES = {"the", "a", "an", "my", "her"}
GENDERS = {"den": ["man", "dog", "bird"], "die": ["woman", "cat", "mouse"], "das": ["child", "girl"]}
FORMS = {form for noun in NOUNS.values() for form in (noun.english, noun.english_plural)}


def trained(seed: int) -> tuple[Transformer, Tokenizer]:
    """The translator of this seed, trained now if it is not there."""
    folder = ROOT / ("chapters/models/fragment" if seed == PUBLISHED else f"runs/heads/seed{seed}")
    if seed != PUBLISHED:  # goes on if it was stopped, and ends at once if it was done
        command(["train", "--corpus", "fragment", "--seed", str(seed), "--run", str(folder)])
    return load_run(Path(folder), torch.device("cpu"))


def noun_shares(model: Transformer, tokenizer: Tokenizer, texts: list[str]) -> dict[Head, float]:
    """How much of its weight each head of the encoder puts from articles on their nouns."""
    total: dict[Head, float] = dict.fromkeys((h for h in attention_heads(model) if h[0] == "encoder"), 0.0)
    count = 0
    for text in texts:
        words = text.split()
        numbers = word_numbers(tokenizer.pieces(tokenizer.encode(text)))
        [maps] = sentence_maps(model, token_batches(tokenizer.examples([(text, "")]), 1000))
        looks = word_weights(maps["encoder"], numbers, numbers)  # (layers, heads, words, words)
        for i, word in enumerate(words[:-2]):
            j = i + 1 + (words[i + 1] in ADJECTIVES)
            if word in ARTICLES and words[j] in FORMS:
                count += 1
                for head in total:
                    total[head] += looks[head[1], head[2], i, j].item()
    return {head: share / count for head, share in total.items()}


@torch.no_grad()
def exchanges(model: Transformer, tokenizer: Tokenizer) -> Run:
    """How often a German article follows the state at the English article, or the one at the noun.

    As in the chapter: both sentences are read, and one state of the second is put into the first.
    """
    states = {}
    for noun in sum(GENDERS.values(), []):
        [(ids, _)] = tokenizer.examples([(f"the king sees the {noun} .", "")])
        states[noun] = model.encode(torch.tensor([ids])), torch.tensor([ids])
    prefix = torch.tensor([[tokenizer.bos_id, *tokenizer.encode("der König sieht")]])
    words = [(article, noun) for article, nouns in GENDERS.items() for noun in nouns]
    swaps = [(noun, *other) for article, noun in words for other in words if other[0] != article]
    followed = {"the": 0, "noun": 0}
    for noun, article, other in swaps:
        for name, place in (("the", -4), ("noun", -3)):
            mixed, source = states[noun][0].clone(), states[noun][1]
            mixed[:, place] = states[other][0][:, place]
            logits = model.project(model.decode(prefix, mixed, source)[:, -1])  # (1, vocab)
            followed[name] += tokenizer.decode(logits.argmax(-1).tolist()).strip() == article
    return {"swaps": len(swaps), **followed}


def measure(seed: int) -> Run:
    """Everything about one seed."""
    model, tokenizer = trained(seed)
    start, corpus = time.process_time(), fragment_corpus()
    pairs = [*corpus.test[:150], *corpus.unseen[:150]]
    examples = tokenizer.examples(pairs)
    batches = token_batches(examples, 4000)
    sources, wanted = zip(*pairs[::2], strict=True)
    heads = attention_heads(model)

    def right(*off: Head) -> float:
        said = translate(without(model, *off), tokenizer, sources, max_length=40)
        return 100 * exact_match(said, wanted)

    def surprise(*off: Head) -> float:
        return mean_surprise(without(model, *off), examples[::2], smoothing=0.1)

    whole, whole_loss = right(), surprise()
    lost = {head: whole - right(head) for head in heads}
    last = [("cross", 1, head) for head in range(4)]
    joint = {pair: whole - right(*pair) for pair in combinations(last, 2)}
    pair = max(joint, key=lambda two: joint[two] - lost[two[0]] - lost[two[1]])
    nouns = noun_shares(model, tokenizer, [source for source, _ in pairs])
    importance = head_importance(model, batches, smoothing=0.1)
    confidence = head_confidence(sentence_maps(model, batches))
    each = {
        "lost": lost,
        "loss": {head: surprise(head) - whole_loss for head in heads},
        "gate": importance,
        "confidence": confidence,
    }
    return {
        "seed": seed,
        "right": round(whole, 2),
        "worst": max(lost, key=lambda head: lost[head]),
        "nouns": max(nouns, key=lambda head: nouns[head]),
        "noun_share": [round(share, 3) for share in nouns.values()],
        "exchanges": exchanges(model, tokenizer),
        "pair": [*pair, round(joint[pair], 2)],
        **{name: [round(values[head], 4) for head in heads] for name, values in each.items()},
        "provenance": provenance(seed, time.process_time() - start),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    runs = load_runs(PATH)
    for seed in seeds:
        if all(run["seed"] != seed for run in runs):
            runs = sorted([*runs, measure(seed)], key=lambda run: run["seed"])
            save_runs(PATH, ABOUT, {"corpus": "fragment", "size": "tiny"}, runs)


if __name__ == "__main__":
    main()
