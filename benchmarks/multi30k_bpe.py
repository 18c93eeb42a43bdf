"""Train on the very pieces of words that a published result was trained on, and score as it was scored.

The 41.02 BLEU of Wu et al. (2021) are counted on the test set of 2016, lower-cased and cut into words first.
Their files hold Multi30k in that form, with the words cut into pieces ("viel@@ er"). DATA is the folder with
them: train, valid and test.2016, each .en and .de, plain or gzipped. Trains like `--corpus multi30k` and
records the row "tiny, on their BPE" in chapters/records/multi30k.json; what was stopped goes on.

    torchrun --nproc-per-node 2 benchmarks/multi30k_bpe.py DATA runs/multi30k-bpe
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from multi30k import record_run
from tokenizers import models, pre_tokenizers, trainers

from transformer.data import Corpus, Tokenizer
from transformer.devices import pick_device
from transformer.downloads import read_pairs
from transformer.evaluation import Bleu, bleu
from transformer.parallel import processes, rank_and_size
from transformer.recipes import CORPORA, RECIPES
from transformer.runs import train_run

NAME = "multi30k_bpe"


def their_corpus(folder: Path) -> Corpus:
    """Their three splits, in pieces; FileNotFoundError names what is missing."""

    def found(name: str) -> Path:
        packed = folder / f"{name}.gz"
        return packed if packed.exists() else folder / name

    splits = ("train", "valid", "test.2016")
    return Corpus(*(read_pairs(found(f"{split}.en"), found(f"{split}.de")) for split in splits))


def pieces_between_spaces(sentences: Iterable[str]) -> Tokenizer:
    """A tokenizer whose pieces are what stands between spaces: they were made by others."""
    library = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    trainer = trainers.WordLevelTrainer(vocab_size=100_000, special_tokens=special, show_progress=False)
    library.train_from_iterator(sentences, trainer)
    return Tokenizer(library)


def their_bleu(said: Sequence[str], wanted: Sequence[str]) -> Bleu:
    """BLEU on the words: pieces are joined, nothing else is changed."""
    joined = [[text.replace("@@ ", "").removesuffix("@@") for text in side] for side in (said, wanted)]
    return bleu(*joined, lowercase=True, tokenize="none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder with their files")
    parser.add_argument("run", type=Path, help="the directory of the training, new or to go on with")
    parser.add_argument("--steps", type=int, default=RECIPES["multi30k"].steps)
    chosen = parser.parse_args()
    corpus = their_corpus(chosen.data)
    CORPORA[NAME], RECIPES[NAME] = (lambda: corpus), RECIPES["multi30k"]
    tokenizer = pieces_between_spaces(text for pair in corpus.train for text in pair)
    options = {"corpus": [NAME], "steps": chosen.steps, "vocab_size": len(tokenizer)}
    device = pick_device()
    with processes(device):
        finished = train_run(chosen.run, options, tokenizer=tokenizer, device=device)
        first = rank_and_size()[0] == 0
    if finished and first:
        record_run(chosen.run, "tiny, on their BPE", corpus.test, {"lowercased": their_bleu})


if __name__ == "__main__":
    main()
