"""Loss, learning rates, the training loop and checkpoints.

Chapter: Learning
Exported from chapters/11_learning.md; edit it there, not here.
"""

import itertools
import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from transformer.data import Batch, Example, token_batches
from transformer.model import Transformer, TransformerConfig

__all__ = [
    "Trainer",
    "TrainingConfig",
    "batch_loss",
    "batches_from",
    "label_smoothed_loss",
    "linear_rate",
    "load_checkpoint",
    "load_model",
    "paper_rate",
    "save_checkpoint",
    "save_model",
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


def batch_loss(model: Transformer, batch: Batch, *, smoothing: float) -> Float[Tensor, ""]:
    """The mean loss of predicting every target token from those before it."""
    given, wanted = batch.target[:, :-1], batch.target[:, 1:]  # (batch, target - 1)
    states = model.decode(given, model.encode(batch.source), batch.source)
    real = wanted != model.config.pad_id
    logits = model.project(states[real])  # (tokens, vocab)
    return label_smoothed_loss(logits, wanted[real], smoothing=smoothing)


def paper_rate(step: int, *, d_model: int, warmup: int = 4000) -> float:
    """Eq. 3: rises for `warmup` steps, then falls with 1/√step. Steps count from 1."""
    return d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)


def linear_rate(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """Rises to `peak` at step `warmup`, then falls to 0 just after step `steps`."""
    return peak * min(step / warmup, (steps + 1 - step) / (steps + 1 - warmup))


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. Adam's settings and the smoothing are the paper's (Sec. 5.3-4)."""

    steps: int
    max_tokens: int = 2000  # a side and batch, padding included
    schedule: Literal["paper", "linear"] = "linear"
    peak_rate: float = 2e-3  # of the linear schedule; the paper's follows from d_model
    warmup: int = 200
    smoothing: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.schedule not in ("paper", "linear"):
            raise ValueError(f"schedule must be paper or linear, not {self.schedule}")
        if not 1 <= self.warmup <= self.steps:
            raise ValueError(f"warmup must be 1 to {self.steps}, not {self.warmup}")
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing must be in [0, 1), not {self.smoothing}")

    def rate(self, step: int, *, d_model: int) -> float:
        """The learning rate of a step, counted from 1."""
        if self.schedule == "paper":
            return paper_rate(step, d_model=d_model, warmup=self.warmup)
        peak, warmup = self.peak_rate, self.warmup
        return linear_rate(step, peak=peak, warmup=warmup, steps=self.steps)


def batches_from(examples: Sequence[Example], config: TrainingConfig, *, skip: int = 0) -> Iterator[Batch]:
    """Epoch after epoch, each in its own order, without the first `skip` batches."""
    for epoch in itertools.count(1000 * config.seed):
        batches = token_batches(examples, config.max_tokens, seed=epoch)
        yield from batches[skip:]
        skip = max(0, skip - len(batches))


class Trainer:
    """A model, its optimiser and its place in the data: what a checkpoint holds."""

    def __init__(self, model: Transformer, examples: Sequence[Example], config: TrainingConfig):
        torch.manual_seed(config.seed)  # for dropout
        self.model, self.examples, self.config = model, examples, config
        self.optimizer = torch.optim.Adam(model.parameters(), betas=config.betas, eps=config.eps, fused=True)
        self.losses: list[float] = []  # one for each step done

    @property
    def step(self) -> int:
        """The number of steps done."""
        return len(self.losses)

    def update(self, batch: Batch) -> None:
        """Learn from one batch; FloatingPointError, and no step, if the loss is NaN."""
        step, d_model = self.step + 1, self.model.config.d_model
        self.model.train()
        loss = batch_loss(self.model, batch, smoothing=self.config.smoothing)
        if not loss.isfinite():
            raise FloatingPointError(f"loss {loss:g} at step {step}; try a lower rate")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.param_groups[0]["lr"] = self.config.rate(step, d_model=d_model)
        self.optimizer.step()
        self.losses.append(loss.item())

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
    batches = batches_from(trainer.examples, trainer.config, skip=trainer.step)
    tokens, start = 0, time.perf_counter()
    with tqdm(total=end, initial=trainer.step, unit="step") as bar:
        for batch in itertools.islice(batches, todo):
            yield batch
            tokens += int((batch.target[:, 1:] != trainer.model.config.pad_id).sum())
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
    _write(path, tensors, _settings(trainer))


def _settings(trainer: Trainer) -> dict[str, Any]:
    """What must not change when a training goes on, in the form that JSON gives it."""
    first = repr([tuple(example) for example in trainer.examples[:1000]]).encode()
    settings = {
        "model": asdict(trainer.model.config),
        "training": asdict(trainer.config),
        "data": {"examples": len(trainer.examples), "checksum": zlib.crc32(first)},
    }
    return json.loads(json.dumps(settings))


def _write(path: str | Path, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {**settings, "checksum": _checksum(tensors), "torch": torch.__version__}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, part, {"settings": json.dumps(settings)})
        with part.open("r+b") as file:
            os.fsync(file.fileno())  # wait until it is on the disk
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _checksum(tensors: dict[str, Tensor]) -> int:
    checksum = 0
    for name, tensor in sorted(tensors.items()):
        content = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(name.encode() + content.tobytes(), checksum)
    return checksum


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            settings = json.loads(file.metadata()["settings"])
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        if settings["checksum"] != _checksum(tensors):
            raise ValueError("the checksum is wrong")
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or not a file of this package") from error
    return tensors, settings


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors[name] for name in names}


def load_checkpoint(trainer: Trainer, path: str | Path) -> None:
    """Put `trainer` where the saved one stood; ValueError if the settings differ."""
    tensors, settings = _read(path)
    for kind, values in _settings(trainer).items():
        for name, ours in values.items():
            theirs = settings.get(kind, {}).get(name)
            if theirs != ours:
                raise ValueError(f"{path}: {kind} has {name} {theirs}, not {ours}")
    trainer.model.load_state_dict(_part(tensors, "model."))
    adam: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _part(tensors, "adam.").items():
        index, name = key.split(".")
        adam.setdefault(int(index), {})[name] = tensor
    trainer.optimizer.load_state_dict(trainer.optimizer.state_dict() | {"state": adam})
    torch.set_rng_state(tensors["random"])
    trainer.losses = tensors["losses"].tolist()


def save_model(model: Transformer, path: str | Path) -> None:
    """Write the weights as safetensors, and the sizes as JSON in the file's header."""
    _write(path, model.state_dict(), {"model": asdict(model.config)})


def load_model(path: str | Path) -> Transformer:
    """Read what `save_model` or `save_checkpoint` wrote; ValueError if damaged."""
    tensors, settings = _read(path)
    model = Transformer(TransformerConfig(**settings["model"]))
    model.load_state_dict(_part(tensors, "model.") or tensors)
    return model.eval()
