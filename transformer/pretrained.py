"""Public weights in this package's modules.

Chapter: Other people's weights
Exported from chapters/97_public.md; edit it there, not here.
"""

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from transformer.config import TransformerConfig
from transformer.data import pad
from transformer.downloads import fetch
from transformer.layers import FeedForward
from transformer.masking import padding_mask
from transformer.model import Encoder, Transformer
from transformer.multi_head import MultiHeadAttention
from transformer.position import LearnedPositions, SinusoidalPositions

__all__ = [
    "BertEncoder",
    "HalvedPositions",
    "MINILM",
    "MINILM_FILES",
    "MarianTranslator",
    "load_bert",
    "load_marian",
    "mean_pooling",
    "minilm",
    "sentence_vectors",
]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu_new": partial(nn.GELU, approximate="tanh"),
    "silu": nn.SiLU,
    "swish": nn.SiLU,  # its other name
}


def _exchange(
    model: nn.Module,
    activation: str,
    *,
    norm_eps: float = 1e-5,
    attention_dropout: float = 0.0,
) -> None:
    """Other functions and numbers for the parts of `model` that have no weights."""
    if activation not in _ACTIVATIONS:
        raise ValueError(f"no activation {activation!r} here, only {sorted(_ACTIVATIONS)}")
    for module in model.modules():
        if isinstance(module, FeedForward):
            module[1] = _ACTIVATIONS[activation]()
        elif isinstance(module, nn.LayerNorm):
            module.eps = norm_eps
        elif isinstance(module, MultiHeadAttention):
            module.dropout = attention_dropout


class BertEncoder(nn.Module):
    """BERT (Devlin et al., 2019): the encoder of this book with other embeddings and parts.

    `activation` is "relu", "gelu", "gelu_new", "silu" or "swish".
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        token_types: int = 2,
        activation: str = "gelu",
        norm_eps: float = 1e-12,
        attention_dropout: float = 0.1,
    ):
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = LearnedPositions(config.max_length, config.d_model)
        self.token_types = nn.Embedding(token_types, config.d_model)
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Encoder(config)
        _exchange(self, activation, norm_eps=norm_eps, attention_dropout=attention_dropout)

    def embed(
        self,
        tokens: Int[Tensor, "batch length"],
        types: Int[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """Vectors of word, position and token type, added and normalised."""
        types = torch.zeros_like(tokens) if types is None else types
        x = self.positions(self.words(tokens)) + self.token_types(types)
        return self.dropout(self.norm(x))

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        types: Int[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """The last layer's output. `types` says of each token which text it is in, 0 or 1."""
        return self.encoder(self.embed(tokens, types), padding_mask(tokens, self.config.pad_id))


class _Settings(dict[str, Any]):
    """What config.json says."""

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"config.json does not say {key!r}")

    def demand(self, *, said: bool = True, **wanted: Any) -> None:
        """ValueError if one of these is something else, or is not `said` and has to be."""
        for key, value in wanted.items():
            if (said or key in self) and self[key] != value:
                raise ValueError(
                    f"config.json says {key}: {self[key]!r}, and this package can only do {value!r}"
                )


def _read(folder: Path) -> tuple[_Settings, dict[str, Tensor]]:
    """config.json and model.safetensors."""
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).exists():
            there = sorted(file.name for file in folder.glob("*"))
            pickled = any(file.endswith((".bin", ".pt", ".pth")) for file in there)
            advice = (
                "; a .bin file is a pickle, which can run code when it is opened, and is not "
                "read here: if you trust it, let Hugging Face's library convert it, "
                "AutoModel.from_pretrained(folder).save_pretrained(new_folder)"
            )
            raise ValueError(f"{folder} has no {name}, only {there}{advice if pickled else ''}")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"), object_hook=_Settings)
    try:
        return settings, load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{folder / 'model.safetensors'} is damaged: {error}") from error


def _renamed(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], without: Sequence[str]
) -> dict[str, Tensor]:
    """Weights under our names, but for those whose names begin with one of `without`."""
    renamed: dict[str, tuple[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(tuple(without)):
            continue
        ours = name
        for pattern, word in names.items():
            ours = re.sub(pattern, word, ours)
        other, same = renamed.setdefault(ours, (name, tensor))
        if not torch.equal(same, tensor):
            raise ValueError(f"{other} and {name} are one weight in this package, but they differ")
    return {ours: tensor for ours, (_, tensor) in renamed.items()}


def _fill(model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Give every place its weight and every weight its place; ValueError names those without."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights in {folder} do not fit: {error}") from error


_BERT = {  # a pattern in their names: our word
    r"\.gamma$": ".weight",  # in the oldest files
    r"\.beta$": ".bias",
    r"^embeddings\.word_embeddings": "words",
    r"^embeddings\.position_embeddings\.weight": "positions.table",
    r"^embeddings\.token_type_embeddings": "token_types",
    r"^embeddings\.LayerNorm": "norm",
    r"^encoder\.layer\.": "encoder.layers.",
    r"attention\.self\.": "self_attention.",
    r"attention\.output\.dense": "self_attention.output",
    r"attention\.output\.LayerNorm": "add_norm1.norm",
    r"intermediate\.dense": "feed_forward.0",
    r"output\.dense": "feed_forward.2",
    r"output\.LayerNorm": "add_norm2.norm",
}


def load_bert(
    folder: str | Path,
    *,
    without: Sequence[str] = ("pooler.", "embeddings.position_ids"),
) -> BertEncoder:
    """A published BERT: `folder` holds config.json and model.safetensors, as Hugging Face has them.

    `without` names the beginnings of weights that are left out: the pooler, which is a layer behind the
    encoder, and a list of numbers 0, 1, 2, … Any other weight has to find its place; ValueError if not.
    """
    settings, tensors = _read(Path(folder))
    settings.demand(model_type="bert")
    settings.demand(said=False, position_embedding_type="absolute", is_decoder=False)
    padding = settings["pad_token_id"]
    begin, end = sorted({0, 1, 2} - {padding})[:2]  # nobody asks an encoder for these
    config = TransformerConfig(
        settings["vocab_size"],
        settings["hidden_size"],
        settings["num_attention_heads"],
        settings["intermediate_size"],
        settings["num_hidden_layers"],
        dropout=settings["hidden_dropout_prob"],
        positions="learned",
        max_length=settings["max_position_embeddings"],
        pad_id=padding,
        bos_id=begin,
        eos_id=end,
    )
    model = BertEncoder(
        config,
        token_types=settings["type_vocab_size"],
        activation=settings["hidden_act"],
        norm_eps=settings["layer_norm_eps"],
        attention_dropout=settings["attention_probs_dropout_prob"],
    )
    tensors = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    _fill(model, _renamed(tensors, _BERT, without), Path(folder))
    return model.eval()


def mean_pooling(
    states: Float[Tensor, "batch length d_model"], real: Bool[Tensor, "batch length"]
) -> Float[Tensor, "batch d_model"]:
    """The mean over the tokens of each row where `real` is True; zeros if it is nowhere."""
    counted = real[..., None].to(states.dtype)  # (batch, length, 1)
    return (states * counted).sum(1) / counted.sum(1).clamp(min=1)


@torch.no_grad()
def sentence_vectors(
    model: BertEncoder,
    tokenizer: tokenizers.Tokenizer,
    sentences: Sequence[str],
    *,
    batch_size: int = 32,
) -> Float[Tensor, "sentences d_model"]:
    """A vector of length 1 for each sentence, in their order: the mean of its tokens' vectors.

    The model should be in eval mode; `batch_size` counts sentences.
    """
    padding, weight = model.config.pad_id, model.words.weight
    encoded = tokenizer.encode_batch(list(sentences))
    ids = [[i for i, real in zip(e.ids, e.attention_mask, strict=True) if real] for e in encoded]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    vectors = weight.new_empty(len(ids), model.config.d_model)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        tokens = pad([ids[i] for i in rows], padding)  # (batch, length)
        tokens = tokens.to(weight.device)
        vectors[rows] = F.normalize(mean_pooling(model(tokens), tokens != padding), dim=1)
    return vectors


MINILM = (
    "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/"
    "1110a243fdf4706b3f48f1d95db1a4f5529b4d41/"
)
MINILM_FILES = {  # name → SHA-256
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


def minilm(
    folder: str | Path | None = None, *, address: str = MINILM
) -> tuple[BertEncoder, tokenizers.Tokenizer]:
    """all-MiniLM-L6-v2 for `sentence_vectors` (22.6 million weights, 91 MB, Apache 2.0).

    Reads `folder`, else MINILM_DIR, else a cache folder; downloads what is missing.
    ValueError if a file is not the one expected, OSError if it cannot be had.
    """
    home = "~/.cache/attention-piece-by-piece/minilm"
    folder = Path(folder or os.environ.get("MINILM_DIR") or home).expanduser()
    for name, sha256 in MINILM_FILES.items():
        fetch(address + name, folder / name, sha256)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)  # tokens, as the model's own library does
    return load_bert(folder), tokenizer


_MARIAN = {  # a pattern in their names: our word
    r"^model\.": "",
    r"^(shared|encoder\.embed_tokens|decoder\.embed_tokens|lm_head)\.": "embedding.",
    r"^final_logits_bias": "output_bias",
    r"self_attn_layer_norm": "add_norm1.norm",
    r"encoder_attn_layer_norm": "add_norm2.norm",
    r"^(encoder.*)final_layer_norm": r"\1add_norm2.norm",
    r"final_layer_norm": "add_norm3.norm",
    r"self_attn": "self_attention",
    r"encoder_attn": "cross_attention",
    r"q_proj": "query",
    r"k_proj": "key",
    r"v_proj": "value",
    r"out_proj": "output",
    r"fc1": "feed_forward.0",
    r"fc2": "feed_forward.2",
}


class HalvedPositions(SinusoidalPositions):
    """The paper's sinusoids in Marian's order: first all sines, then all cosines."""

    def forward(
        self, x: Float[Tensor, "batch length d_model"], start: int = 0
    ) -> Float[Tensor, "batch length d_model"]:
        """Add positions start, start + 1, … to the rows of x."""
        pairs = super().forward(torch.zeros_like(x[:1]), start)  # (1, length, d_model)
        return x + torch.cat([pairs[..., 0::2], pairs[..., 1::2]], -1)


class MarianTranslator(Transformer):
    """A Transformer with Marian's positions and activation, and with a bias of the logits.

    `activation` is one of those of `BertEncoder`.
    """

    output_bias: Tensor

    def __init__(self, config: TransformerConfig, *, activation: str = "swish"):
        super().__init__(config)
        self.positions = HalvedPositions(config.d_model)
        self.register_buffer("output_bias", torch.zeros(config.vocab_size))
        _exchange(self, activation)

    def output_layer(
        self,
    ) -> tuple[Float[Tensor, "vocab d_model"], Float[Tensor, " vocab"]]:
        """The embedding once more makes the logits, and the bias is added."""
        return self.embedding.weight, self.output_bias


_SINES = ("model.encoder.embed_positions.", "model.decoder.embed_positions.")


def load_marian(folder: str | Path, *, without: Sequence[str] = _SINES) -> MarianTranslator:
    """A published Marian translator: `folder` holds config.json and model.safetensors.

    Its config has one token more than the published one: bos_id, which begins a target, has the vector of the
    token that Marian begins with (its padding, which our masks hide) and a logit of minus infinity.
    `without` names the beginnings of weights that are left out: the sinusoids, which are computed.
    Any other weight has to find its place; ValueError if not.
    """
    settings, tensors = _read(Path(folder))
    settings.demand(model_type="marian", scale_embedding=True)
    settings.demand(said=False, share_encoder_decoder_embeddings=True)
    for part in ("layers", "attention_heads", "ffn_dim"):
        settings.demand(**{f"decoder_{part}": settings[f"encoder_{part}"]})
    vocab, start = settings["vocab_size"], settings["decoder_start_token_id"]
    config = TransformerConfig(
        vocab + 1,
        settings["d_model"],
        settings["encoder_attention_heads"],
        settings["encoder_ffn_dim"],
        settings["encoder_layers"],
        dropout=settings["dropout"],
        pad_id=settings["pad_token_id"],
        bos_id=vocab,
        eos_id=settings["eos_token_id"],
    )
    model = MarianTranslator(config, activation=settings["activation_function"])
    weights = _renamed(tensors, _MARIAN, without)
    if "embedding.weight" in weights and "output_bias" in weights:
        table, bias = weights["embedding.weight"], weights["output_bias"].flatten()
        weights["embedding.weight"] = torch.cat([table, table[start : start + 1]])
        weights["output_bias"] = F.pad(bias, (0, 1), value=-math.inf)
    _fill(model, weights, Path(folder))
    return model.eval()
