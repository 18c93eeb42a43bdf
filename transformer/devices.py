"""Training on any device, and what makes it fast there.

Chapter: On a GPU, and on many
Exported from chapters/12_gpu.md; edit it there, not here.
"""

import os
import zlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from transformer.data import Batch, Example, Tokenizer
from transformer.encoder_decoder import EncoderDecoder
from transformer.fused_loss import fused_loss
from transformer.training import Trainer, TrainingConfig

__all__ = ["DeviceTrainer", "pick_device", "rounded"]


def rounded(batch: Batch, multiple: int, *, pad_id: int = Tokenizer.pad_id) -> Batch:
    """The same sentences with more padding: the lengths become multiples.

    Of the target, that without its last token does, for so much of it the decoder reads.
    """

    def longer(side: Tensor, length: int) -> Tensor:
        return F.pad(side, (0, -length % multiple), value=pad_id)

    source, target = batch
    return Batch(longer(source, source.shape[1]), longer(target, target.shape[1] - 1))


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


class DeviceTrainer(Trainer):
    """A Trainer on any device.

    `bf16` computes in bfloat16 where that is safe; the weights stay in float32.
    `compile` translates the stacks and the loss for the device. `multiple` rounds lengths up.
    Dropout draws from seed, step and rank alone, so that no state has to be kept.
    ValueError if it is to compile while TRANSFORMER_CHECK_SHAPES is set.
    """

    rank = 0  # of this process, where there are several

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
        self.device, self.multiple = torch.device(device), multiple
        self.bf16, self.compile = bf16, compile
        if compile:
            _compile(model)

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The loss of a batch, computed on the device."""
        place = f"{self.config.seed} {self.step + 1} {self.rank}"
        torch.manual_seed(zlib.crc32(place.encode()))  # of every device
        batch = rounded(batch, self.multiple, pad_id=self.model.config.pad_id)
        batch = Batch(*(side.to(self.device) for side in batch))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            smoothing = self.config.smoothing
            return fused_loss(self.model, batch, smoothing=smoothing, compile=self.compile)


def _compile(model: EncoderDecoder) -> None:
    """Have both stacks translated when they first run; ValueError while shapes are checked."""
    if os.environ.get("TRANSFORMER_CHECK_SHAPES", "0") != "0":
        problem = "torch.compile cannot follow the checks of TRANSFORMER_CHECK_SHAPES"
        raise ValueError(f"{problem}: set it to 0, or do without compiling")
    for stack in ("encoder", "decoder"):
        model.get_submodule(stack).compile(dynamic=True)
