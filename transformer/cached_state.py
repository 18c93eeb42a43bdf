"""Where a Transformer stands in sentences that it writes token by token.

Chapter: The whole Transformer
Exported from chapters/08_transformer.md; edit it there, not here.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from transformer.masking import padding_mask
from transformer.multi_head import KeyValueCache

__all__ = ["CachedState"]


class CachedState:
    """Where a Transformer stands in sentences that it writes side by side, token by token."""

    def __init__(self, model: Any, source: Int[Tensor, "rows source"]):
        self.model, self.length = model, 0  # a Transformer
        self.sentences = torch.arange(len(source), device=source.device)  # (rows,)
        self.memory = model.encode(source)  # (rows, source, d_model)
        mask = padding_mask(source, model.config.pad_id)  # (rows, 1, 1, source)
        self.mask = None if mask.all() else mask
        self.caches = [(KeyValueCache(), KeyValueCache()) for _ in model.decoder.layers]

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Read one more token of each sentence; return the logits of the next."""
        x = self.model.embed(tokens[:, None], self.length)  # (rows, 1, d_model)
        x = self.model.decoder(x, self.memory, None, self.mask, caches=self.caches)
        self.memory = self.memory[:, :0]  # (rows, 0, d_model): from now on it is in the caches
        self.length += 1
        return self.model.project(x[:, 0])

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these sentences, in this order; one may be kept several times."""
        before, self.sentences = self.sentences, self.sentences[rows]
        same = torch.equal(before, self.sentences)  # then all about the source stays in place
        for own, other in self.caches:
            own.select(rows)
            if not same:
                other.select(rows)
        if not same:
            self.memory = self.memory[rows]
            self.mask = None if self.mask is None else self.mask[rows]
