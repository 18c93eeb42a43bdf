"""Score a training on Multi30k, and record it.

Train first, with the package's own command (`python -m transformer train --corpus multi30k --run RUN`). Then
this translates the test set with a beam of 5 and scores it in both usual ways: as people write, and without
regard to capitals, as in the papers. Writes chapters/records/multi30k.json. The data are downloaded, or read
from MULTI30K_DIR.

    python benchmarks/multi30k.py runs/multi30k-tiny --recipe tiny
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from record import RECORDS, Run, load_runs, provenance, save_runs

from transformer.data import Pair
from transformer.decoding import translate
from transformer.devices import pick_device
from transformer.downloads import multi30k
from transformer.evaluation import Bleu, bleu
from transformer.run_files import load_run, read_config, read_metrics

PATH = RECORDS / "multi30k.json"
ABOUT = "Multi30k, English to German: trained on the training split, scored once on test_2016_flickr."
SETTINGS: Run = {"beam": 5}

Score = Callable[[Sequence[str], Sequence[str]], Bleu]


def record_run(folder: Path, recipe: str, pairs: Sequence[Pair], scores: dict[str, Score]) -> None:
    """Translate with the model of a run, and record how good that is and where it comes from."""
    model, tokenizer = load_run(folder, pick_device())
    config, metrics = read_config(folder), read_metrics(folder)
    if metrics[-1]["step"] < config["settings"]["steps"]:
        raise SystemExit(f"{folder}: the training has only come to step {metrics[-1]['step']}")
    sources, wanted = zip(*pairs, strict=True)
    said = translate(model, tokenizer, sources, beam=SETTINGS["beam"])
    names = ("validation_loss", "average_loss")  # `train` has chosen the model with the lowest
    losses = [entry[name] for entry in metrics for name in names if name in entry]
    origin = provenance(config["settings"]["seed"], sum(entry["seconds"] for entry in metrics))
    new: Run = {
        "recipe": recipe,
        "settings": config["settings"],
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "validation_loss": min(losses),
    }
    new |= {name: score(said, wanted) for name, score in scores.items()}
    new["provenance"] = origin | config["sessions"][-1]
    others = [old for old in load_runs(PATH) if old["recipe"] != recipe]
    save_runs(PATH, ABOUT, SETTINGS, [*others, new])
    for name in scores:
        print(name, new[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the directory of a training that has come to its end")
    parser.add_argument("--recipe", required=True, help="what the book calls it")
    chosen = parser.parse_args()
    scores: dict[str, Score] = {"bleu": bleu, "lowercased": lambda *texts: bleu(*texts, lowercase=True)}
    record_run(chosen.run, chosen.recipe, multi30k().test, scores)


if __name__ == "__main__":
    main()
