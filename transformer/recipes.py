"""Corpora and sizes by name, and how they are trained.

Chapter: A command that trains
Exported from chapters/94_command_line.md; edit it there, not here.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from transformer.config import TransformerConfig
from transformer.corpora import fragment_corpus, numbers_corpus
from transformer.data import Corpus
from transformer.downloads import multi30k, read_pairs, split_by_source, tatoeba
from transformer.training import TrainingConfig

__all__ = [
    "CORPORA",
    "LONGEST",
    "RECIPES",
    "Recipe",
    "SIZES",
    "check_corpus",
    "configs_for",
    "load_corpus",
    "recipe_for",
    "settings_for",
]

CORPORA: dict[str, Callable[[], Corpus]] = {
    "numbers": numbers_corpus,
    "fragment": fragment_corpus,
    "multi30k": multi30k,
    "tatoeba": tatoeba,
}

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"d_model": 128, "num_heads": 4, "d_ff": 256},
    "small": {"d_model": 256, "num_heads": 4, "d_ff": 1024},
    "base": {},
    "big": {"d_model": 1024, "num_heads": 16, "d_ff": 4096},
}

LONGEST = 256  # tokens of a sentence: longer ones are neither learned nor translated


@dataclass(frozen=True)
class Recipe:
    """How a corpus is trained on, unless the command line says otherwise."""

    vocab_size: int
    steps: int
    max_tokens: int
    peak_rate: float
    warmup: int
    num_layers: int
    dropout: float
    norm_first: bool = False
    schedule: Literal["paper", "linear"] = "linear"


RECIPES = {  # of the size tiny; "files" is for everybody's own
    "numbers": Recipe(320, 1000, 1000, 2e-3, 100, 2, 0.0),
    "fragment": Recipe(860, 2700, 1000, 2e-3, 200, 2, 0.0),
    "multi30k": Recipe(10_000, 8000, 2500, 3e-3, 400, 4, 0.2, norm_first=True),
    "tatoeba": Recipe(10_000, 20_000, 4000, 3e-3, 1000, 4, 0.1, norm_first=True),
    "files": Recipe(10_000, 10_000, 4000, 3e-3, 1000, 4, 0.3, norm_first=True),
}


def recipe_for(corpus: str, size: str) -> Recipe:
    """The recipe of a corpus for a size; base and big are trained as in the paper.

    ValueError for another size.
    """
    recipe = RECIPES.get(corpus, RECIPES["files"])
    paper = {"num_layers": 6, "norm_first": False, "schedule": "paper"}
    paper |= {"max_tokens": 25_000, "warmup": 4000}
    changes: dict[str, dict[str, Any]] = {
        "tiny": {},
        "small": {"num_layers": 3, "dropout": 0.1, "peak_rate": recipe.peak_rate / 2},
        "base": paper | {"steps": 100_000, "dropout": 0.1},
        "big": paper | {"steps": 300_000, "dropout": 0.3},
    }
    if size not in changes:
        raise ValueError(f"unknown size {size}: choose {', '.join(changes)}")
    return replace(recipe, **changes[size])


def settings_for(options: dict[str, Any]) -> dict[str, Any]:
    """Every setting of a run: what was asked for, and the recipe's word on the rest.

    ValueError for an option that is no setting, and for an unknown size.
    """
    defaults: dict[str, Any] = {"corpus": ["numbers"], "size": "tiny", "seed": 0}
    known = {field.name for kind in (Recipe, TrainingConfig) for field in fields(kind)}
    known |= {*defaults, "every"}
    if unknown := sorted(options.keys() - known):
        wanted = ", ".join(sorted(known))
        raise ValueError(f"unknown setting {', '.join(unknown)}: choose from {wanted}")
    chosen = defaults | options
    recipe = recipe_for(chosen["corpus"][0], chosen["size"])
    settings = chosen | asdict(recipe) | options
    tenth = max(1, settings["steps"] // 10)
    settings["warmup"] = options.get("warmup", min(settings["warmup"], tenth))
    settings["every"] = options.get("every", min(500, tenth))
    return settings


def configs_for(settings: dict[str, Any], vocab_size: int) -> tuple[TransformerConfig, TrainingConfig]:
    """The settings as the model and the trainer take them; ValueError if they cannot be."""
    chosen: dict[str, Any] = dict(SIZES[settings["size"]])
    for name in ("num_layers", "dropout", "norm_first"):
        chosen[name] = settings[name]
    names = {field.name for field in fields(TrainingConfig)} & settings.keys()
    training = TrainingConfig(**{name: settings[name] for name in names})
    return TransformerConfig(vocab_size, **chosen), training


def check_corpus(names: Sequence[str]) -> None:
    """ValueError unless this is the name of a corpus, or two files."""
    if len(names) != 2 and not (len(names) == 1 and names[0] in CORPORA):
        known, given = ", ".join(CORPORA), " ".join(names)
        choice = f"choose {known}, or give SOURCE TARGET"
        raise ValueError(f"unknown corpus {given}: {choice}")


def load_corpus(names: Sequence[str]) -> tuple[Corpus, int]:
    """The corpus of that name, or of two files, and how many pairs of these are skipped.

    Skipped is a pair of which one side is empty. By their source sentences, a fiftieth
    of the others each is for validation and test. ValueError if that leaves none.
    """
    check_corpus(names)
    if len(names) == 1:
        return CORPORA[names[0]](), 0
    pairs = read_pairs(*names)
    whole = [pair for pair in pairs if all(pair)]
    corpus = split_by_source(whole)
    if not (corpus.train and corpus.validation and corpus.test):
        problem = f"{len(whole)} pairs are too few to hold some out for tests"
        raise ValueError(f"{names[0]}: {problem}")
    return corpus, len(pairs) - len(whole)
