"""The loss and its gradient without ever holding all logits.

Chapter: On a GPU, and on many
Exported from chapters/12_gpu.md; edit it there, not here.
"""

from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from transformer.data import Batch
from transformer.encoder_decoder import EncoderDecoder
from transformer.learning import teacher_forced
from transformer.products import linear, weight_gradient

__all__ = ["fused_loss"]


def _loss_and_gradient(
    logits: Float[Tensor, "tokens vocab"], wanted: Int[Tensor, " tokens"], smoothing: float
) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens vocab"]]:
    """The loss, added up, and its gradient p - q; the logits may be written over."""
    wanted, vocab = wanted[:, None], logits.shape[1]
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))  # the same, or a copy
    top = wide.amax(1, keepdim=True)  # (tokens, 1)
    right = (1 - smoothing) * wide.gather(1, wanted)
    if smoothing:  # a logit may be -inf, and 0 · ∞ is no number
        right += smoothing * wide.mean(1, keepdim=True)
    shares = wide.sub_(top).exp_()
    whole = shares.sum(1, keepdim=True)
    loss = (top + whole.log() - right).sum()
    difference = shares.div_(whole).sub_(smoothing / vocab)
    at_wanted = (difference.gather(1, wanted) - (1 - smoothing)).to(logits.dtype)
    return loss, difference.to(logits.dtype).scatter_(1, wanted, at_wanted)


class _FusedLoss(torch.autograd.Function):
    """The mean smoothed loss of states, with the gradients computed on the way."""

    @staticmethod
    def forward(ctx, states, weight, bias, wanted, smoothing, compile):  # type: ignore[no-untyped-def]
        loss_and_gradient = _compiled() if compile else _loss_and_gradient
        rows = 4096 if states.is_cuda else 256  # a GPU has more to keep busy
        losses, for_states, for_weight = [], [], weight.new_zeros(weight.shape[::-1])  # by column
        for_bias = None if bias is None else torch.zeros_like(bias)
        for some, tokens in zip(states.split(rows), wanted.split(rows), strict=True):
            logits = linear(some, weight, bias)  # (rows, vocab), 16 bits wide under autocast
            loss, difference = loss_and_gradient(logits, tokens, smoothing)
            losses.append(loss)
            for_states.append(linear(difference, weight.T))
            for_weight += weight_gradient(some, difference)
            if for_bias is not None:
                for_bias += difference.sum(0, dtype=bias.dtype)
        ctx.tokens = len(states)
        by_row = for_weight.T.contiguous()  # as the gradient of an embedding is, which may be added
        ctx.save_for_backward(torch.cat(for_states).to(states.dtype), by_row, for_bias)
        return sum(losses) / ctx.tokens

    @staticmethod
    def backward(ctx, behind):  # type: ignore[no-untyped-def]
        if torch.is_grad_enabled():  # create_graph: the gradients' own gradients are not here
            raise RuntimeError("fused_loss has no second derivative; batch_loss has one")
        scale = behind / ctx.tokens
        return *(g if g is None else scale * g for g in ctx.saved_tensors), None, None, None


@cache
def _compiled() -> Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]:
    return torch.compile(_loss_and_gradient)


def fused_loss(
    model: EncoderDecoder, batch: Batch, *, smoothing: float, compile: bool = False
) -> Float[Tensor, ""]:
    """What `batch_loss` returns, for training: it holds the logits of a few tokens at a time."""
    states, wanted = teacher_forced(model, batch)
    return _FusedLoss.apply(states, *model.output_layer(), wanted, smoothing, compile)
