"""The encoder-decoder Transformer and its configuration.

Chapter: The whole Transformer
Exported from chapters/08_transformer.md; edit it there, not here.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer.layers import DecoderLayer, EncoderLayer, TokenEmbedding
from transformer.masking import causal_mask, padding_mask
from transformer.position import LearnedPositions, SinusoidalPositions

__all__ = ["Decoder", "Encoder", "Transformer", "TransformerConfig"]


def _check(config: "TransformerConfig") -> None:
    sizes = ("vocab_size", "d_model", "num_heads", "d_ff", "num_layers", "max_length")
    for name in sizes:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(config, name)}")
    if config.d_model % config.num_heads and None in (config.d_k, config.d_v):
        raise ValueError(
            f"d_model={config.d_model} cannot be shared among "
            f"num_heads={config.num_heads}; choose a multiple, or give d_k and d_v"
        )
    if not 0.0 <= config.dropout < 1.0:
        raise ValueError(f"dropout must be in [0, 1), not {config.dropout}")
    if config.positions not in ("sinusoidal", "learned"):
        known = '"sinusoidal" or "learned"'
        raise ValueError(f"positions must be {known}, not {config.positions!r}")
    special = (config.pad_id, config.bos_id, config.eos_id)
    if len(set(special)) < 3 or not all(0 <= i < config.vocab_size for i in special):
        raise ValueError(
            f"pad_id, bos_id and eos_id must be three different ids below vocab_size="
            f"{config.vocab_size}, not {special}"
        )


@dataclass(frozen=True)
class TransformerConfig:
    """Every size of a Transformer. The defaults are the paper's base (Table 3)."""

    vocab_size: int  # one for both languages and for the output (Sec. 3.4)
    d_model: int = 512
    num_heads: int = 8
    d_ff: int = 2048
    num_layers: int = 6  # in the encoder, and as many in the decoder
    d_k: int | None = None  # None: d_model / num_heads
    d_v: int | None = None
    dropout: float = 0.1
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    max_length: int = 512  # of learned positions; sinusoids have no limit
    norm_first: bool = False  # True: pre-norm, which is not the paper's
    pad_id: int = 0
    bos_id: int = 1
    eos_id: int = 2

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def base(cls, vocab_size: int, **changes: Any) -> "TransformerConfig":
        """The paper's base model."""
        return cls(vocab_size, **changes)

    @classmethod
    def big(cls, vocab_size: int, **changes: Any) -> "TransformerConfig":
        """The paper's big model: twice as wide, three times the dropout."""
        sizes = {"d_model": 1024, "num_heads": 16, "d_ff": 4096, "dropout": 0.3}
        return cls(vocab_size, **{**sizes, **changes})

    @classmethod
    def tiny(cls, vocab_size: int, **changes: Any) -> "TransformerConfig":
        """The model that this book trains on two CPU cores within minutes."""
        sizes = {"d_model": 128, "num_heads": 4, "d_ff": 256, "num_layers": 2}
        return cls(vocab_size, **{**sizes, "dropout": 0.0, **changes})


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

    def forward(
        self,
        x: Float[Tensor, "batch source d_model"],
        mask: Bool[Tensor, "*#batch #source #source"] | None = None,
    ) -> Float[Tensor, "batch source d_model"]:
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
        x: Float[Tensor, "batch target d_model"],
        memory: Float[Tensor, "batch source d_model"],
        mask: Bool[Tensor, "*#batch #target #target"] | None = None,
        memory_mask: Bool[Tensor, "*#batch #target #source"] | None = None,
    ) -> Float[Tensor, "batch target d_model"]:
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


def _recorded_weights(model: Any, source: Tensor, target: Tensor) -> dict[str, Tensor]:
    attentions: dict[str, list[Any]] = {
        "encoder": [layer.self_attention for layer in model.encoder.layers],
        "decoder": [layer.self_attention for layer in model.decoder.layers],
        "cross": [layer.cross_attention for layer in model.decoder.layers],
    }
    kept: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: Any, result: tuple[Tensor, Tensor]) -> None:
        kept[module] = result[1]

    hooks = []
    for attention in sum(attentions.values(), []):
        hooks.append(attention.register_forward_pre_hook(_ask, with_kwargs=True))
        hooks.append(attention.register_forward_hook(keep))
    try:
        model(source, target)
    finally:
        for hook in hooks:
            hook.remove()
    maps = {kind: [kept[a] for a in each] for kind, each in attentions.items()}
    return {kind: torch.stack(weights, dim=1) for kind, weights in maps.items()}


_Source = Int[Tensor, "batch source"]
_Target = Int[Tensor, "batch target"]
_Memory = Float[Tensor, "batch source d_model"]
_States = Float[Tensor, "batch target d_model"]
_Logits = Float[Tensor, "batch target vocab"]
_Maps = Float[Tensor, "batch layers heads queries keys"]
_Tokens = Int[Tensor, "batch length"]
_Vectors = Float[Tensor, "batch length d_model"]


class Transformer(nn.Module):
    """The encoder-decoder of Vaswani et al. (2017), Fig. 1: token ids to logits."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.vocab_size, config.d_model)
        self.positions = _positions(config)
        self.dropout = nn.Dropout(config.dropout)
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

    def project(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Logits of every token: times the embedding, transposed (Sec. 3.4)."""
        return states @ self.embedding.weight.T

    def forward(self, source: _Source, target: _Target) -> _Logits:
        """Logits of the token after each prefix of `target`; the first is bos_id."""
        return self.project(self.decode(target, self.encode(source), source))

    @torch.no_grad()
    def attention_maps(self, source: _Source, target: _Target) -> dict[str, _Maps]:
        """The weights of every head, under "encoder", "decoder" and "cross"."""
        return _recorded_weights(self, source, target)
