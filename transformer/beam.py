"""Beam search, and the states from which a model goes on writing.

Chapter: Speaking: decoding
Exported from chapters/13_decoding.md; edit it there, not here.
"""

import math
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from transformer.encoder_decoder import EncoderDecoder

__all__ = ["DecodingState", "PrefixState", "beam_search", "length_penalty", "start_decoding", "token_limits"]


@runtime_checkable
class DecodingState(Protocol):
    """Where a model stands in some sentences ("rows") that it writes side by side."""

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Read one more token of each row; return the logits of the next, free to be changed."""

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these rows, in this order, not the others; one may be kept several times."""


class PrefixState:
    """The `DecodingState` that serves every model: each step reads all tokens once more."""

    def __init__(self, model: EncoderDecoder, source: Int[Tensor, "rows source"]):
        self.model, self.source, self.memory = model, source, model.encode(source)
        self.target = source[:, :0]  # (rows, 0): nothing is written

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Read one more token of each row; return the logits of the next."""
        self.target = torch.cat([self.target, tokens[:, None]], dim=1)  # (rows, target)
        states = self.model.decode(self.target, self.memory, self.source)
        return self.model.project(states[:, -1]).clone()  # (rows, vocab)

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these rows, in this order; one may be kept several times."""
        self.source, self.memory = self.source[rows], self.memory[rows]
        self.target = self.target[rows]


def start_decoding(model: EncoderDecoder, source: Int[Tensor, "rows source"]) -> DecodingState:
    """The model's own state for these sentences, `model.start(source)`, or a `PrefixState`."""
    start = getattr(model, "start", None)
    return start(source) if start else PrefixState(model, source)


def token_limits(
    model: EncoderDecoder, source: Int[Tensor, "batch source"], max_length: int | None
) -> Int[Tensor, " batch"]:
    """How many tokens each may get: `max_length`, or its source's length + 50 (Sec. 6.1).

    Raises ValueError if `max_length` is negative.
    """
    if max_length is None:
        return (source != model.config.pad_id).sum(1) + 50
    if max_length < 0:
        raise ValueError(f"max_length must not be negative, but it is {max_length}")
    return source.new_full((len(source),), max_length, dtype=torch.int64)


def length_penalty(length: float | Tensor, *, alpha: float) -> float | Tensor:
    """What the log-probability of `length` tokens, end included, is divided by (Sec. 6.1)."""
    return ((5 + length) / 6) ** alpha


def _continuations(
    state: DecodingState,
    last: Int[Tensor, "rows width"],
    total: Float[Tensor, "rows width"],
    count: int,
    pad_id: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best `count` of each sentence: their sums, the beginnings they continue, and how."""
    logits = state.step(last.flatten())  # (rows · width, vocab)
    logits -= logits.amax(1, keepdim=True)
    whole = logits.exp().sum(1, keepdim=True).log()  # log-probabilities are logits - whole
    logits[:, pad_id] = -math.inf
    best, token = logits.topk(min(count, logits.shape[1]))  # (rows · width, some)
    sums = (total.view(-1, 1) + best - whole).view(len(total), -1)  # (rows, width · some)
    total, choice = sums.topk(min(count, sums.shape[1]))  # (rows, kept)
    return total, choice // best.shape[1], token.view(len(total), -1).gather(1, choice)


def _note_better(
    best: Int[Tensor, "batch length"],
    best_score: Float[Tensor, " batch"],
    rows: Int[Tensor, " rows"],
    target: Int[Tensor, "rows kept length"],
    score: Float[Tensor, "rows kept"],
) -> None:
    """Write into `best`, row by row, what scores better than all before."""
    top, which = score.max(dim=1)  # (rows,) each
    new = (top > best_score[rows]).nonzero()[:, 0]
    best[rows[new]], best_score[rows[new]] = target[new, which[new]], top[new]


def beam_search(
    model: EncoderDecoder,
    source: Int[Tensor, "batch source"],
    *,
    beam: int = 4,
    alpha: float = 0.6,
    max_length: int | None = None,
) -> Int[Tensor, "batch target"]:
    """Translate by beam search with the length penalty of Wu et al. (2016), as in Sec. 6.1.

    In each step the `beam` best beginnings are kept; a sentence that has ended keeps its place.
    Returned is the ended one of the best score, in the form of `greedy_decode`, which it equals
    with a beam of 1. Raises ValueError unless beam >= 1, alpha >= 0 and max_length >= 0.
    """
    if beam < 1 or not alpha >= 0:
        raise ValueError(f"beam must be at least 1 and alpha at least 0, not {beam=}, {alpha=}")
    config, limit = model.config, token_limits(model, source, max_length)
    best = torch.full_like(limit[:, None], config.bos_id)  # (batch, 1)
    best_score = torch.full_like(limit, -math.inf, dtype=torch.float32)  # (batch,)
    rows = (limit > 0).nonzero()[:, 0]  # (rows,): the sentences that are not finished
    places = torch.full_like(rows, beam)  # how many of its beginnings have not ended
    target = best[rows, None]  # (rows, width, target), with a width of 1
    total = torch.zeros(target.shape[:2], device=source.device)  # (rows, width)
    with torch.inference_mode():
        state = start_decoding(model, source[rows])
        while len(rows):
            width, length = total.shape[1], target.shape[2]
            total, parent, token = _continuations(
                state, target[..., -1], total, int(places.max()), config.pad_id
            )  # (rows, kept) each
            beginning = target.take_along_dim(parent[..., None], 1)  # (rows, kept, target)
            target = torch.cat([beginning, token[..., None]], dim=2)  # (rows, kept, target + 1)
            rank = torch.arange(total.shape[1], device=total.device)
            total = total.masked_fill(rank >= places[:, None], -math.inf)

            # the best of those that have ended, or at the limit of those that have not
            ended = (token == config.eos_id) & total.isfinite()
            at_limit = limit[rows] == length
            none = ~ended.any(1) & best_score[rows].isinf()
            counts = ended | (at_limit & none)[:, None]
            score = total.masked_fill(~counts, -math.inf) / length_penalty(length, alpha=alpha)
            best = F.pad(best, (0, 1), value=config.pad_id)  # (batch, target + 1)
            best_score = best_score.to(score.dtype)  # float64 if the model's numbers are
            _note_better(best, best_score, rows, target, score)

            # who goes on: the sentences that can still become better
            places = places - ended.sum(1)
            total = total.masked_fill(ended, -math.inf)
            hope = total.amax(1) / length_penalty(limit[rows], alpha=alpha)
            on = (~at_limit & (hope > best_score[rows])).nonzero()[:, 0]
            state.select((on[:, None] * width + parent[on]).flatten())
            rows, places, total, target = rows[on], places[on], total[on], target[on]
    used = (best != config.pad_id).any(0)
    used[0] = True  # even if there are no sentences
    return best[:, used]
