"""The loss and its gradient without ever holding all logits.

Chapter: On a GPU, and on many
Exported from chapters/12_gpu.md; edit it there, not here.
"""

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
    """The loss, added up, and its gradient p - q, which is written over the logits."""
    wanted, vocab = wanted[:, None], logits.shape[1]
    total = logits.logsumexp(1, keepdim=True)  # (tokens, 1)
    surprise = total - (1 - smoothing) * logits.gather(1, wanted)
    loss = (surprise - smoothing * logits.mean(1, keepdim=True)).sum()
    difference = logits.sub_(total).exp_().sub_(smoothing / vocab)
    difference.scatter_add_(1, wanted, torch.full_like(total, smoothing - 1))
    return loss, difference


class _FusedLoss(torch.autograd.Function):
    """The mean smoothed loss of states, with the gradients computed on the way."""

    @staticmethod
    def forward(ctx, states, weight, bias, wanted, smoothing):  # type: ignore[no-untyped-def]
        rows = 4096 if states.is_cuda else 256  # a GPU has more to keep busy
        losses, for_states, for_weight = [], [], torch.zeros_like(weight)
        for_bias = None if bias is None else torch.zeros_like(bias)
        for some, tokens in zip(states.split(rows), wanted.split(rows), strict=True):
            narrow = linear(some, weight, bias)  # (rows, vocab), 16 bits wide under autocast
            wide = narrow.to(torch.promote_types(narrow.dtype, torch.float32))
            loss, difference = _loss_and_gradient(wide, tokens, smoothing)
            losses.append(loss)
            if for_bias is not None:
                for_bias += difference.sum(0)
            difference = difference.to(narrow.dtype)
            for_states.append(linear(difference, weight.T))
            for_weight += weight_gradient(difference, some)
        ctx.tokens = len(states)
        ctx.save_for_backward(torch.cat(for_states).to(states.dtype), for_weight, for_bias)
        return sum(losses) / ctx.tokens

    @staticmethod
    def backward(ctx, behind):  # type: ignore[no-untyped-def]
        scale = behind / ctx.tokens
        return *(g if g is None else scale * g for g in ctx.saved_tensors), None, None


def fused_loss(model: EncoderDecoder, batch: Batch, *, smoothing: float) -> Float[Tensor, ""]:
    """What `batch_loss` returns, for training: it holds the logits of a few tokens at a time."""
    states, wanted = teacher_forced(model, batch)
    return _FusedLoss.apply(states, *model.output_layer(), wanted, smoothing)
