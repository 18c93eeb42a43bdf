"""The command line: `python -m transformer`.

Chapter: On a GPU, and on many
Exported from chapters/12_gpu.md; edit it there, not here.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from transformer.data import Tokenizer
from transformer.decoding import translate
from transformer.downloads import text_lines
from transformer.evaluation import bleu, exact_match
from transformer.model import Transformer
from transformer.parallel import pick_device, processes
from transformer.recipes import CORPORA, LONGEST, RECIPES, SIZES, load_corpus
from transformer.run_files import load_run, read_config
from transformer.runs import train_run

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
    names = list(next(iter(RECIPES.values())).__dataclass_fields__)[:-1]
    rows = [["corpus", *names]]
    rows += [[corpus, *(str(getattr(r, name)) for name in names)] for corpus, r in RECIPES.items()]
    lines = ["  ".join(f"{cell:>10}" for cell in row) for row in rows]
    return "recipes of the size tiny:\n" + "\n".join(lines)


def _count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m transformer", epilog=_EXAMPLES, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train",
        epilog=_recipe_table(),
        formatter_class=raw,
        help="train a model, or go on",
    )
    given: dict[str, Any] = {"default": argparse.SUPPRESS}
    train.add_argument("--corpus", nargs="+", **given, help=f"{', '.join(CORPORA)}, or two files")
    train.add_argument("--size", choices=SIZES, **given)
    for name, kind, text in (
        ("--steps", _count, "batches to learn from"),
        ("--max-tokens", _count, "tokens of a batch, on each side"),
        ("--peak-rate", float, "highest learning rate"),
        ("--warmup", _count, "steps until the highest rate"),
        ("--dropout", float, "share of numbers set to zero"),
        ("--vocab-size", _count, "pieces of the tokenizer"),
        ("--every", _count, "steps between reports and checkpoints"),
        ("--seed", int, "what all random numbers depend on"),
    ):
        train.add_argument(name, type=kind, **given, help=text)
    train.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="default: on a GPU")
    train.add_argument("--compile", action="store_true", help="translate the model with torch.compile")
    evaluate = commands.add_parser("evaluate", help="score a trained model on held-out sentences")
    evaluate.add_argument("--split", choices=["test", "validation", "unseen"], default="test")
    speak = commands.add_parser("translate", help="translate standard input, or what you type")
    for command in (evaluate, speak):
        text = "how many beginnings to keep (default: 1; 5 is usual)"
        command.add_argument("--beam", type=_count, default=1, help=text)
    for command in commands.choices.values():
        command.add_argument("--run", type=Path, help="the directory (default: runs/CORPUS-SIZE)")
        command.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 … (default: the best)")
    return parser


def _train(options: dict[str, Any]) -> int:
    folder, device = options.pop("run"), pick_device(options.pop("device"))
    machine = {name: options.pop(name) for name in ("bf16", "compile")}
    if machine["bf16"] is None:
        machine["bf16"] = device.type == "cuda" and torch.cuda.is_bf16_supported()
    machine |= {"device": device, "multiple": 8 if device.type == "cuda" else 1}
    corpus = options.get("corpus", ["numbers"])
    if len(corpus) == 2:
        options["corpus"] = [str(Path(name).resolve()) for name in corpus]
    name = corpus[0] if len(corpus) == 1 else "files"
    folder = folder or Path("runs", f"{name}-{options.get('size', 'tiny')}")
    with processes(device):
        finished = train_run(folder, options, **machine)
    if not finished:
        print(f"stopped; to go on: python -m transformer train --run {folder}")
    return 0 if finished else 130


def _evaluate(options: dict[str, Any]) -> int:
    folder = options["run"] or Path("runs/numbers-tiny")
    model, tokenizer = load_run(folder, pick_device(options["device"]))
    corpus, _ = load_corpus(read_config(folder)["settings"]["corpus"])
    pairs = getattr(corpus, options["split"])
    if not pairs:
        raise ValueError(f"this corpus has no sentences for {options['split']}")
    sources, wanted = zip(*pairs, strict=True)
    said = translate(model, tokenizer, sources, beam=options["beam"])
    print(f"exact match {100 * exact_match(said, wanted):.1f} % of {len(wanted)} sentences")
    try:
        print(bleu(said, wanted))
    except ImportError:
        print("no BLEU: sacrebleu is not installed")
    return 0


def _translated(
    model: Transformer, tokenizer: Tokenizer, lines: list[str], beam: int
) -> tuple[list[str], int]:
    """A translation for each line, empty where the line is empty or too long; how many are."""
    lengths = [len(tokenizer.encode(line)) for line in lines]
    fitting = [number for number, length in enumerate(lengths) if 0 < length < LONGEST]
    texts = [lines[number] for number in fitting]
    said = translate(model, tokenizer, texts, beam=beam)
    found = dict(zip(fitting, said, strict=True))
    too_long = [number for number, length in enumerate(lengths) if length >= LONGEST]
    for number in too_long:
        problem = f"{lengths[number]} tokens, more than {LONGEST - 1}: not translated"
        print(f"line {number + 1}: {problem}", file=sys.stderr)
    return [found.get(number, "") for number in range(len(lines))], len(too_long)


def _translate(options: dict[str, Any]) -> int:
    folder = options["run"] or Path("runs/numbers-tiny")
    model, tokenizer = load_run(folder, pick_device(options["device"]))
    beam = options["beam"]
    if sys.stdin.isatty():
        print("Type a sentence, or Ctrl-D to end.")
        while True:
            try:
                print(*_translated(model, tokenizer, [input("> ").strip()], beam)[0])
            except EOFError:
                return 0
    content = sys.stdin.buffer.read()
    lines = text_lines(content, "input") if content else []
    translations, failed = _translated(model, tokenizer, lines, beam)
    for line in translations:
        print(line)
    return 1 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 if it failed, 2 if it was not understood."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    corpus = options.get("corpus", ["numbers"])
    if len(corpus) > 2 or (len(corpus) == 1 and corpus[0] not in CORPORA):
        parser.error(f"unknown corpus {' '.join(corpus)}: {', '.join(CORPORA)}, or two files")
    commands = {"train": _train, "evaluate": _evaluate, "translate": _translate}
    try:
        return commands[options.pop("command")](options)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (
        ValueError,
        OSError,
        ArithmeticError,
        RuntimeError,
        SafetensorError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
