"""The loss and the learning rates.

Chapter: Learning
Exported from chapters/11_learning.md; edit it there, not here.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from transformer.data import Batch, Tokenizer
from transformer.encoder_decoder import EncoderDecoder

__all__ = [
    "batch_loss",
    "label_smoothed_loss",
    "linear_rate",
    "paper_rate",
    "target_tokens",
    "teacher_forced",
]


def label_smoothed_loss(
    logits: Float[Tensor, "tokens vocab"],
    wanted: Int[Tensor, " tokens"],
    *,
    smoothing: float,
) -> Float[Tensor, ""]:
    """Cross-entropy in nats per token, against a smoothed target (Sec. 5.4).

    The wanted token keeps the probability 1 - smoothing; the rest is spread evenly
    over the whole vocabulary, the wanted token included.
    """
    return F.cross_entropy(logits, wanted, label_smoothing=smoothing)


def target_tokens(batch: Batch, *, pad_id: int = Tokenizer.pad_id) -> int:
    """How many target tokens of a batch have to be predicted."""
    return int((batch.target[:, 1:] != pad_id).sum())


def teacher_forced(
    model: EncoderDecoder, batch: Batch
) -> tuple[Float[Tensor, "tokens width"], Int[Tensor, " tokens"]]:
    """The decoder's state before every real target token, and that token."""
    given, wanted = batch.target[:, :-1], batch.target[:, 1:]  # (batch, target - 1)
    states = model.decode(given, model.encode(batch.source), batch.source)
    real = wanted != model.config.pad_id
    return states[real], wanted[real]


def batch_loss(model: EncoderDecoder, batch: Batch, *, smoothing: float) -> Float[Tensor, ""]:
    """The mean loss of predicting every target token from those before it."""
    states, wanted = teacher_forced(model, batch)
    logits = model.project(states)  # (tokens, vocab)
    return label_smoothed_loss(logits, wanted, smoothing=smoothing)


def paper_rate(step: int, *, d_model: int, warmup: int = 4000) -> float:
    """Eq. 3: rises for `warmup` steps, then falls with 1/√step. Steps count from 1."""
    return d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)


def linear_rate(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """Rises to `peak` at step `warmup`, then falls to 0 just after step `steps`."""
    return peak * min(step / warmup, (steps + 1 - step) / (steps + 1 - warmup))
