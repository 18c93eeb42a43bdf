"""Training in a directory: whatever stops it, it goes on.

Chapter: On a GPU, and on many
Exported from chapters/12_gpu.md; edit it there, not here.
"""

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from transformer.checkpoints import save_model
from transformer.data import Batch, Corpus, Example, Tokenizer, token_batches
from transformer.decoding import translate
from transformer.evaluation import exact_match
from transformer.files import write_whole
from transformer.learning import batch_loss
from transformer.model import Transformer
from transformer.parallel import ParallelTrainer, rank_and_size
from transformer.recipes import LONGEST, configs_for, load_corpus
from transformer.run_files import (
    draw_curve,
    open_run,
    read_metrics,
    read_tokenizer,
    this_machine,
    write_config,
)
from transformer.training import load_checkpoint, save_checkpoint

__all__ = ["RunTrainer", "held_out_loss", "train_run"]


@torch.no_grad()
def held_out_loss(trainer: ParallelTrainer, examples: list[Example]) -> float:
    """The mean loss of a target token, without dropout."""
    trainer.model.eval()
    total, count = 0.0, 0
    for batch in token_batches(examples, trainer.config.max_tokens):
        tokens = int((batch.target[:, 1:] != trainer.model.config.pad_id).sum())
        batch = Batch(*(side.to(trainer.device) for side in batch))
        loss = batch_loss(trainer.model, batch, smoothing=trainer.config.smoothing)
        total, count = total + loss.item() * tokens, count + tokens
    return total / count


class RunTrainer(ParallelTrainer):
    """A trainer with a directory, for its metrics and its best model so far."""

    model: Transformer
    stopping = False  # True: raise KeyboardInterrupt after this step

    def __init__(self, folder: Path, settings: dict[str, Any], corpus: Corpus, **machine: Any):
        self.folder, self.every = folder, settings["every"]
        self.tokenizer = read_tokenizer(folder)
        sizes, config = configs_for(settings, len(self.tokenizer))
        limit = min(LONGEST, config.max_tokens)
        train, self.held_out = (
            [e for e in self.tokenizer.examples(pairs) if max(map(len, e)) <= limit]
            for pairs in (corpus.train, corpus.validation)
        )
        self.too_long = len(corpus.train) + len(corpus.validation)
        self.too_long -= len(train) + len(self.held_out)
        self.shown = corpus.validation[:100]
        torch.manual_seed(config.seed)
        super().__init__(Transformer(sizes), train, config, **machine)
        if (folder / "checkpoint.safetensors").exists():
            load_checkpoint(self, folder / "checkpoint.safetensors")
        self.metrics = read_metrics(folder, until=self.step)
        self.tokens, self.since = 0, time.perf_counter()

    def update(self, batch: Batch) -> None:
        """A step, and a report if it is time."""
        super().update(batch)
        self.tokens += int((batch.target[:, 1:] != self.model.config.pad_id).sum())
        last = self.step == self.config.steps
        if self.rank == 0 and (last or self.step % self.every == 0):
            _report(self, self.tokens / (time.perf_counter() - self.since))
            self.tokens, self.since = 0, time.perf_counter()
        if self.stopping:
            raise KeyboardInterrupt


def _report(trainer: RunTrainer, speed: float) -> None:
    """Measure on validation data, write it down, and keep the model if it is the best."""
    recent, loss = (
        trainer.losses[-trainer.every :],
        held_out_loss(trainer, trainer.held_out),
    )
    if not math.isfinite(loss):
        problem = f"validation loss {loss} after step {trainer.step}"
        raise FloatingPointError(f"{problem}; try a lower rate")
    sources, wanted = zip(*trainer.shown, strict=True)
    longest = max(len(trainer.tokenizer.encode(text)) for text in wanted) + 1
    said = translate(trainer.model, trainer.tokenizer, sources, max_length=longest)
    entry = {"step": trainer.step, "loss": sum(recent) / len(recent)}
    entry |= {"rate": trainer.optimizer.param_groups[0]["lr"]}
    entry |= {"tokens_per_second": round(speed), "validation_loss": loss}
    entry |= {"exact_match": exact_match(said, wanted)}
    trainer.metrics.append(entry)
    lines = "".join(json.dumps(entry) + "\n" for entry in trainer.metrics)
    write_whole(trainer.folder / "metrics.jsonl", lambda part: part.write_text(lines))
    if loss <= min(entry["validation_loss"] for entry in trainer.metrics):
        save_model(trainer.model, trainer.folder / "model.safetensors")
    percent = f"exact match {100 * entry['exact_match']:.0f} %"
    tqdm.write(f"step {trainer.step:,}: validation loss {loss:.3f}, {percent}")


@contextmanager
def _between_steps(trainer: RunTrainer) -> Iterator[None]:
    """Let Ctrl-C and a polite kill wait for the end of a step; a second one does not."""

    def stop(number: int, frame: FrameType | None) -> None:
        trainer.stopping = True
        signal.signal(number, before[number])

    wanted = (signal.SIGINT, signal.SIGTERM) if trainer.world_size == 1 else ()
    before: dict[int, Any] = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prepared(folder: Path, options: dict[str, Any]) -> tuple[dict[str, Any], Corpus]:
    """The settings and the corpus of a run; a new run gets its tokenizer."""
    rank, world_size = rank_and_size()
    if rank > 0:
        dist.barrier()  # let the first process write what the others read
    settings = open_run(folder, options)
    configs_for(settings, 300)  # refuse what cannot be before anything is written
    corpus, skipped = load_corpus(settings["corpus"])
    if skipped and rank == 0:
        print(f"skipped {skipped:,} pairs with an empty side")
    if not (folder / "tokenizer.json").exists():
        texts = [text for pair in corpus.train for text in pair]
        tokenizer = Tokenizer.train(texts, settings["vocab_size"])
        tokenizer.save(folder / "tokenizer.json")
    if rank == 0 and world_size > 1:
        dist.barrier()
    return settings, corpus


def _announce(trainer: RunTrainer, settings: dict[str, Any]) -> None:
    """Write down that this run begins, or goes on, here and now."""
    for left_over in trainer.folder.glob("*.part"):  # by a process that was killed
        left_over.unlink()
    session = {"from_step": trainer.step, "processes": trainer.world_size}
    session |= this_machine(trainer.device, bf16=trainer.bf16)
    write_config(trainer.folder, settings, trainer.model.config, session)
    if trainer.too_long:
        print(f"skipped {trainer.too_long:,} pairs with more than {LONGEST} tokens on a side")


def train_run(folder: Path, options: dict[str, Any], **machine: Any) -> bool:
    """Begin a run, or go on with it; False if it was asked to stop before its end.

    `machine` is what ParallelTrainer takes. ValueError if the run has other settings.
    """
    trainer = RunTrainer(folder, *_prepared(folder, options), **machine)
    if trainer.rank == 0:
        _announce(trainer, open_run(folder, options))
    checkpoint = folder / "checkpoint.safetensors"
    try:
        with _between_steps(trainer):
            trainer.run(checkpoint=checkpoint, every=trainer.every)
    except KeyboardInterrupt:
        if not trainer.stopping:
            raise
        save_checkpoint(trainer, checkpoint)
    if trainer.rank == 0 and trainer.metrics:
        best = min(trainer.metrics, key=lambda entry: entry["validation_loss"])
        print(f"model.safetensors: step {best['step']:,}, the lowest validation loss")
        try:
            draw_curve(trainer.metrics, folder / "curve.png")
        except ImportError:
            print("no curve.png: matplotlib is not installed")
    return trainer.step == trainer.config.steps
