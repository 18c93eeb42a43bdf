"""The training loop, and how it stops and goes on.

Chapter: Learning
Exported from chapters/11_learning.md; edit it there, not here.
"""

import itertools
import json
import math
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from transformer.checkpoints import load_tensors, save_tensors, unprefixed
from transformer.data import Batch, Example, Tokenizer, token_batches
from transformer.encoder_decoder import EncoderDecoder
from transformer.learning import batch_loss, linear_rate, paper_rate, target_tokens

__all__ = ["Trainer", "TrainingConfig", "batches_from", "load_checkpoint", "save_checkpoint"]


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. Adam's settings and the smoothing are the paper's (Sec. 5.3-4)."""

    steps: int
    max_tokens: int = 2000  #: a side and batch, padding included
    schedule: Literal["paper", "linear"] = "linear"
    peak_rate: float = 2e-3  #: of the linear schedule; the paper's follows from d_model
    warmup: int = 200  #: steps
    smoothing: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.schedule not in ("paper", "linear"):
            raise ValueError(f"schedule must be paper or linear, not {self.schedule}")
        if not 1 <= self.warmup <= self.steps:
            raise ValueError(f"warmup must be 1 to {self.steps}, not {self.warmup}")
        if not 0.0 <= self.peak_rate < math.inf:
            raise ValueError(f"peak_rate must be in [0, inf), not {self.peak_rate}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing must be in [0, 1), not {self.smoothing}")

    def rate(self, step: int, *, d_model: int) -> float:
        """The learning rate of a step, counted from 1."""
        if self.schedule == "paper":
            return paper_rate(step, d_model=d_model, warmup=self.warmup)
        peak, warmup = self.peak_rate, self.warmup
        return linear_rate(step, peak=peak, warmup=warmup, steps=self.steps)


def batches_from(
    examples: Sequence[Example],
    config: TrainingConfig,
    *,
    skip: int = 0,
    pad_id: int = Tokenizer.pad_id,
) -> Iterator[Batch]:
    """Epoch after epoch, each in its own order, without the first `skip` batches.

    Raises ValueError if there are no examples.
    """
    if not examples:
        raise ValueError("there are no sentences to learn from: examples is empty")
    for epoch in itertools.count(1000 * config.seed):
        batches = token_batches(examples, config.max_tokens, seed=epoch, pad_id=pad_id)
        yield from batches[skip:]
        skip = max(0, skip - len(batches))


class Trainer:
    """A model, its optimiser and its place in the data: what a checkpoint holds."""

    def __init__(self, model: EncoderDecoder, examples: Sequence[Example], config: TrainingConfig):
        torch.manual_seed(config.seed)  # for dropout
        self.model, self.examples, self.config = model, examples, config
        self.optimizer = torch.optim.Adam(model.parameters(), betas=config.betas, eps=config.eps, fused=True)
        self.losses: list[float] = []  # one for each step done

    @property
    def step(self) -> int:
        """The number of steps done."""
        return len(self.losses)

    def batches(self) -> Iterator[Batch]:
        """The batches to come, without end."""
        pad_id = self.model.config.pad_id
        return batches_from(self.examples, self.config, skip=self.step, pad_id=pad_id)

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The loss of a batch; chapter 12 computes it on a GPU, or on many."""
        return batch_loss(self.model, batch, smoothing=self.config.smoothing)

    def update(self, batch: Batch) -> None:
        """Learn from one batch; FloatingPointError, and no step, if the loss is not finite."""
        step, d_model = self.step + 1, self.model.config.d_model
        self.model.train()
        loss = self.loss(batch)
        number = loss.item()  # waits for the loss alone: a GPU works on while the next step is prepared
        if not math.isfinite(number):
            raise FloatingPointError(f"loss {number:g} at step {step}; try a lower rate")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.param_groups[0]["lr"] = self.config.rate(step, d_model=d_model)
        self.optimizer.step()
        self.losses.append(number)

    def run(self, until: int | None = None, *, checkpoint: Path | None = None, every: int = 500) -> None:
        """Train to step `until` (default: to the end), saving every so many steps."""
        end = self.config.steps if until is None else min(until, self.config.steps)
        for batch in _with_bar(self, end):
            self.update(batch)
            if checkpoint and (self.step % every == 0 or self.step == end):
                save_checkpoint(self, checkpoint)


def _with_bar(trainer: Trainer, end: int) -> Iterator[Batch]:
    """The batches up to step `end`, with a bar that reports how each of them went."""
    todo = max(0, end - trainer.step)
    tokens, start = 0, time.perf_counter()
    with tqdm(total=end, initial=trainer.step, unit="step") as bar:
        for batch in itertools.islice(trainer.batches(), todo):
            yield batch
            tokens += target_tokens(batch, pad_id=trainer.model.config.pad_id)
            speed = tokens / (time.perf_counter() - start)
            loss, rate = trainer.losses[-1], trainer.optimizer.param_groups[0]["lr"]
            status = f"loss {loss:.3f}, rate {rate:.1e}, {speed:,.0f} tokens/s"
            bar.set_postfix_str(status, refresh=False)
            bar.update()


def save_checkpoint(trainer: Trainer, path: str | Path) -> None:
    """Write all that a training needs to go on as if it had never stopped."""
    tensors = {f"model.{name}": t for name, t in trainer.model.state_dict().items()}
    for index, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": tensor for name, tensor in state.items()}
    tensors["random"] = torch.get_rng_state()
    tensors["losses"] = torch.tensor(trainer.losses, dtype=torch.float64)
    save_tensors(path, tensors, _settings(trainer))


def _settings(trainer: Trainer) -> dict[str, Any]:
    """What must not change when a training goes on, in the form that JSON gives it."""
    examples = trainer.examples
    some = repr(list(map(tuple, examples[:: len(examples) // 1000 + 1]))).encode()
    settings = {
        "model": asdict(trainer.model.config),
        "training": asdict(trainer.config),
        "data": {"examples": len(examples), "checksum": zlib.crc32(some)},
    }
    return json.loads(json.dumps(settings))


def load_checkpoint(trainer: Trainer, path: str | Path) -> None:
    """Put `trainer` where the saved one stood; ValueError if the settings differ."""
    tensors, settings = load_tensors(path)
    for kind, values in _settings(trainer).items():
        for name, ours in values.items():
            theirs = settings.get(kind, {}).get(name)
            if theirs != ours:
                raise ValueError(f"{path}: {kind} has {name} {theirs}, not {ours}")
    trainer.model.load_state_dict(unprefixed(tensors, "model."))
    adam: dict[int, dict[str, Tensor]] = {}
    for key, tensor in unprefixed(tensors, "adam.").items():
        index, name = key.split(".")
        adam.setdefault(int(index), {})[name] = tensor
    trainer.optimizer.load_state_dict(trainer.optimizer.state_dict() | {"state": adam})
    torch.set_rng_state(tensors["random"])
    trainer.losses = tensors["losses"].tolist()
