"""Training on a GPU, and on many.

Chapter: On a GPU, and on many
Exported from chapters/12_gpu.md; edit it there, not here.
"""

import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from transformer.data import Batch, Example, Tokenizer
from transformer.encoder_decoder import EncoderDecoder
from transformer.learning import batch_loss
from transformer.training import Trainer, TrainingConfig, batches_from

__all__ = ["ParallelTrainer", "batch_share", "pick_device", "processes", "rank_and_size", "rounded"]


def rounded(batch: Batch, multiple: int, *, pad_id: int = Tokenizer.pad_id) -> Batch:
    """The same sentences with more padding, so that the lengths are multiples."""

    def longer(side: Tensor, length: int) -> Tensor:
        return F.pad(side, (0, -length % multiple), value=pad_id)

    source, target = batch
    return Batch(longer(source, source.shape[1]), longer(target, target.shape[1] - 1))


def batch_share(
    batch: Batch, rank: int, world_size: int, *, pad_id: int = Tokenizer.pad_id
) -> tuple[Batch, float]:
    """Every `world_size`-th row, and which share of all real target tokens it holds."""
    part = Batch(*(side[rank::world_size] for side in batch))
    wanted, all_wanted = (int((b.target[:, 1:] != pad_id).sum()) for b in (part, batch))
    if wanted == 0:
        return Batch(*(side[:1] for side in batch)), 0.0
    return part, wanted / all_wanted


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" is a GPU where there is one, else the CPU.

    Under torchrun each process gets the GPU of its number. ValueError if torch cannot use it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name} cannot be used: {reason}") from error
    return device


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


class _WithLoss(nn.Module):
    """A model whose forward is its loss: the module that DistributedDataParallel wraps."""

    def __init__(self, model: EncoderDecoder, smoothing: float):
        super().__init__()
        self.model, self.smoothing = model, smoothing

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return batch_loss(self.model, Batch(source, target), smoothing=self.smoothing)


def _distributed(module: nn.Module, world_size: int) -> nn.Module:
    """A module whose backward averages the gradients of all processes."""
    if world_size == 1:
        return module
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        # positions grow their table when they need to, not on every rank at once
        return DistributedDataParallel(module, broadcast_buffers=False)


class ParallelTrainer(Trainer):
    """A Trainer on any device, and on as many as torchrun has started processes for.

    `bf16` computes in bfloat16 where that is safe; the weights stay in float32.
    `compile` translates the stacks for the device. `multiple` rounds lengths up.
    Dropout draws from seed, step and rank alone, so that no state has to be kept.
    """

    def __init__(
        self,
        model: EncoderDecoder,
        examples: Sequence[Example],
        config: TrainingConfig,
        *,
        device: torch.device | str = "cpu",
        bf16: bool = False,
        compile: bool = False,
        multiple: int = 1,
    ):
        super().__init__(model.to(device), examples, config)
        self.device, self.bf16, self.multiple = torch.device(device), bf16, multiple
        self.rank, self.world_size = rank_and_size()
        for stack in ("encoder", "decoder") if compile else ():
            model.get_submodule(stack).compile(dynamic=True)
        with_loss = _WithLoss(model, config.smoothing)
        self.with_loss = _distributed(with_loss, self.world_size)

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The loss of the whole batch; its gradient is that of our rows, × world_size."""
        place = f"{self.config.seed} {self.step + 1} {self.rank}"
        torch.manual_seed(zlib.crc32(place.encode()))  # of every device
        part, share = batch_share(batch, self.rank, self.world_size)
        part = Batch(*(side.to(self.device) for side in rounded(part, self.multiple)))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            ours = self.with_loss(*part) * share  # sums up over the ranks to the loss
        whole = ours.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(whole)
        ours = ours * self.world_size  # the gradients will be averaged
        return ours + (whole - ours).detach()

    def run(
        self,
        until: int | None = None,
        *,
        checkpoint: Path | None = None,
        every: int = 500,
    ) -> None:
        """As Trainer.run; of several processes, rank 0 shows the bar and writes."""
        if self.rank == 0:
            return super().run(until, checkpoint=checkpoint, every=every)
        end = self.config.steps if until is None else min(until, self.config.steps)
        batches = batches_from(self.examples, self.config, skip=self.step)
        for batch in islice(batches, max(0, end - self.step)):
            self.update(batch)
        return None
