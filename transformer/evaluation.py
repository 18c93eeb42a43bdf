"""BLEU and exact match.

Chapter: How good is it?
Exported from chapters/14_results.md; edit it there, not here.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from transformer.data import Batch, Example, token_batches
from transformer.encoder_decoder import EncoderDecoder
from transformer.learning import batch_loss, target_tokens

__all__ = [
    "Bleu",
    "average_models",
    "average_weights",
    "bleu",
    "bootstrap_interval",
    "exact_match",
    "mean_surprise",
    "seed_interval",
]


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references) or not references:
        raise ValueError(f"{len(hypotheses)} translations for {len(references)} references")


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The share of translations that are their reference, to the last letter.

    ValueError if there are not as many of these as of those, or none.
    """
    _check(hypotheses, references)
    pairs = zip(hypotheses, references, strict=True)
    return sum(said == wanted for said, wanted in pairs) / len(references)


class Bleu(NamedTuple):
    """A BLEU and the signature without which it means little."""

    score: float  # 0 to 100
    signature: str

    def __str__(self) -> str:
        return f"BLEU {self.score:.1f}  {self.signature}"


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    lowercase: bool = False,
    tokenize: str = "13a",
) -> Bleu:
    """Corpus BLEU by sacrebleu, one reference a sentence.

    `tokenize` is sacrebleu's name of a way to cut text into words: "13a" for ordinary
    text, "none" for text whose words are separated by spaces already. ImportError without
    sacrebleu, ValueError if there are not as many references as translations, or none.
    """
    _check(hypotheses, references)
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise ImportError("BLEU needs sacrebleu: pip install sacrebleu") from error
    separated = tokenize == "none"  # then it need not warn that they are
    metric = BLEU(lowercase=lowercase, tokenize=tokenize, force=separated)
    score = metric.corpus_score(list(hypotheses), [list(references)]).score
    return Bleu(score, str(metric.get_signature()))


def bootstrap_interval(
    values: Sequence[float],
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Where the mean of `values`, one a sentence, would lie on other such test sets.

    A percentile interval over `samples` sets drawn from these with replacement.
    """
    scores = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(scores), (samples, len(scores)), generator=generator)
    means = scores[rows].mean(1)  # (samples,)
    ends = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = means.quantile(ends).tolist()
    return low, high


_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # n = 2 … 10


def seed_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of 2 to 10 runs and half-width of its 95 % interval, by Student's t.

    ValueError for fewer or more.
    """
    if not 2 <= len(values) <= len(_T95) + 1:
        raise ValueError(f"from 2 to {len(_T95) + 1} runs, not {len(values)}")
    runs = torch.tensor(values, dtype=torch.float64)
    t = _T95[len(values) - 2]
    return runs.mean().item(), t * runs.std().item() / math.sqrt(len(values))


def average_weights(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several state dicts, tensor by tensor (Sec. 6.1).

    What is not floating-point is taken from the last. ValueError if they do not match.
    """
    shapes = [{name: t.shape for name, t in state.items()} for state in states]
    if not states or any(other != shapes[0] for other in shapes):
        raise ValueError("weights of one model at several steps are needed")
    mean = dict(states[-1])
    for name, tensor in mean.items():
        if tensor.is_floating_point():
            mean[name] = torch.stack([state[name] for state in states]).mean(0)
    return mean


_Model = TypeVar("_Model", bound=EncoderDecoder)


def average_models(models: Sequence[_Model]) -> _Model:
    """A new model with the mean of several models' weights."""
    weights = average_weights([model.state_dict() for model in models])
    model = copy.deepcopy(models[-1])
    model.load_state_dict(weights)
    return model


@torch.no_grad()
def mean_surprise(
    model: EncoderDecoder,
    examples: Sequence[Example],
    *,
    max_tokens: int = 4000,
    smoothing: float = 0.0,
) -> float:
    """Nats per target token over all examples; without smoothing, e to it is the perplexity.

    The model should be in eval mode. It is asked on its own device.
    """
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    pad_id = model.config.pad_id
    for batch in token_batches(examples, max_tokens, pad_id=pad_id):
        batch = Batch(*(side.to(device) for side in batch))
        count = target_tokens(batch, pad_id=pad_id)
        total += count * batch_loss(model, batch, smoothing=smoothing).item()
        tokens += count
    return total / tokens
