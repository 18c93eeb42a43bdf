"""Training on many devices at once.

Chapter: On a GPU, and on many
Exported from chapters/12_gpu.md; edit it there, not here.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from transformer.data import Batch, Example, Tokenizer
from transformer.devices import DeviceTrainer
from transformer.encoder_decoder import EncoderDecoder
from transformer.learning import target_tokens
from transformer.training import TrainingConfig

__all__ = ["ParallelTrainer", "batch_share", "first_before_others", "processes", "rank_and_size"]


def batch_share(
    batch: Batch, rank: int, world_size: int, *, pad_id: int = Tokenizer.pad_id
) -> tuple[Batch, float]:
    """Every `world_size`-th row, and which share of all real target tokens it holds."""
    part = Batch(*(side[rank::world_size] for side in batch))
    wanted, all_wanted = (target_tokens(b, pad_id=pad_id) for b in (part, batch))
    if wanted == 0:
        return Batch(*(side[:1] for side in batch)), 0.0
    return part, wanted / all_wanted


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, and leave them in the end; alone, do nothing."""
    together = "WORLD_SIZE" in os.environ  # torchrun's word
    if together:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield
    if together:
        dist.destroy_process_group()


def rank_and_size() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


@contextmanager
def first_before_others() -> Iterator[None]:
    """Let the process with rank 0 through what follows before the others begin it."""
    rank, world_size = rank_and_size()
    if rank > 0:
        dist.barrier()
    yield
    if rank == 0 and world_size > 1:
        dist.barrier()


class _WithLoss(nn.Module):
    """A model whose forward is its loss: the module that DistributedDataParallel wraps."""

    def __init__(self, model: EncoderDecoder, loss: Callable[[Batch], Tensor]):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.loss(Batch(source, target))


def _averaging(module: nn.Module, world_size: int) -> nn.Module:
    """A module whose backward averages the gradients of all processes."""
    if world_size == 1:
        return module
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        # positions grow their table when they need to, not on every rank at once
        return DistributedDataParallel(module, broadcast_buffers=False)


class ParallelTrainer(DeviceTrainer):
    """A DeviceTrainer in each of the processes that torchrun has started, or in a single one.

    `machine` is what DeviceTrainer takes. Rank 0 shows the bar and writes.
    """

    def __init__(
        self,
        model: EncoderDecoder,
        examples: Sequence[Example],
        config: TrainingConfig,
        **machine: Any,
    ):
        super().__init__(model, examples, config, **machine)
        self.rank, self.world_size = rank_and_size()
        self.shared = _averaging(_WithLoss(model, super().loss), self.world_size)

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The loss of the whole batch; its gradient is that of our rows, × world_size."""
        pad_id = self.model.config.pad_id
        part, share = batch_share(batch, self.rank, self.world_size, pad_id=pad_id)
        ours = self.shared(*part) * share  # sums up over the ranks to the loss
        whole = ours.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(whole)
        ours = ours * self.world_size  # the gradients will be averaged
        return ours + (whole - ours).detach()

    def run(self, until: int | None = None, *, checkpoint: Path | None = None, every: int = 500) -> None:
        """As Trainer.run, on every rank."""
        if self.rank == 0:
            return super().run(until, checkpoint=checkpoint, every=every)
        end = self.config.steps if until is None else min(until, self.config.steps)
        for batch in islice(self.batches(), max(0, end - self.step)):
            self.update(batch)
        return None
