"""The encoder-decoder Transformer.

Chapter: The whole Transformer
Exported from chapters/08_transformer.md; edit it there, not here.
"""

import copy
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer.cached_state import CachedState, StepDecoder
from transformer.config import TransformerConfig
from transformer.encoder_decoder import EncoderDecoder
from transformer.layers import DecoderLayer, Dropout, EncoderLayer, TokenEmbedding
from transformer.masking import causal_mask, padding_mask
from transformer.multi_head import MultiHeadAttention
from transformer.position import LearnedPositions, SinusoidalPositions

__all__ = ["Decoder", "Encoder", "Transformer"]

_Source = Int[Tensor, "batch source"]
_Target = Int[Tensor, "batch target"]
_Memory = Float[Tensor, "batch source d_model"]
_States = Float[Tensor, "batch target d_model"]
_Maps = Float[Tensor, "batch layers heads queries keys"]
_Tokens = Int[Tensor, "batch length"]
_Vectors = Float[Tensor, "batch length d_model"]
_Mask = Bool[Tensor, "*#batch #source #source"]


def _stack(layer: type[nn.Module], config: TransformerConfig) -> nn.ModuleList:
    names = ("d_model", "num_heads", "d_ff", "d_k", "d_v", "dropout", "norm_first")
    sizes = {name: getattr(config, name) for name in names}
    return nn.ModuleList(layer(**sizes) for _ in range(config.num_layers))


class Encoder(nn.Module):
    """A stack of encoder layers (Fig. 1, left)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.layers = _stack(EncoderLayer, config)
        self.norm = nn.LayerNorm(config.d_model) if config.norm_first else nn.Identity()

    def forward(self, x: _Memory, mask: _Mask | None = None) -> _Memory:
        """Refine the embedded source layer by layer."""
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


class Decoder(nn.Module):
    """A stack of decoder layers (Fig. 1, right)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.layers = _stack(DecoderLayer, config)
        self.norm = nn.LayerNorm(config.d_model) if config.norm_first else nn.Identity()

    def forward(
        self,
        x: _States,
        memory: _Memory,
        mask: Bool[Tensor, "*#batch #target #target"] | None = None,
        memory_mask: Bool[Tensor, "*#batch #target #source"] | None = None,
    ) -> _States:
        """Refine the embedded target layer by layer, each with a look at `memory`."""
        for layer in self.layers:
            x = layer(x, memory, mask, memory_mask)
        return self.norm(x)


def _positions(config: TransformerConfig) -> nn.Module:
    if config.positions == "learned":
        return LearnedPositions(config.max_length, config.d_model)
    return SinusoidalPositions(config.d_model)


def _start_weights(*stacks: nn.Module) -> None:
    for weight in (weight for stack in stacks for weight in stack.parameters()):
        if weight.dim() == 2:
            nn.init.xavier_uniform_(weight)


def _ask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    return args, {**kwargs, "need_weights": True}


def _recorded_weights(model: "Transformer", source: Tensor, target: Tensor) -> dict[str, Tensor]:
    attentions = model.attentions()
    kept: dict[nn.Module, Tensor] = {}
    with ExitStack() as hooks:
        # what is compiled would not listen
        hooks.enter_context(torch.compiler.set_stance("force_eager"))
        for module in sum(attentions.values(), []):
            hooks.enter_context(module.register_forward_pre_hook(_ask, with_kwargs=True))
            keep = module.register_forward_hook(lambda m, _, out: kept.update({m: out[1]}))
            hooks.enter_context(keep)
        model(source, target)
    return {kind: torch.stack([kept[m] for m in each], 1) for kind, each in attentions.items()}


class Transformer(EncoderDecoder):
    """The encoder-decoder of Vaswani et al. (2017), Fig. 1: token ids to logits."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.vocab_size, config.d_model)
        self.positions = _positions(config)
        self.dropout = Dropout(config.dropout)
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        _start_weights(self.encoder, self.decoder)

    def embed(self, tokens: _Tokens, start: int = 0) -> _Vectors:
        """Vectors of the tokens plus positions start, start + 1, …, with dropout."""
        return self.dropout(self.positions(self.embedding(tokens), start))

    def encode(self, source: _Source) -> _Memory:
        """The encoder's output ("memory"), computed once per sentence."""
        mask = padding_mask(source, self.config.pad_id)  # (batch, 1, 1, source)
        return self.encoder(self.embed(source), mask)

    def decode(self, target: _Target, memory: _Memory, source: _Source) -> _States:
        """The decoder's output; `source` only says where `memory` is padding."""
        real = padding_mask(target, self.config.pad_id)  # (batch, 1, 1, target)
        mask = real & causal_mask(target.shape[1], device=target.device)
        memory_mask = padding_mask(source, self.config.pad_id)  # (batch, 1, 1, source)
        return self.decoder(self.embed(target), memory, mask, memory_mask)

    def output_layer(
        self,
    ) -> tuple[Float[Tensor, "vocab d_model"], Float[Tensor, " vocab"] | None]:
        """The embedding once more makes the logits, without a bias (Sec. 3.4)."""
        return self.embedding.weight, None

    _steps: "StepDecoder | None" = None  # made ready by `frozen`

    def frozen(self) -> "Transformer":
        """The same model, made ready to decode many times; its weights are to change no more."""
        other = copy.copy(self)
        other._steps = StepDecoder(self)
        return other

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_steps": None}  # a copy is ready to be changed

    @torch.no_grad()
    def start(self, source: _Source) -> "CachedState":
        """Begin to write translations of `source`, step by step (see `CachedState`).

        Call `eval()` before: in training mode the encoder drops, the decoder's steps never do.
        """
        mask = padding_mask(source, self.config.pad_id)  # (sentences, 1, 1, source)
        return CachedState(self._steps or StepDecoder(self), self.encode(source), mask)

    def attentions(self) -> dict[str, list[MultiHeadAttention]]:
        """Every attention, layer by layer, under "encoder", "decoder" and "cross"."""
        encoder, decoder = list[Any](self.encoder.layers), list[Any](self.decoder.layers)
        return {
            "encoder": [layer.self_attention for layer in encoder],
            "decoder": [layer.self_attention for layer in decoder],
            "cross": [layer.cross_attention for layer in decoder],
        }

    @torch.no_grad()
    def attention_maps(self, source: _Source, target: _Target) -> dict[str, _Maps]:
        """The weights of every head, under "encoder", "decoder" and "cross".

        The modules are listened to meanwhile: not while another thread uses the model.
        """
        return _recorded_weights(self, source, target)
