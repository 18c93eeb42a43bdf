"""Corpora, the tokeniser and token-bounded batches.

Chapter: Words into numbers
Exported from chapters/10_words.md; edit it there, not here.
"""

import gzip
import hashlib
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import tokenizers
import torch
from jaxtyping import Int
from num2words import num2words
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor

from transformer.fragment import splits

__all__ = [
    "Batch",
    "Corpus",
    "Example",
    "MULTI30K",
    "MULTI30K_FILES",
    "Pair",
    "Tokenizer",
    "fetch",
    "fragment_corpus",
    "multi30k",
    "number_words",
    "numbers_corpus",
    "pad",
    "padding_share",
    "token_batches",
]

Pair = tuple[str, str]  # a sentence and its translation
Example = tuple[list[int], list[int]]  # the same as token ids: where we are going


@dataclass(frozen=True)
class Corpus:
    """Sentence pairs, (source, target), in their splits; `unseen` is a harder test."""

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]
    unseen: list[Pair] = field(default_factory=list)


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


_SPECIAL = ["<pad>", "<bos>", "<eos>"]  # their ids are 0, 1 and 2


def _learn(sentences: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Byte-pair encoding over bytes, with the library."""
    if vocab_size < 259:
        raise ValueError(f"vocab_size {vocab_size} is below 259 (256 bytes, 3 special)")
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(sentences, trainer)
    return library


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: nobody finds half of it under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class Tokenizer:
    """Byte-pair encoding over bytes: decoding gives back what was encoded, any text.

    Ids: 0 padding, 1 begin, 2 end of a sentence, then 256 bytes, then learned pieces.
    """

    pad_id, bos_id, eos_id = 0, 1, 2

    def __init__(self, library: tokenizers.Tokenizer):
        self.library = library
        library.encode_special_tokens = True  # "<pad>" typed by a reader is text

    @classmethod
    def train(cls, sentences: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Merge up to `vocab_size` ids (ValueError below 259), if pairs occur twice."""
        return cls(_learn(sentences, vocab_size))

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer that `save` wrote."""
        return cls(tokenizers.Tokenizer.from_file(str(path)))

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as JSON, whole or not at all."""
        _write(Path(path), self.library.to_str().encode())

    def __len__(self) -> int:
        return self.library.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The ids of the text's pieces, without begin or end."""
        return self.library.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text up to the end of the sentence; padding and begin are left out."""
        ids = [*ids, self.eos_id]
        return self.library.decode(ids[: ids.index(self.eos_id)])

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id stands for, to look at; half a character shows as �."""
        return [_SPECIAL[i] if i < 3 else self.library.decode([i]) for i in ids]

    def examples(self, pairs: Sequence[Pair]) -> list[Example]:
        """Ids of each pair: the source with an end, the target with begin and end."""
        ids = [(self.encode(source), self.encode(target)) for source, target in pairs]
        return [([*s, self.eos_id], [self.bos_id, *t, self.eos_id]) for s, t in ids]


class Batch(NamedTuple):
    """Sentences of about one length, filled up with padding to a rectangle."""

    source: Int[Tensor, "batch source"]
    target: Int[Tensor, "batch target"]


def pad(rows: Sequence[list[int]], pad_id: int = Tokenizer.pad_id) -> Int[Tensor, "batch length"]:
    """Rows of different lengths as one rectangle."""
    length = max(map(len, rows))
    filled = [row + [pad_id] * (length - len(row)) for row in rows]
    return torch.tensor(filled)  # (batch, length)


def padding_share(batches: Iterable[Batch], pad_id: int = Tokenizer.pad_id) -> float:
    """The share of all token places, both sides, that hold padding."""
    sides = [side for batch in batches for side in batch]
    padding = sum(int((side == pad_id).sum()) for side in sides)
    return padding / sum(side.numel() for side in sides)


def token_batches(examples: Sequence[Example], max_tokens: int, *, seed: int | None = None) -> list[Batch]:
    """Batches of similar length, `max_tokens` tokens a side at most, with padding.

    A seed shuffles the batches and the sentences of one length; else shortest first.
    The paper's way (Sec. 5.1).
    ValueError if a sentence alone is longer than `max_tokens`.
    """
    shuffle = random.Random(seed).shuffle if seed is not None else lambda items: None
    order = list(examples)
    shuffle(order)
    order.sort(key=lambda example: (len(example[1]), len(example[0])))  # stable
    groups: list[list[Example]] = []
    width = 0  # of the wider side of the last group
    for example in order:
        longest = max(map(len, example))
        if longest > max_tokens:
            raise ValueError(f"{longest} tokens do not fit into max_tokens={max_tokens}")
        if not groups or max(width, longest) * (len(groups[-1]) + 1) > max_tokens:
            groups.append([])
            width = 0
        groups[-1].append(example)
        width = max(width, longest)
    shuffle(groups)
    sides = [zip(*group, strict=True) for group in groups]
    return [Batch(pad(source), pad(target)) for source, target in sides]


MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"
MULTI30K_FILES = {  # name → SHA-256
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
}


def fetch(url: str, path: Path, sha256: str) -> Path:
    """The file at `path`, downloaded first if it is not there.

    ValueError if the content is not the expected one, OSError if it cannot be had.
    """
    cached = path.exists()
    origin = f"{path} (delete it to have it downloaded again)" if cached else url
    try:
        content = path.read_bytes() if cached else urlopen(url, timeout=60).read()
    except (OSError, HTTPException) as error:
        raise OSError(f"{origin} cannot be read: {error!r}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"not the right file: {origin}: SHA-256 {found}, not {sha256}")
    if not cached:
        _write(path, content)
    return path


def _lines(path: Path) -> list[str]:
    """A gzipped text's lines, ended by line feeds only; ValueError if not UTF-8."""
    content = gzip.decompress(path.read_bytes()).removesuffix(b"\n")
    lines = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            lines.append(line.decode().strip())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: not UTF-8: {error}") from error
    return lines


def multi30k(folder: str | Path | None = None, *, address: str = MULTI30K) -> Corpus:
    """Multi30k, English → German: 29,000 photo captions (Elliott et al., 2016).

    For non-commercial research and education only: our licence does not cover it.
    Reads `folder`, else MULTI30K_DIR, else a cache folder; downloads what is missing.
    ValueError if a file is not the one expected, OSError if it cannot be had.
    """
    cache_folder = "~/.cache/attention-piece-by-piece/multi30k"
    folder = Path(folder or os.environ.get("MULTI30K_DIR") or cache_folder).expanduser()
    files = {}
    for name, sha256 in MULTI30K_FILES.items():
        files[name] = fetch(address + name, folder / name, sha256)
    pairs = []
    for split in ("train", "val", "test_2016_flickr"):
        english, german = files[f"{split}.en.gz"], files[f"{split}.de.gz"]
        sources, targets = _lines(english), _lines(german)
        n, m = len(sources), len(targets)
        if n != m:
            raise ValueError(f"{english} has {n} lines, but {german} has {m}")
        pairs.append(list(zip(sources, targets, strict=True)))
    return Corpus(*pairs)
