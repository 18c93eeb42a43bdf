"""Write a trained model as a script for the translator in the page: `python tools/export_web.py RUN SCRIPT`.

The script calls `bookModel` with the sizes, the tokeniser, the weights and the words that the model knows.
It is a classic script, so that a page can load it from a folder as well as from a server.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Iterable, KeysView
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformer.corpora import fragment_corpus
from transformer.files import write_whole
from transformer.fragment.clauses import LINKS
from transformer.fragment.nouns import ADJECTIVES, NOUNS, PREPOSITIONS
from transformer.fragment.phrases import determiners
from transformer.fragment.verbs import TENSES, TIMES, VERBS
from transformer.run_files import load_run, read_config


def quantise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Integers from -127 to 127 and a scale for each row, whose product is nearly the matrix."""
    scales = matrix.abs().amax(1) / 127  # (rows,)
    rounded = (matrix / scales.clamp_min(1e-30)[:, None]).round()  # (rows, columns)
    return rounded.to(torch.int8), scales


def weights(model: torch.nn.Module) -> dict[str, Any]:
    """Names and shapes in order; scales and vectors as float32, matrices as int8, both in base64."""
    shapes, floats, integers = [], [], []
    for name, tensor in model.state_dict().items():
        shapes.append([name, *tensor.shape])
        if tensor.dim() == 2:
            matrix, tensor = quantise(tensor)
            integers.append(matrix.flatten())
        floats.append(tensor)
    joined = {"floats": torch.cat(floats).numpy().astype("<f4"), "integers": torch.cat(integers).numpy()}
    return {"shapes": shapes} | {name: base64.b64encode(x.tobytes()).decode() for name, x in joined.items()}


def letters() -> list[str]:
    """The visible letter as which byte-level BPE writes each byte."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte if byte in visible else 256 + hidden.index(byte)) for byte in range(256)]


def tokenizer(folder: Path) -> dict[str, Any]:
    """The id of each byte, and the joins in the order in which they were learned: left, right, result."""
    model = json.loads((folder / "tokenizer.json").read_bytes())["model"]
    ids = model["vocab"]
    joins = [[ids[left], ids[right], ids[left + right]] for left, right in model["merges"]]
    return {"bytes": [ids[letter] for letter in letters()], "joins": joins}


def single(texts: Iterable[str]) -> KeysView[str]:
    """The words of some texts, each once; "forty-two" is two."""
    return dict.fromkeys(word for text in texts for word in text.replace("-", " ").split()).keys()


def fragment_words() -> dict[str, list[str]]:
    """The English of the fragment, by kind: what may be typed."""
    seen = single(source for source, _ in fragment_corpus().train)
    articles = [text for text, kind in determiners().items() if isinstance(kind, str)]
    tenses = [form for tense in TENSES.values() for form in (tense.english_singular, tense.english_plural)]
    forms = [form for verb in VERBS.values() for form in (verb.base, verb.third, verb.past, verb.participle)]
    words: dict[str, Iterable[str]] = {
        "nouns": [form for noun in NOUNS.values() for form in (noun.english, noun.english_plural)],
        "before a noun": articles,
        "numbers": [word for word in single(determiners()) if word not in articles],
        "adjectives": ADJECTIVES,
        "verbs": [*filter(None, tenses), *forms],
        "prepositions": [*PREPOSITIONS, "to"],
        "times": TIMES,
        "conjunctions": LINKS,
    }
    # each once, and only what the model has met in its training
    return {kind: [e for e in dict.fromkeys(each) if seen >= {*e.split()}] for kind, each in words.items()}


# Corpora with so few words that the page can list them. A model of any other takes whatever is typed.
WORDS = {"fragment": fragment_words}


def script(folder: Path) -> str:
    """The model in a run's folder as a script; ValueError if the page could not compute it."""
    model, _ = load_run(folder, torch.device("cpu"))
    if model.config.norm_first or model.config.positions != "sinusoidal":
        raise ValueError(f"{folder}: the page knows post-norm models with sinusoidal positions only")
    corpus = read_config(folder)["settings"]["corpus"][0]
    content = {"config": asdict(model.config), "tokenizer": tokenizer(folder)}
    content |= {"words": WORDS.get(corpus, dict)(), "weights": weights(model)}
    return f"bookModel({json.dumps(content, separators=(',', ':'))});\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("script", type=Path, help="where to write")
    options = parser.parse_args()
    text = script(options.run)
    write_whole(options.script, lambda part: part.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
