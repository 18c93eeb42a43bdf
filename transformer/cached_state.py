"""Where a Transformer stands in sentences that it writes token by token.

Chapter: The whole Transformer
Exported from chapters/08_transformer.md; edit it there, not here.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from transformer.masking import padding_mask
from transformer.multi_head import CachedAttention

__all__ = ["CachedState"]


class CachedState:
    """Where a Transformer stands in sentences that it writes side by side, token by token."""

    def __init__(self, model: Any, source: Int[Tensor, "rows source"]):
        self.model, self.length = model, 0  # a Transformer
        self.sentences = torch.arange(len(source), device=source.device)  # (rows,)
        memory = model.encode(source)  # (rows, source, d_model)
        mask = padding_mask(source, model.config.pad_id)  # (rows, 1, 1, source)
        self.mask = None if mask.all() else mask
        weight, self.bias = model.output_layer()
        self.weight = weight.T.contiguous().T  # with few rows, this layout is the faster one
        self.attentions = [
            (
                CachedAttention(layer.self_attention, memory[:, :0], grows=True),
                CachedAttention(layer.cross_attention, memory, grows=False),
            )
            for layer in model.decoder.layers
        ]

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Read one more token of each sentence; return the logits of the next."""
        x, decoder = self.model.embed(tokens[:, None], self.length)[:, 0], self.model.decoder
        for layer, (own, other) in zip(decoder.layers, self.attentions, strict=True):
            x = layer.add_norm1(x, own)  # (rows, d_model)
            x = layer.add_norm2(x, partial(other, mask=self.mask))
            x = layer.add_norm3(x, layer.feed_forward)
        self.length += 1
        return F.linear(decoder.norm(x), self.weight, self.bias)

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these sentences, in this order; one may be kept several times."""
        before, self.sentences = self.sentences, self.sentences[rows]
        same = torch.equal(before, self.sentences)  # then all about the source stays in place
        for own, other in self.attentions:
            own.select(rows)
            if not same:
                other.select(rows)
        if self.mask is not None and not same:
            self.mask = self.mask[rows]
