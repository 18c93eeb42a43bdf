"""Corpora that need no download: number words and the fragment of German.

Chapter: Words into numbers
Exported from chapters/10_words.md; edit it there, not here.
"""

import hashlib
import random
from functools import cache

from num2words import num2words

from transformer.data import Corpus, Pair
from transformer.fragment.corpus import splits

__all__ = ["fragment_corpus", "number_words", "numbers_corpus"]


@cache
def _below_thousand(number: int) -> Pair:
    return num2words(number).replace(" and ", " "), num2words(number, lang="de")


def number_words(number: int) -> Pair:
    """A number from 0 to 999,999 (else ValueError) in English and German, no "and"."""
    if not 0 <= number < 1_000_000:
        raise ValueError(f"the number must be from 0 to 999,999, not {number:,}")
    thousands, rest = divmod(number, 1000)
    english, german = _below_thousand(rest) if rest or not thousands else ("", "")
    if thousands:
        english_head, german_head = _below_thousand(thousands)
        english = f"{english_head} thousand {english}".rstrip()
        german = german_head.replace("eins", "ein") + "tausend" + german
    return english, german


def numbers_corpus(size: int = 20_000, limit: int = 1_000_000) -> Corpus:
    """`size` number words below `limit`, English → German, split by a hash."""
    corpus = Corpus([], [], [])
    for number in random.Random(0).sample(range(limit), size):
        digest = hashlib.sha256(str(number).encode()).digest()
        part = int.from_bytes(digest[:2], "big") % 20  # 0 … 19
        split = {0: corpus.test, 1: corpus.validation}.get(part, corpus.train)
        split.append(number_words(number))
    return corpus


def fragment_corpus() -> Corpus:
    """The appendix's grammar; `unseen` joins words as `train` never does."""
    return Corpus(**splits())
