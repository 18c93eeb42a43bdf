"""The files in a run's directory.

Chapter: A command that trains
Exported from chapters/94_command_line.md; edit it there, not here.
"""

import json
import math
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from transformer.checkpoints import load_model
from transformer.config import TransformerConfig
from transformer.data import Tokenizer
from transformer.files import write_whole
from transformer.model import Transformer
from transformer.recipes import settings_for

__all__ = [
    "draw_curve",
    "load_run",
    "open_run",
    "read_config",
    "read_metrics",
    "read_tokenizer",
    "this_machine",
    "write_config",
    "write_metrics",
]


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says of a run; ValueError if it is not there or not ours."""
    path = folder / "config.json"
    if not path.exists():
        problem = f"there is no run in {folder}: {path.name} is missing"
        raise ValueError(f"{problem}; train one first, or name another with --run")
    try:
        config = json.loads(path.read_bytes())
        return {name: config[name] for name in ("settings", "model", "sessions")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or not a file of this package") from error


def write_config(
    folder: Path,
    settings: dict[str, Any],
    config: TransformerConfig,
    session: dict[str, Any],
) -> None:
    """Write config.json; a session says from which step and on what a run went on."""
    path = folder / "config.json"
    before = read_config(folder)["sessions"] if path.exists() else []
    content = {"settings": settings, "model": asdict(config)}
    text = json.dumps(content | {"sessions": [*before, session]}, indent=2) + "\n"
    write_whole(path, lambda part: part.write_text(text))


def this_machine(device: torch.device, *, bf16: bool) -> dict[str, Any]:
    """Device, number format, threads and versions, for the record."""
    gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if gpu else platform.machine()
    return {
        "device": f"{device.type}, {name}",
        "dtype": "float32, computed in bfloat16" if bf16 else "float32",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def open_run(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The settings of the run in a folder, old or new; ValueError if the options differ."""
    if (folder / "config.json").exists():
        settings = settings_for(read_config(folder)["settings"])
        for name, value in options.items():
            old: Any = settings.get(name)
            if name == "corpus" and len(old) == len(value) == 2:
                settings[name] = value  # the files have moved; the checkpoint knows them
            elif old != value:
                problem = f"{folder} was begun with {name} {old}, not {value}"
                advice = "leave it out to go on, or choose another --run"
                raise ValueError(f"{problem}: {advice}")
        checkpoint = (folder / "checkpoint.safetensors").exists()
        model = (folder / "model.safetensors").exists()
        if model and not checkpoint and len(read_metrics(folder)) != 1:
            problem = f"{folder} holds a model, but no checkpoint to go on from"
            raise ValueError(f"{problem}: choose another --run")
        return settings
    for path in sorted(folder.glob("*")):
        if path.name not in ("tokenizer.json", "lock") and path.suffix != ".part":
            raise ValueError(f"{folder} is not a run's directory: it holds {path.name}")
    return settings_for(options)


def read_metrics(folder: Path, until: float = math.inf) -> list[dict[str, Any]]:
    """The reports of a run, up to a step; ValueError if the file is damaged."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        return [entry for entry in map(json.loads, lines) if entry["step"] <= until]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or not a file of this package") from error


def write_metrics(folder: Path, metrics: list[dict[str, Any]]) -> None:
    """Write all reports of a run anew, so that no line is ever half written."""
    text = "".join(json.dumps(entry) + "\n" for entry in metrics)
    write_whole(folder / "metrics.jsonl", lambda part: part.write_text(text))


def draw_curve(metrics: list[dict[str, Any]], path: Path) -> None:
    """Both losses by step, and exact match; ImportError without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure((7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [entry["step"] for entry in metrics]
    for name in ("loss", "validation_loss"):
        values = [entry[name] for entry in metrics]
        left.plot(steps, values, label=name.replace("_", " "))
    percent = [100 * entry["exact_match"] for entry in metrics]
    right.plot(steps, percent, "o-", color="C2")
    left.set(xlabel="step", ylabel="nats per token")
    right.set(xlabel="step", ylabel="exact match, in %", ylim=(0, 104))
    left.legend()
    write_whole(path, lambda part: figure.savefig(part, format="png", dpi=150))


def read_tokenizer(folder: Path) -> Tokenizer:
    """A run's tokenizer; ValueError if it is damaged."""
    path = folder / "tokenizer.json"
    try:
        return Tokenizer.load(path)
    except Exception as error:  # the library knows no narrower kind
        raise ValueError(f"{path} is missing or damaged: {error}") from error


def _read_model(folder: Path) -> Transformer:
    """model.safetensors; ValueError if damaged, or not what config.json describes."""
    path, config = folder / "model.safetensors", read_config(folder)["model"]
    if not path.exists():
        raise ValueError(f"there is no model in {folder}: train until the first report")
    model = load_model(path)
    sizes = asdict(model.config)
    if differing := [name for name in sizes if config.get(name) != sizes[name]]:
        raise ValueError(f"{path} and config.json differ in {', '.join(differing)}")
    return model


def load_run(folder: str | Path, device: str | torch.device = "cpu") -> tuple[Transformer, Tokenizer]:
    """A run's model, in eval mode, and its tokenizer; ValueError if they do not fit together."""
    folder = Path(folder)
    model, tokenizer = _read_model(folder), read_tokenizer(folder)
    if len(tokenizer) != model.config.vocab_size:
        pieces = f"tokenizer.json has {len(tokenizer)} pieces"
        raise ValueError(f"{folder}: {pieces}, but the model {model.config.vocab_size}")
    return model.to(device), tokenizer
