"""Decoding: from a trained model to a sentence.

Chapter: Speaking: decoding
Exported from chapters/13_decoding.md; edit it there, not here.
"""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from transformer.beam import beam_search, start_decoding, token_limits
from transformer.data import pad
from transformer.encoder_decoder import EncoderDecoder

__all__ = ["Codec", "greedy_decode", "translate"]


def greedy_decode(
    model: EncoderDecoder, source: Int[Tensor, "batch source"], *, max_length: int | None = None
) -> Int[Tensor, "batch target"]:
    """Append the most probable token, again and again, until every sentence has ended.

    Every sentence starts with the begin-of-sentence token and gets at most `max_length` more (default: the
    length of its own source + 50, Sec. 6.1). After its end stands padding. The model should be in eval mode.
    """
    config, limit = model.config, token_limits(model, source, max_length)
    rows = (limit > 0).nonzero()[:, 0]  # (rows,): the sentences that are not finished
    limit, written = limit[rows], []  # of tokens, in each step the rows and what they say
    with torch.inference_mode():
        state, token = start_decoding(model, source[rows]), torch.full_like(rows, config.bos_id)
        shortest = min(limit.tolist(), default=0)
        while len(rows):
            logits = state.step(token)  # (rows, vocab)
            logits[:, config.pad_id] = -math.inf
            token = logits.max(dim=-1).indices  # (rows,)
            written.append((rows, token))
            if config.eos_id in token.tolist() or len(written) == shortest:
                on = ((token != config.eos_id) & (limit > len(written))).nonzero()[:, 0]
                rows, token, limit = rows[on], token[on], limit[on]
                shortest = min(limit.tolist(), default=0)
                state.select(on)
    shape = len(source), 1 + len(written)
    target = source.new_full(shape, config.pad_id, dtype=torch.int64)  # (batch, target)
    target[:, 0] = config.bos_id
    for length, (rows, token) in enumerate(written, start=1):
        target[rows, length] = token
    return target


@runtime_checkable
class Codec(Protocol):
    """What `translate` needs of a tokenizer: eos_id, pad_id, encode(text) and decode(ids)."""

    eos_id: int
    pad_id: int

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


def translate(
    model: EncoderDecoder,
    tokenizer: Codec,
    sentences: Sequence[str],
    *,
    beam: int = 1,
    alpha: float = 0.6,
    batch_size: int = 250,
    max_length: int | None = None,
    progress: bool = False,
) -> list[str]:
    """Translate sentences, in their order: greedily, or by beam search if `beam` is more than 1.

    `alpha` and `max_length` are those of `beam_search`; `batch_size` counts sentences; `progress`
    shows a bar. The model should be in eval mode. TypeError for a single string, ValueError for a
    batch_size below 1, and the errors of `beam_search`.
    """
    if isinstance(sentences, str):
        raise TypeError("sentences must be a list of them; for a single one write [sentence]")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    model, device = model.frozen(), next(model.parameters()).device
    sources = [tokenizer.encode(sentence) + [tokenizer.eos_id] for sentence in sentences]
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    translations = [""] * len(sources)
    with tqdm(total=len(sources), unit="sentence", disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = pad([sources[i] for i in rows], tokenizer.pad_id).to(device)  # (batch, source)
            if beam == 1:
                decoded = greedy_decode(model, batch, max_length=max_length)
            else:
                decoded = beam_search(model, batch, beam=beam, alpha=alpha, max_length=max_length)
            for i, ids in zip(rows, decoded.tolist(), strict=True):
                translations[i] = tokenizer.decode(ids)
            bar.update(len(rows))
    return translations
