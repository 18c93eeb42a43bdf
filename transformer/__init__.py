"""The Transformer of "Attention Is All You Need", as built in the book *Attention, Piece by Piece*.

Every module is exported from the chapter that its docstring names. Set the environment variable
TRANSFORMER_CHECK_SHAPES=1 before the first import to check each annotated shape at run time.
"""

import os

__version__ = "0.1.0"

if os.environ.get("TRANSFORMER_CHECK_SHAPES", "0") != "0":
    from jaxtyping import install_import_hook

    # an int is accepted for a float, as everywhere in Python
    install_import_hook(
        [
            "transformer.lookup",
            "transformer.attention",
            "transformer.multi_head",
            "transformer.masking",
            "transformer.position",
            "transformer.layers",
            "transformer.model",
            "transformer.data",
            "transformer.training",
            "transformer.decoding",
            "transformer.figures",
        ],
        "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
    )

from transformer.attention import fused_attention, scaled_dot_product_attention
from transformer.data import (
    MULTI30K,
    MULTI30K_FILES,
    Batch,
    Corpus,
    Example,
    Pair,
    Tokenizer,
    fetch,
    fragment_corpus,
    multi30k,
    number_words,
    numbers_corpus,
    pad,
    padding_share,
    token_batches,
)
from transformer.decoding import Codec, greedy_decode, translate
from transformer.layers import AddAndNorm, DecoderLayer, EncoderLayer, FeedForward, TokenEmbedding
from transformer.lookup import exact_lookup, soft_lookup
from transformer.masking import causal_mask, padding_mask
from transformer.model import Decoder, Encoder, Transformer, TransformerConfig
from transformer.multi_head import MultiHeadAttention, merge_heads, split_heads
from transformer.position import LearnedPositions, SinusoidalPositions, sinusoidal_encoding
from transformer.training import (
    Trainer,
    TrainingConfig,
    batch_loss,
    batches_from,
    label_smoothed_loss,
    linear_rate,
    load_checkpoint,
    load_model,
    paper_rate,
    save_checkpoint,
    save_model,
)

__all__ = [
    "AddAndNorm",
    "Batch",
    "Codec",
    "Corpus",
    "Decoder",
    "DecoderLayer",
    "Encoder",
    "EncoderLayer",
    "Example",
    "FeedForward",
    "LearnedPositions",
    "MULTI30K",
    "MULTI30K_FILES",
    "MultiHeadAttention",
    "Pair",
    "SinusoidalPositions",
    "TokenEmbedding",
    "Tokenizer",
    "Trainer",
    "TrainingConfig",
    "Transformer",
    "TransformerConfig",
    "batch_loss",
    "batches_from",
    "causal_mask",
    "exact_lookup",
    "fetch",
    "fragment_corpus",
    "fused_attention",
    "greedy_decode",
    "label_smoothed_loss",
    "linear_rate",
    "load_checkpoint",
    "load_model",
    "merge_heads",
    "multi30k",
    "number_words",
    "numbers_corpus",
    "pad",
    "padding_mask",
    "padding_share",
    "paper_rate",
    "save_checkpoint",
    "save_model",
    "scaled_dot_product_attention",
    "sinusoidal_encoding",
    "soft_lookup",
    "split_heads",
    "token_batches",
    "translate",
]
