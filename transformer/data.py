"""Sentence pairs, the tokeniser and token-bounded batches.

Chapter: Words into numbers
Exported from chapters/10_words.md; edit it there, not here.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
import torch
from jaxtyping import Int
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor

from transformer.files import write_whole

__all__ = ["Batch", "Corpus", "Example", "Pair", "Tokenizer", "pad", "padding_share", "token_batches"]

Pair = tuple[str, str]  # a sentence and its translation
Example = tuple[list[int], list[int]]  # the same as token ids: where we are going


@dataclass(frozen=True)
class Corpus:
    """Sentence pairs, (source, target), in their splits; `unseen` is a harder test."""

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]
    unseen: list[Pair] = field(default_factory=list)


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


class Tokenizer:
    """Byte-pair encoding over bytes: decoding gives back what was encoded, any text.

    Ids: 0 padding, 1 begin, 2 end of a sentence, then 256 bytes, then learned pieces.
    """

    pad_id, bos_id, eos_id = 0, 1, 2

    def __init__(self, library: tokenizers.Tokenizer):
        self.library = library
        library.encode_special_tokens = True  # "<pad>" typed by a reader is text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.library,)  # a copy has to set that once more

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
        write_whole(path, lambda part: self.library.save(str(part)))

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
    return torch.tensor(filled, dtype=torch.int64)  # (batch, length)


def padding_share(batches: Iterable[Batch], pad_id: int = Tokenizer.pad_id) -> float:
    """The share of all token places, both sides, that hold padding."""
    sides = [side for batch in batches for side in batch]
    padding = sum(int((side == pad_id).sum()) for side in sides)
    return padding / sum(side.numel() for side in sides)


def token_batches(
    examples: Sequence[Example],
    max_tokens: int,
    *,
    seed: int | None = None,
    pad_id: int = Tokenizer.pad_id,
) -> list[Batch]:
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
    return [Batch(pad(source, pad_id), pad(target, pad_id)) for source, target in sides]
