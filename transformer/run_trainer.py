"""A trainer that reports into a run's directory.

Chapter: A command that trains
Exported from chapters/94_command_line.md; edit it there, not here.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from transformer.data import Batch, Corpus, Example, Pair, Tokenizer
from transformer.learning import target_tokens
from transformer.model import Transformer
from transformer.parallel import ParallelTrainer
from transformer.recipes import LONGEST, configs_for
from transformer.run_files import read_metrics, read_tokenizer, write_metrics
from transformer.run_models import held_out_loss, keep_model, share_right
from transformer.training import load_checkpoint

__all__ = ["RunTrainer", "Stopped", "fitting"]


def fitting(tokenizer: Tokenizer, pairs: Sequence[Pair], limit: int) -> list[Example]:
    """The pairs of at most `limit` tokens a side, as ids; ValueError if there are none."""
    examples = tokenizer.examples(pairs)
    short = [example for example in examples if max(map(len, example)) <= limit]
    if not short:
        raise ValueError(f"no sentence has at most {limit} tokens: more --max-tokens?")
    return short


class Stopped(Exception):
    """A training ends after a step, because it was asked to."""


class RunTrainer(ParallelTrainer):
    """A trainer with a directory; `machine` is what DeviceTrainer takes."""

    model: Transformer
    stopping = False  # True: raise Stopped after this step

    def __init__(self, folder: Path, settings: dict[str, Any], corpus: Corpus, **machine: Any):
        self.folder, self.every = folder, settings["every"]
        self.tokenizer = read_tokenizer(folder)
        sizes, config = configs_for(settings, len(self.tokenizer))
        self.longest = min(LONGEST, config.max_tokens)
        train = fitting(self.tokenizer, corpus.train, self.longest)
        self.held_out = fitting(self.tokenizer, corpus.validation, self.longest)
        decode = self.tokenizer.decode  # gives the very text that was encoded
        shown = self.held_out[:100]
        self.shown = [(decode(source), decode(target)) for source, target in shown]
        torch.manual_seed(config.seed)
        super().__init__(Transformer(sizes), train, config, **machine)
        if (folder / "checkpoint.safetensors").exists():
            load_checkpoint(self, folder / "checkpoint.safetensors")
        self.metrics = read_metrics(folder, until=self.step)
        self.tokens, self.since = 0, time.perf_counter()

    def update(self, batch: Batch) -> None:
        """A step, and a report if it is time; Stopped if `stopping` was set meanwhile."""
        super().update(batch)
        self.tokens += target_tokens(batch)
        last = self.step == self.config.steps
        if self.rank == 0 and (last or self.step % self.every == 0):
            _report(self)
            self.tokens, self.since = 0, time.perf_counter()
        if self.stopping:
            raise Stopped


def _report(trainer: RunTrainer) -> None:
    """Measure the model on held-out sentences, write it down, and keep the model."""
    seconds = time.perf_counter() - trainer.since
    loss = held_out_loss(trainer.model, trainer.held_out, trainer.config)
    if not math.isfinite(loss):
        problem = f"validation loss {loss} after step {trainer.step}"
        raise FloatingPointError(f"{problem}; try a lower rate")
    recent = trainer.losses[-trainer.every :]
    entry = {
        "step": trainer.step,
        "loss": sum(recent) / len(recent),
        "rate": trainer.optimizer.param_groups[0]["lr"],
        "seconds": round(seconds, 1),
        "tokens_per_second": round(trainer.tokens / seconds),
        "validation_loss": loss,
        "exact_match": share_right(trainer.model, trainer.tokenizer, trainer.shown),
    }
    trainer.metrics.append(entry)
    write_metrics(trainer.folder, trainer.metrics)
    keep_model(trainer.folder, trainer.model, trainer.metrics)
    right = f"exact match {100 * entry['exact_match']:.0f} %"
    tqdm.write(f"step {trainer.step:,}: validation loss {loss:.3f}, {right}")
