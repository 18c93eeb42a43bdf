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
from transformer.layers import Dropout, FeedForward
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


def _activation(name: str) -> nn.Module:
    """The function that a config names; ValueError if we do not have it."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"no activation {name!r} here, only {sorted(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]()


def _exchange(
    model: nn.Module,
    activation: str,
    *,
    norm_eps: float = 1e-5,
    attention_dropout: float = 0.0,
) -> None:
    """Other functions and numbers for the parts of `model` that have no weights."""
    for module in model.modules():
        if isinstance(module, FeedForward):
            module[1] = _activation(activation)
        elif isinstance(module, nn.LayerNorm):
            module.eps = norm_eps
        elif isinstance(module, MultiHeadAttention):
            module.dropout = attention_dropout


_Tokens = Int[Tensor, "batch length"]
_Vectors = Float[Tensor, "batch length d_model"]


class _BertEmbeddings(nn.Module):
    """What goes into BERT's first layer."""

    def __init__(self, config: TransformerConfig, token_types: int):
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = LearnedPositions(config.max_length, config.d_model)
        self.token_types = nn.Embedding(token_types, config.d_model)
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def embed(self, tokens: _Tokens, types: _Tokens | None = None) -> _Vectors:
        """Vectors of word, position and token type, added and normalised."""
        types = torch.zeros_like(tokens) if types is None else types
        x = self.positions(self.words(tokens)) + self.token_types(types)
        return self.dropout(self.norm(x))


class BertEncoder(_BertEmbeddings):
    """BERT (Devlin et al., 2019): the encoder of this book with other embeddings and parts.

    `activation` is "relu", "gelu", "gelu_new", "silu" or "swish"; ValueError for another.
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
        super().__init__(config, token_types)
        self.config = config
        self.encoder = Encoder(config)
        _exchange(self, activation, norm_eps=norm_eps, attention_dropout=attention_dropout)

    def forward(self, tokens: _Tokens, types: _Tokens | None = None) -> _Vectors:
        """The last layer's output. `types` says of each token which text it is in, 0 or 1."""
        real = padding_mask(tokens, self.config.pad_id)  # (batch, 1, 1, length)
        return self.encoder(self.embed(tokens, types), real)


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


def _lacks(folder: Path, name: str) -> str:
    """What to say if the folder lacks a file."""
    there = sorted(file.name for file in folder.glob("*"))
    pickled = any(file.endswith((".bin", ".pt", ".pth")) for file in there)
    advice = (
        "; a .bin file is a pickle, which can run code when it is opened, and is not read here: "
        "if you trust it, let Hugging Face's library convert it, "
        "AutoModel.from_pretrained(folder).save_pretrained(new_folder), "
        "with AutoModelForSeq2SeqLM for a translator"
    )
    return f"{folder} has no {name}, only {there}{advice if pickled else ''}"


def _read(folder: Path) -> tuple[_Settings, dict[str, Tensor]]:
    """config.json and model.safetensors."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    for file in (config, weights):
        if not file.exists():
            raise ValueError(_lacks(folder, file.name))
    try:
        settings = _Settings(json.loads(config.read_bytes()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{config} holds no JSON object: {error}") from error
    try:
        return settings, load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged: {error}") from error


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


def _bert_config(settings: _Settings) -> TransformerConfig:
    """The sizes that a BERT's config.json names."""
    padding = settings["pad_token_id"]
    begin, end = sorted({0, 1, 2} - {padding})[:2]  # nobody asks an encoder for these
    return TransformerConfig(
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
    model = BertEncoder(
        _bert_config(settings),
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


def _real_ids(tokenizer: tokenizers.Tokenizer, sentences: Sequence[str]) -> list[list[int]]:
    """The ids of each sentence, without the padding that some tokenisers add."""
    encoded = tokenizer.encode_batch(list(sentences))
    marked = [zip(one.ids, one.attention_mask, strict=True) for one in encoded]
    return [[i for i, real in row if real] for row in marked]


@torch.no_grad()
def sentence_vectors(
    model: BertEncoder,
    tokenizer: tokenizers.Tokenizer,
    sentences: Sequence[str],
    *,
    batch_size: int = 32,
) -> Float[Tensor, "sentences d_model"]:
    """A vector of length 1 for each sentence, in their order: the mean of its tokens' vectors.

    The model should be in eval mode; `batch_size` counts sentences. TypeError for a single string,
    ValueError for a batch_size below 1.
    """
    if isinstance(sentences, str):
        raise TypeError("sentences must be a list of them; for a single one write [sentence]")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    ids, padding = _real_ids(tokenizer, sentences), model.config.pad_id
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    weight = model.words.weight
    vectors = weight.new_empty(len(ids), model.config.d_model)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        tokens = pad([ids[i] for i in rows], padding)  # (batch, length)
        tokens = tokens.to(weight.device)
        pooled = mean_pooling(model(tokens), tokens != padding)  # (batch, d_model)
        vectors[rows] = F.normalize(pooled, dim=1)
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


def _marian_config(settings: _Settings) -> TransformerConfig:
    """The sizes that a Marian's config.json names, and one token more, which begins a target."""
    for part in ("layers", "attention_heads", "ffn_dim"):
        settings.demand(**{f"decoder_{part}": settings[f"encoder_{part}"]})
    return TransformerConfig(
        settings["vocab_size"] + 1,
        settings["d_model"],
        settings["encoder_attention_heads"],
        settings["encoder_ffn_dim"],
        settings["encoder_layers"],
        dropout=settings["dropout"],
        pad_id=settings["pad_token_id"],
        bos_id=settings["vocab_size"],
        eos_id=settings["eos_token_id"],
    )


def _with_first_token(weights: dict[str, Tensor], start: int) -> dict[str, Tensor]:
    """One token more, with the vector of the token `start`, and a logit of minus infinity."""
    if not {"embedding.weight", "output_bias"} <= weights.keys():
        return weights
    table, bias = weights["embedding.weight"], weights["output_bias"].flatten()
    table = torch.cat([table, table[start : start + 1]])  # (vocab + 1, d_model)
    bias = F.pad(bias, (0, 1), value=-math.inf)  # (vocab + 1,)
    return weights | {"embedding.weight": table, "output_bias": bias}


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
    config = _marian_config(settings)
    model = MarianTranslator(config, activation=settings["activation_function"])
    weights = _renamed(tensors, _MARIAN, without)
    weights = _with_first_token(weights, settings["decoder_start_token_id"])
    _fill(model, weights, Path(folder))
    return model.eval()
