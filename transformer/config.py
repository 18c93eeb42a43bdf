"""The sizes of a Transformer.

Chapter: The whole Transformer
Exported from chapters/08_transformer.md; edit it there, not here.
"""

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["TransformerConfig"]


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

    vocab_size: int  #: one for both languages and for the output (Sec. 3.4)
    d_model: int = 512
    num_heads: int = 8
    d_ff: int = 2048
    num_layers: int = 6  #: in the encoder, and as many in the decoder
    d_k: int | None = None  #: None: d_model / num_heads
    d_v: int | None = None  #: likewise
    dropout: float = 0.1
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    max_length: int = 512  #: of learned positions; sinusoids have no limit
    norm_first: bool = False  #: True: pre-norm, which is not the paper's
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
