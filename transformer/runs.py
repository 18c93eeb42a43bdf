"""Training in a directory: whatever stops it, it goes on.

Chapter: A command that trains
Exported from chapters/94_command_line.md; edit it there, not here.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from transformer.data import Corpus, Tokenizer
from transformer.parallel import first_before_others, rank_and_size
from transformer.recipes import configs_for, load_corpus
from transformer.run_files import draw_curve, open_run, this_machine, write_config
from transformer.run_models import choose_model, chosen, held_out_loss
from transformer.run_trainer import RunTrainer, Stopped
from transformer.training import save_checkpoint

__all__ = ["locked", "train_run"]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second training out of a folder; ValueError if there is one already.

    The lock ends with this process, however that ends. Where the system or the disk
    knows no locks, there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            import fcntl  # not on Windows

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another training is at work in {folder}") from error
        except (ImportError, OSError):
            pass
        yield


@contextmanager
def _between_steps(trainer: RunTrainer) -> Iterator[None]:
    """Let Ctrl-C and a polite kill wait for the end of a step; a second one does not."""

    def stop(number: int, frame: FrameType | None) -> None:
        trainer.stopping = True
        signal.signal(number, before[number])

    main = threading.current_thread() is threading.main_thread()  # no other may listen
    wanted = (signal.SIGINT, signal.SIGTERM) if main and trainer.world_size == 1 else ()
    before: dict[int, Any] = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(trainer: RunTrainer) -> None:
    """Train to the end, or until someone asks to stop."""
    checkpoint = trainer.folder / "checkpoint.safetensors"
    try:
        with _between_steps(trainer):
            trainer.run(checkpoint=checkpoint, every=trainer.every)
    except Stopped:
        save_checkpoint(trainer, checkpoint)


def _opened(folder: Path, options: dict[str, Any], *, learns: bool) -> tuple[dict[str, Any], Corpus]:
    """The settings and the corpus of a run, old or new; nothing is written."""
    settings = open_run(folder, options)
    configs_for(settings, 300)  # refuse what cannot be
    if learns:
        Tokenizer.train([], settings["vocab_size"])  # and so few pieces
    corpus, skipped = load_corpus(settings["corpus"])
    if skipped and rank_and_size()[0] == 0:
        print(f"skipped {skipped:,} pairs with an empty side")
    return settings, corpus


def _announce(trainer: RunTrainer, settings: dict[str, Any], corpus: Corpus) -> None:
    """Write down that this run begins, or goes on, here and now."""
    for left_over in trainer.folder.glob("*.part"):
        left_over.unlink()
    session = {"from_step": trainer.step, "processes": trainer.world_size}
    session |= this_machine(trainer.device, bf16=trainer.bf16)
    write_config(trainer.folder, settings, trainer.model.config, session)
    too_long = len(corpus.train) + len(corpus.validation)
    too_long -= len(trainer.examples) + len(trainer.held_out)
    if too_long:
        tokens = f"{trainer.longest} tokens on a side"
        print(f"skipped {too_long:,} pairs with more than {tokens}")


def _conclude(trainer: RunTrainer) -> None:
    """Say which model is the run's; at the end of the training, choose it first."""
    if trainer.step == trainer.config.steps:
        held_out, config, device = trainer.held_out, trainer.config, trainer.device
        choose_model(
            trainer.folder,
            trainer.metrics,
            lambda model: held_out_loss(model.to(device), held_out, config),
        )
    print(f"model.safetensors: {chosen(trainer.metrics)}")
    try:
        draw_curve(trainer.metrics, trainer.folder / "curve.png")
    except ImportError:
        print("no curve.png: matplotlib is not installed")


def train_run(
    folder: Path,
    options: dict[str, Any],
    *,
    tokenizer: Tokenizer | None = None,
    **machine: Any,
) -> bool:
    """Begin a run, or go on with it; False if it was asked to stop before its end.

    A new run learns its tokenizer from the corpus unless one is given; an old one keeps
    its own. `machine` is what DeviceTrainer takes. ValueError if the run has other
    settings, or if another training is at work in its folder.
    """
    first = rank_and_size()[0] == 0
    with first_before_others():
        learns = not tokenizer and not (folder / "config.json").exists()
        settings, corpus = _opened(folder, options, learns=learns)
    with locked(folder) if first else nullcontext():
        with first_before_others():
            if first and not (folder / "config.json").exists():
                texts = (text for pair in corpus.train for text in pair)
                learned = tokenizer or Tokenizer.train(texts, settings["vocab_size"])
                learned.save(folder / "tokenizer.json")
        trainer = RunTrainer(folder, settings, corpus, **machine)
        if first:
            _announce(trainer, settings, corpus)
        _run(trainer)
        finished = trainer.step == trainer.config.steps
        if first and trainer.metrics:
            _conclude(trainer)
        elif first and finished:
            print(f"all {trainer.step:,} steps are done; metrics.jsonl is missing")
    return finished
