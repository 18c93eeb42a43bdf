"""Decoding: from a trained model to a sentence.

Chapter: Speaking: decoding
Exported from chapters/13_decoding.md; edit it there, not here.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from transformer.model import Transformer

__all__ = ["Codec", "greedy_decode", "translate"]


@torch.no_grad()
def greedy_decode(
    model: Transformer, source: Int[Tensor, "batch source"], *, max_length: int | None = None
) -> Int[Tensor, "batch target"]:
    """Append the most probable token, again and again, until every sentence has ended.

    Every sentence starts with the begin-of-sentence token and gets at most `max_length` more (default: the
    length of its own source + 50, Sec. 6.1). After its end stands padding. The model should be in eval mode.
    """
    config = model.config
    limit = (source != config.pad_id).sum(1, keepdim=True) + 50  # (batch, 1)
    if max_length is not None:
        limit = torch.full_like(limit, max_length)
    memory = model.encode(source)  # (batch, source, d_model)
    target = torch.full_like(limit, config.bos_id)  # (batch, 1)
    ended = limit < 1  # (batch, 1)
    while not ended.all():
        state = model.decode(target, memory, source)[:, -1:]  # (batch, 1, d_model)
        token = model.project(state).argmax(-1).masked_fill(ended, config.pad_id)  # (batch, 1)
        target = torch.cat([target, token], dim=1)  # (batch, target + 1)
        ended = ended | (token == config.eos_id) | (limit < target.shape[1])
    return target


@runtime_checkable
class Codec(Protocol):
    """What `translate` needs of a tokenizer."""

    eos_id: int
    pad_id: int

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


def translate(
    model: Transformer,
    tokenizer: Codec,
    sentences: Sequence[str],
    *,
    batch_size: int = 250,
    max_length: int | None = None,
) -> list[str]:
    """Translate sentences by greedy decoding, in their order. The model should be in eval mode."""
    device = next(model.parameters()).device
    sources = [tokenizer.encode(sentence) + [tokenizer.eos_id] for sentence in sentences]
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    translations = [""] * len(sources)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = max(len(sources[i]) for i in rows)
        padded = [sources[i] + [tokenizer.pad_id] * (width - len(sources[i])) for i in rows]
        decoded = greedy_decode(model, torch.tensor(padded, device=device), max_length=max_length)
        for i, ids in zip(rows, decoded.tolist(), strict=True):
            translations[i] = tokenizer.decode(ids)
    return translations
