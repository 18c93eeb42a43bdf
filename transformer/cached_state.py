"""Where a Transformer stands in sentences that it writes token by token.

Chapter: The whole Transformer
Exported from chapters/08_transformer.md; edit it there, not here.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer.multi_head import FewRows, StepAttention

__all__ = ["CachedState", "StepDecoder"]


def _add_and_norm(part: Any) -> Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]:
    """An AddAndNorm without its dropout and without the calls of its modules."""
    norm = part.norm
    fixed = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    if part.norm_first:
        return lambda x, sublayer: sublayer(torch.layer_norm(x, *fixed)).add_(x)
    return lambda x, sublayer: torch.layer_norm(sublayer(x).add_(x), *fixed)


class _StepLayer:
    """A DecoderLayer, made ready to be asked step by step."""

    def __init__(self, layer: Any):
        self.own = StepAttention(layer.self_attention, grows=True)
        self.other = StepAttention(layer.cross_attention, grows=False)
        parts = (layer.feed_forward[i] for i in (0, 2))
        self.first, self.second = (FewRows((part.weight, part.bias)) for part in parts)
        bend = layer.feed_forward[1]  # a ReLU, if nobody has exchanged it
        self.bend = torch.relu_ if isinstance(bend, nn.ReLU) else bend.forward
        norms = layer.add_norm1, layer.add_norm2, layer.add_norm3
        self.add_norms = [_add_and_norm(part) for part in norms]

    def __call__(
        self,
        x: Tensor,
        written: Any,
        source: Any,  # caches
        mask: Tensor | None,
        source_mask: Tensor | None,
    ) -> Tensor:
        add_norm1, add_norm2, add_norm3 = self.add_norms
        x = add_norm1(x, lambda x: self.own(x, written, mask))
        x = add_norm2(x, lambda x: self.other(x, source, source_mask))
        return add_norm3(x, lambda x: self.second(self.bend(self.first(x))))


class StepDecoder:
    """A Transformer's decoder, made ready to read a token at a time.

    Its matrices are copies; the embedding, the positions and the norms are the model's own.
    """

    def __init__(self, model: Any):
        self.embedding, self.positions = model.embedding, model.positions
        self.layers = [_StepLayer(layer) for layer in model.decoder.layers]
        self.norm, self.project = model.decoder.norm.forward, FewRows(model.output_layer())

    def embed(self, tokens: Int[Tensor, " rows"], position: int) -> Float[Tensor, "rows d_model"]:
        """The vectors of tokens that all stand at one position."""
        x = self.embedding.forward(tokens[:, None])  # (rows, 1, d_model)
        return self.positions.forward(x, position)[:, 0]


class CachedState:
    """Where a Transformer stands in sentences that it writes side by side, token by token.

    Rows that continue one sentence in several ways share its keys and values: `seen` says
    which of them belong to the past of a row.
    """

    def __init__(
        self,
        decoder: StepDecoder,
        memory: Float[Tensor, "sentences source d_model"],
        mask: Bool[Tensor, "sentences 1 1 source"],
    ):
        self.decoder, self.length = decoder, 0
        self.mask = None if mask.all() else mask
        self.own = [layer.own.start(memory[:, :0]) for layer in decoder.layers]
        alone = len(memory) == 1 and self.mask is None
        self.other = [layer.other.start(memory, alone=alone) for layer in decoder.layers]
        self.count, self.width = len(memory), 1  # of the sentences, and the rows of each
        self.seen: Tensor | None = None  # (rows, slots), or None: everything is every row's past

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Read one more token of each row; return the logits of the next."""
        decoder, mask = self.decoder, None
        x = decoder.embed(tokens, self.length)  # (rows, d_model)
        if self.seen is not None:
            itself = torch.eye(self.width, device=x.device).bool().repeat(self.count, 1)
            self.seen = torch.cat([self.seen, itself], 1)
            mask = self.seen.view(self.count, 1, self.width, -1)
        for layer, own, other in zip(decoder.layers, self.own, self.other, strict=True):
            x = layer(x, own, other, mask, self.mask)
        self.length += 1
        return decoder.project(decoder.norm(x))  # (rows, vocab)

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
            for cache in (*self.own, *self.other):
                cache.select(kept)
            self.mask = None if self.mask is None else self.mask[kept]
        self.count, self.width = len(kept), width
