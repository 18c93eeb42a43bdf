"""What the command line can do: train, evaluate, translate.

Chapter: A command that trains
Exported from chapters/94_command_line.md; edit it there, not here.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from transformer.data import Tokenizer
from transformer.decoding import translate
from transformer.devices import pick_device
from transformer.downloads import read_pairs, text_lines
from transformer.evaluation import bleu, exact_match
from transformer.model import Transformer
from transformer.parallel import processes
from transformer.recipes import LONGEST, load_corpus
from transformer.run_files import load_run, read_config
from transformer.runs import train_run

__all__ = ["evaluate_command", "scores", "train_command", "translate_command", "translate_lines"]


def _machine(options: dict[str, Any]) -> dict[str, Any]:
    """What DeviceTrainer takes, of the options, which keep the rest."""
    device = pick_device(options.pop("device", "auto"))
    gpu = device.type == "cuda"
    bf16 = options.pop("bf16", gpu and torch.cuda.is_bf16_supported())
    machine = {"device": device, "bf16": bf16, "multiple": 8 if gpu else 1}
    return machine | {"compile": options.pop("compile", False)}


def train_command(options: dict[str, Any]) -> int:
    """Begin a run, or go on with it; the exit code is 130 if it was asked to stop."""
    machine, corpus = _machine(options), options.get("corpus", ["numbers"])
    if len(corpus) == 2:
        options["corpus"] = [str(Path(name).resolve()) for name in corpus]
    name = corpus[0] if len(corpus) == 1 else "files"
    usual = Path("runs", f"{name}-{options.get('size', 'tiny')}")
    folder = options.pop("run", usual)
    with processes(machine["device"]):
        finished = train_run(folder, options, **machine)
    if not finished:
        print(f"stopped; to go on: python -m transformer train --run {folder}")
    return 0 if finished else 130


def scores(said: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Lines to print: exact match, and BLEU, if any, with and without capitals."""
    right = 100 * exact_match(said, wanted)
    lines = [f"exact match  {right:.1f} % of {len(wanted):,} sentences"]
    if max(len(text.split()) for text in wanted) < 4:
        why = "it counts runs of four words, and no reference has one"
        return [*lines, f"no BLEU: {why}"]
    try:
        lines.append(f"as written   {bleu(said, wanted)}")
        lines.append(f"lower case   {bleu(said, wanted, lowercase=True)}")
    except ImportError:
        lines.append("no BLEU: sacrebleu is not installed")
    return lines


def evaluate_command(options: dict[str, Any]) -> int:
    """Score a run on held-out sentences; ValueError if there are none."""
    folder, split, files = options["run"], options["split"], options["files"]
    model, tokenizer = load_run(folder, pick_device(options["device"]))
    if files:
        pairs, where = read_pairs(*files), files[0]
    else:
        corpus, _ = load_corpus(read_config(folder)["settings"]["corpus"])
        pairs, where = getattr(corpus, split), f"the part {split} of this corpus"
    if not pairs:
        raise ValueError(f"there are no sentences in {where}")
    sources, wanted = map(list, zip(*pairs, strict=True))
    said, _ = translate_lines(model, tokenizer, sources, options["beam"])
    print(*scores(said, wanted), sep="\n")
    return 0


def translate_lines(
    model: Transformer, tokenizer: Tokenizer, lines: list[str], beam: int
) -> tuple[list[str], int]:
    """A translation for each line, "" if that is empty or too long; how many are that."""
    lengths = [len(tokenizer.encode(line)) for line in lines]
    fitting = [number for number, length in enumerate(lengths) if 0 < length < LONGEST]
    shown = len(lines) > 1 and sys.stderr.isatty()  # a bar
    some = [lines[number] for number in fitting]
    said = translate(model, tokenizer, some, beam=beam, progress=shown)
    found = dict(zip(fitting, said, strict=True))
    too_long = [number for number, length in enumerate(lengths) if length >= LONGEST]
    for number in too_long:
        problem = f"{lengths[number]} tokens, more than {LONGEST - 1}: not translated"
        print(f"line {number + 1}: {problem}", file=sys.stderr)
    return [found.get(number, "") for number in range(len(lines))], len(too_long)


def translate_command(options: dict[str, Any]) -> int:
    """Translate standard input, or what is typed; the exit code is 1 for long lines.

    ValueError if the input is closed, or is not UTF-8.
    """
    model, tokenizer = load_run(options["run"], pick_device(options["device"]))
    if sys.stdin is None:
        raise ValueError("there is nothing to translate: standard input is closed")
    if sys.stdin.isatty():
        print("Type a sentence, or Ctrl-D to end.")
        while True:
            try:
                line = input("> ").strip()
                line.encode()
            except EOFError:
                return 0
            except UnicodeError:
                print("This is not UTF-8.")
                continue
            print(*translate_lines(model, tokenizer, [line], options["beam"])[0])
    content = sys.stdin.buffer.read()
    lines = text_lines(content, "input")
    translations, failed = translate_lines(model, tokenizer, lines, options["beam"])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    print("".join(f"{line}\n" for line in translations), end="", flush=True)
    return 1 if failed else 0
