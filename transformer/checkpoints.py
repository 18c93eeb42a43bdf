"""Weights and settings in one file, written whole or not at all.

Chapter: Learning
Exported from chapters/11_learning.md; edit it there, not here.
"""

import json
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from transformer.config import TransformerConfig
from transformer.files import write_whole
from transformer.model import Transformer

__all__ = ["load_model", "load_tensors", "save_model", "save_tensors", "unprefixed"]


def save_tensors(path: str | Path, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Write a safetensors file with JSON settings in its header, whole or not at all."""
    settings = {**settings, "checksum": _checksum(tensors), "torch": torch.__version__}
    header = {"settings": json.dumps(settings)}
    write_whole(path, lambda part: save_file(tensors, part, header))


def _checksum(tensors: dict[str, Tensor]) -> int:
    checksum = 0
    for name, tensor in sorted(tensors.items()):
        content = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(name.encode() + content.tobytes(), checksum)
    return checksum


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote; ValueError if it is damaged or foreign."""
    try:
        with safe_open(path, "pt") as file:
            settings = json.loads(file.metadata()["settings"])
            names = list(file.keys())
            # copies, or it stays in use: Windows replaces no file that is
            tensors = {name: file.get_tensor(name).clone() for name in names}
        if settings["checksum"] != _checksum(tensors):
            raise ValueError("the checksum is wrong")
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or not a file of this package") from error
    return tensors, settings


def unprefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, under names without it."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors[name] for name in names}


def save_model(model: Transformer, path: str | Path) -> None:
    """Write the weights as safetensors, and the sizes as JSON in the file's header.

    TypeError for another model than a Transformer, which `load_model` could not read.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped
    if type(model) is not Transformer:  # nor a subclass: the file does not name it
        raise TypeError(f"only a Transformer can be saved, not a {type(model).__name__}")
    save_tensors(path, model.state_dict(), {"model": asdict(model.config)})


def load_model(path: str | Path) -> Transformer:
    """Read what `save_model` or `save_checkpoint` wrote; ValueError if damaged."""
    tensors, settings = load_tensors(path)
    try:
        model = Transformer(TransformerConfig(**settings["model"]))
        model.load_state_dict(unprefixed(tensors, "model.") or tensors)
    except (RuntimeError, TypeError, KeyError) as error:
        raise ValueError(f"{path} does not hold the weights that it names") from error
    return model.eval()
