"""Exact and soft dictionary look-up.

Chapter: A dictionary that can answer “fruit”
Exported from chapters/01_dictionary.md; edit it there, not here.
"""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["exact_lookup", "soft_lookup"]


def exact_lookup(query: str, table: dict[str, float]) -> float:
    """Look `query` up in `table` by comparing it with every key.

    The answer is the sum of the values, each weighted by 1 or 0.
    Raises KeyError if no key equals the query, as a dictionary does.
    """
    weights = [1.0 if key == query else 0.0 for key in table]
    if not any(weights):
        raise KeyError(f"{query!r} is none of the keys: {', '.join(table)}")
    pairs = zip(weights, table.values(), strict=True)
    return sum(weight * value for weight, value in pairs)


def soft_lookup(
    query: Float[Tensor, " d_k"],
    keys: Float[Tensor, "keys d_k"],
    values: Float[Tensor, "keys *d_v"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "*d_v"]:
    """Average the values, each weighted by how well its key points along the query.

    The weights are softmax(keys · query / temperature): positive, and they sum to 1.
    Raises ValueError if the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    weights = torch.softmax(keys @ query / temperature, dim=0)  # (keys,)
    return torch.tensordot(weights, values, dims=1)  # (*d_v)
