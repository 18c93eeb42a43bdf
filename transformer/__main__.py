"""The command line: `python -m transformer`.

Chapter: A command that trains
Exported from chapters/94_command_line.md; edit it there, not here.
"""

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from transformer.commands import evaluate_command, train_command, translate_command
from transformer.recipes import CORPORA, RECIPES, SIZES, Recipe, check_corpus

__all__ = ["main"]

_EXAMPLES = """\
examples:
  python -m transformer train                      numbers, in a minute or two on a CPU
  python -m transformer translate                  type "forty-two thousand nine"
  python -m transformer evaluate
  python -m transformer train --corpus my.en my.de --run runs/mine --steps 5000
  python -m transformer train --run runs/mine      go on where it was stopped
  python -m transformer translate --run runs/mine <in.txt >out.txt
  torchrun --nproc-per-node 8 -m transformer train --corpus multi30k --size base
  torchrun --nproc-per-node 8 -m -- transformer train --run runs/big --size big
"""


def _recipe_table() -> str:
    names = [field.name for field in fields(Recipe) if field.name != "schedule"]
    rows = [["corpus", *names]]
    for corpus, recipe in RECIPES.items():
        rows.append([corpus, *(str(getattr(recipe, name)) for name in names)])
    lines = ["  ".join(f"{cell:>10}" for cell in row) for row in rows]
    return "recipes of the size tiny:\n" + "\n".join(lines)


def _count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


_DEVICE = "cpu, cuda, cuda:1 … (default: the best there is)"
_NUMBERS = (  # what can be said of a training, of which kind it is, and what it means
    ("--steps", _count, "batches to learn from"),
    ("--max-tokens", _count, "tokens of a batch, on each side"),
    ("--peak-rate", float, "highest learning rate"),
    ("--warmup", _count, "steps until the highest rate"),
    ("--dropout", float, "share of numbers set to zero"),
    ("--vocab-size", _count, "pieces of the tokenizer"),
    ("--every", _count, "steps between reports and checkpoints"),
    ("--seed", int, "what all random numbers depend on"),
)


def _add_training(train: argparse.ArgumentParser) -> None:
    """The options of train."""
    known = f"{', '.join(CORPORA)}, or two files"
    train.add_argument("--corpus", nargs="+", help=known)
    train.add_argument("--size", choices=SIZES)
    for name, kind, text in _NUMBERS:
        train.add_argument(name, type=kind, help=text)
    either = argparse.BooleanOptionalAction
    train.add_argument("--bf16", action=either, help="in 16 bits (default: on a GPU)")
    train.add_argument("--compile", action="store_true", help="use torch.compile")
    train.add_argument("--run", type=Path, help="directory (default: runs/CORPUS-SIZE)")
    train.add_argument("--device", help=_DEVICE)


def _add_using(command: argparse.ArgumentParser) -> None:
    """The options of evaluate and translate."""
    usual = Path("runs", "numbers-tiny")
    text = "beginnings to keep (default: 1; 5 is usual)"
    command.add_argument("--beam", type=_count, default=1, help=text)
    command.add_argument("--run", type=Path, default=usual, help=f"default: {usual}")
    command.add_argument("--device", default="auto", help=_DEVICE)


def _parser() -> argparse.ArgumentParser:
    raw: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("python -m transformer", epilog=_EXAMPLES, **raw)
    commands = parser.add_subparsers(dest="command", required=True)
    absent = raw | {"argument_default": argparse.SUPPRESS, "epilog": _recipe_table()}
    train = commands.add_parser("train", help="train a model, or go on", **absent)
    scored, typed = "score held-out sentences", "translate standard input, or what you type"
    evaluate = commands.add_parser("evaluate", help=scored)
    speak = commands.add_parser("translate", help=typed)
    splits = ["test", "validation", "unseen"]
    evaluate.add_argument("--split", choices=splits, default="test")
    names, meant = ("SOURCE", "TARGET"), "two files, to score all of them instead"
    evaluate.add_argument("--files", nargs=2, metavar=names, help=meant)
    _add_training(train)
    _add_using(evaluate)
    _add_using(speak)
    return parser


_FORESEEN = (ValueError, OSError, ArithmeticError, RuntimeError, SafetensorError)
_COMMANDS = {
    "train": train_command,
    "evaluate": evaluate_command,
    "translate": translate_command,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 if it failed, 130 if it was stopped.

    SystemExit, with the code 2, if it is not understood.
    """
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    try:
        check_corpus(options.get("corpus", ["numbers"]))
    except ValueError as error:
        parser.error(str(error))
    try:
        return _COMMANDS[options.pop("command")](options)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever was reading has heard enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nor does Python, at its end, complain
        return 1
    except _FORESEEN as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
