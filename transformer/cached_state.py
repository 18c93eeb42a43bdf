"""Where a Transformer stands in sentences that it writes token by token.

Chapter: The whole Transformer
Exported from chapters/08_transformer.md; edit it there, not here.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from transformer.masking import padding_mask
from transformer.multi_head import CachedAttention, FewRows

__all__ = ["CachedState"]


def _add_and_norm(part: Any) -> Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]:
    """An AddAndNorm without its dropout and without the calls of its modules."""
    norm = part.norm
    fixed = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    if part.norm_first:
        return lambda x, sublayer: x + sublayer(torch.layer_norm(x, *fixed))
    return lambda x, sublayer: torch.layer_norm(x + sublayer(x), *fixed)


class _CachedLayer:
    """A DecoderLayer that is asked step by step."""

    def __init__(self, layer: Any, memory: Float[Tensor, "batch source d_model"]):
        self.own = CachedAttention(layer.self_attention, memory[:, :0], grows=True)
        self.other = CachedAttention(layer.cross_attention, memory, grows=False)
        parts = (layer.feed_forward[i] for i in (0, 2))
        self.first, self.second = (FewRows((part.weight, part.bias)) for part in parts)
        norms = layer.add_norm1, layer.add_norm2, layer.add_norm3
        self.add_norms = [_add_and_norm(part) for part in norms]

    def __call__(self, x: Tensor, mask: Tensor | None, source_mask: Tensor | None) -> Tensor:
        add_norm1, add_norm2, add_norm3 = self.add_norms
        x = add_norm1(x, lambda x: self.own(x, mask))
        x = add_norm2(x, lambda x: self.other(x, source_mask))
        return add_norm3(x, lambda x: self.second(self.first(x).relu_()))


class CachedState:
    """Where a Transformer stands in sentences that it writes side by side, token by token.

    Rows that continue one sentence in several ways share its keys and values: `seen` says
    which of them belong to the past of a row.
    """

    def __init__(self, model: Any, source: Int[Tensor, "rows source"]):
        self.model, self.length = model, 0  # a Transformer
        memory = model.encode(source)  # (sentences, source, d_model)
        mask = padding_mask(source, model.config.pad_id)  # (sentences, 1, 1, source)
        self.mask = None if mask.all() else mask
        self.layers = [_CachedLayer(layer, memory) for layer in model.decoder.layers]
        self.norm, self.project = model.decoder.norm, FewRows(model.output_layer())
        self.count, self.width = len(source), 1  # of the sentences, and the rows of each
        self.seen: Tensor | None = None  # (rows, slots), or None: everything is every row's past

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Read one more token of each row; return the logits of the next."""
        x = self.model.embed(tokens[:, None], self.length)  # (rows, 1, d_model)
        x = x.view(self.count, self.width, -1)  # (sentences, width, d_model)
        mask = None
        if self.seen is not None:
            own = torch.eye(self.width, device=x.device).bool().repeat(self.count, 1)
            self.seen = torch.cat([self.seen, own], 1)
            mask = self.seen.view(self.count, 1, self.width, -1)
        for layer in self.layers:
            x = layer(x, mask, self.mask)
        self.length += 1
        return self.project(self.norm(x)).flatten(0, 1)  # (rows, vocab)

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these rows, in this order; one may be kept several times."""
        sentence = rows // self.width
        kept = sentence.unique_consecutive()
        width = max(len(rows), 1) // max(len(kept), 1)
        if not torch.equal(kept.repeat_interleave(width), sentence):
            kept, width = sentence, 1
        if self.seen is None and width > 1:
            self.seen = torch.ones(self.count, self.length, device=rows.device).bool()
        self.seen = None if self.seen is None else self.seen[rows]
        if not torch.equal(kept, torch.arange(self.count, device=rows.device)):
            for layer in self.layers:
                layer.own.select(kept)
                layer.other.select(kept)
            self.mask = None if self.mask is None else self.mask[kept]
        self.count, self.width = len(kept), width
