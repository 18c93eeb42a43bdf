"""Which of a run's models are kept, and which is the best.

Chapter: A command that trains
Exported from chapters/94_command_line.md; edit it there, not here.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformer.checkpoints import load_model, load_tensors, save_model
from transformer.data import Example, Pair, Tokenizer
from transformer.decoding import translate
from transformer.evaluation import average_weights, exact_match, mean_surprise
from transformer.model import Transformer
from transformer.run_files import write_metrics
from transformer.training import TrainingConfig

__all__ = [
    "KEPT",
    "best_report",
    "choose_model",
    "chosen",
    "held_out_loss",
    "keep_model",
    "last_models",
    "share_right",
]


def held_out_loss(model: Transformer, examples: Sequence[Example], config: TrainingConfig) -> float:
    """The training's loss per target token, without dropout; the model is left in eval mode."""
    tokens, smoothing = config.max_tokens, config.smoothing
    return mean_surprise(model.eval(), examples, max_tokens=tokens, smoothing=smoothing)


def share_right(model: Transformer, tokenizer: Tokenizer, pairs: Sequence[Pair]) -> float:
    """Exact match of translations that are cut off where they must be wrong."""
    sources, wanted = zip(*pairs, strict=True)
    longest = max(len(tokenizer.encode(text)) for text in wanted) + 1
    said = translate(model, tokenizer, sources, max_length=longest)
    return exact_match(said, wanted)


KEPT = 5  # as many as the paper averages for its base model


def last_models(folder: Path, metrics: list[dict[str, Any]]) -> list[Path]:
    """The files of the models of the last reports, oldest first."""
    return [folder / f"model-{entry['step']}.safetensors" for entry in metrics[-KEPT:]]


def best_report(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """The report with the lowest validation loss."""
    return min(metrics, key=lambda entry: entry["validation_loss"])


def keep_model(folder: Path, model: Transformer, metrics: list[dict[str, Any]]) -> None:
    """Keep the model of the last report, also as model.safetensors if it is the best."""
    last = last_models(folder, metrics)
    save_model(model, last[-1])
    if best_report(metrics) is metrics[-1]:
        save_model(model, folder / "model.safetensors")
    for path in set(folder.glob("model-*.safetensors")) - set(last):
        path.unlink()


def choose_model(
    folder: Path,
    metrics: list[dict[str, Any]],
    loss_of: Callable[[Transformer], float],
) -> None:
    """At the end, once: make the average of the last models the run's, if it is better."""
    paths = [path for path in last_models(folder, metrics) if path.exists()]
    if len(paths) < 2 or "average_loss" in metrics[-1]:
        return
    model = load_model(paths[-1])
    model.load_state_dict(average_weights([load_tensors(path)[0] for path in paths]))
    loss = loss_of(model)
    if loss < best_report(metrics)["validation_loss"]:
        save_model(model, folder / "model.safetensors")
    metrics[-1]["average_loss"] = loss
    write_metrics(folder, metrics)


def chosen(metrics: list[dict[str, Any]]) -> str:
    """Which model is the run's, in words."""
    best, average = best_report(metrics), metrics[-1].get("average_loss", math.inf)
    single = f"step {best['step']:,}, validation loss {best['validation_loss']:.3f}"
    if average < best["validation_loss"]:
        mean = f"the average of the last reports, validation loss {average:.3f}"
        return f"{mean}; the best single one: {single}"
    return f"{single}, the lowest"
