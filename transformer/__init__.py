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
            "transformer.recurrent",
            "transformer.encoder_decoder",
            "transformer.attention",
            "transformer.multi_head",
            "transformer.masking",
            "transformer.position",
            "transformer.layers",
            "transformer.model",
            "transformer.config",
            "transformer.cached_state",
            "transformer.data",
            "transformer.corpora",
            "transformer.downloads",
            "transformer.training",
            "transformer.learning",
            "transformer.checkpoints",
            "transformer.parallel",
            "transformer.devices",
            "transformer.fused_loss",
            "transformer.decoding",
            "transformer.beam",
            "transformer.evaluation",
            "transformer.figures",
            "transformer.products",
            "transformer.pretrained",
        ],
        "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
    )

from transformer.attention import fused_attention, scaled_dot_product_attention
from transformer.beam import (
    DecodingState,
    PrefixState,
    beam_search,
    length_penalty,
    start_decoding,
    token_limits,
)
from transformer.cached_state import CachedState, StepDecoder
from transformer.checkpoints import load_model, load_tensors, save_model, save_tensors, unprefixed
from transformer.commands import evaluate_command, scores, train_command, translate_command, translate_lines
from transformer.config import TransformerConfig
from transformer.corpora import fragment_corpus, number_words, numbers_corpus
from transformer.data import Batch, Corpus, Example, Pair, Tokenizer, pad, padding_share, token_batches
from transformer.decoding import Codec, greedy_decode, translate
from transformer.devices import DeviceTrainer, pick_device, rounded
from transformer.downloads import (
    MULTI30K,
    MULTI30K_FILES,
    TATOEBA,
    TATOEBA_SHA256,
    fetch,
    multi30k,
    read_pairs,
    split_by_source,
    tatoeba,
    text_lines,
)
from transformer.encoder_decoder import EncoderDecoder
from transformer.evaluation import (
    Bleu,
    average_models,
    average_weights,
    bleu,
    bootstrap_interval,
    exact_match,
    mean_surprise,
    seed_interval,
)
from transformer.files import write_whole
from transformer.flops import step_flops
from transformer.fused_loss import fused_loss
from transformer.layers import AddAndNorm, DecoderLayer, EncoderLayer, FeedForward, TokenEmbedding
from transformer.learning import (
    batch_loss,
    label_smoothed_loss,
    linear_rate,
    paper_rate,
    target_tokens,
    teacher_forced,
)
from transformer.lookup import exact_lookup, soft_lookup
from transformer.masking import causal_mask, padding_mask
from transformer.model import Decoder, Encoder, Transformer
from transformer.multi_head import (
    FewRows,
    KeyValueCache,
    MultiHeadAttention,
    StepAttention,
    merge_heads,
    split_heads,
)
from transformer.parallel import ParallelTrainer, batch_share, first_before_others, processes, rank_and_size
from transformer.position import LearnedPositions, SinusoidalPositions, sinusoidal_encoding
from transformer.pretrained import (
    MINILM,
    MINILM_FILES,
    BertEncoder,
    HalvedPositions,
    MarianTranslator,
    load_bert,
    load_marian,
    mean_pooling,
    minilm,
    sentence_vectors,
)
from transformer.products import (
    HAS_BOTH,
    MKL_IS_SLOW,
    Linear,
    by_onednn,
    fixed_linear,
    linear,
    weight_gradient,
)
from transformer.recipes import (
    CORPORA,
    LONGEST,
    RECIPES,
    SIZES,
    Recipe,
    check_corpus,
    configs_for,
    load_corpus,
    recipe_for,
    settings_for,
)
from transformer.recurrent import (
    AdditiveAttention,
    RecurrentConfig,
    RecurrentState,
    RecurrentTranslator,
    alignment,
)
from transformer.run_files import (
    draw_curve,
    load_run,
    open_run,
    read_config,
    read_metrics,
    read_tokenizer,
    this_machine,
    write_config,
    write_metrics,
)
from transformer.run_models import (
    KEPT,
    best_report,
    choose_model,
    chosen,
    held_out_loss,
    keep_model,
    last_models,
    share_right,
)
from transformer.run_trainer import RunTrainer, fitting
from transformer.runs import locked, train_run
from transformer.training import Trainer, TrainingConfig, batches_from, load_checkpoint, save_checkpoint

__all__ = [
    "AddAndNorm",
    "AdditiveAttention",
    "Batch",
    "BertEncoder",
    "Bleu",
    "CORPORA",
    "CachedState",
    "Codec",
    "Corpus",
    "Decoder",
    "DecoderLayer",
    "DecodingState",
    "DeviceTrainer",
    "Encoder",
    "EncoderDecoder",
    "EncoderLayer",
    "Example",
    "FeedForward",
    "FewRows",
    "HAS_BOTH",
    "HalvedPositions",
    "KEPT",
    "KeyValueCache",
    "LONGEST",
    "LearnedPositions",
    "Linear",
    "MINILM",
    "MINILM_FILES",
    "MKL_IS_SLOW",
    "MULTI30K",
    "MULTI30K_FILES",
    "MarianTranslator",
    "MultiHeadAttention",
    "Pair",
    "ParallelTrainer",
    "PrefixState",
    "RECIPES",
    "Recipe",
    "RecurrentConfig",
    "RecurrentState",
    "RecurrentTranslator",
    "RunTrainer",
    "SIZES",
    "SinusoidalPositions",
    "StepAttention",
    "StepDecoder",
    "TATOEBA",
    "TATOEBA_SHA256",
    "TokenEmbedding",
    "Tokenizer",
    "Trainer",
    "TrainingConfig",
    "Transformer",
    "TransformerConfig",
    "alignment",
    "average_models",
    "average_weights",
    "batch_loss",
    "batch_share",
    "batches_from",
    "beam_search",
    "best_report",
    "bleu",
    "bootstrap_interval",
    "by_onednn",
    "causal_mask",
    "check_corpus",
    "choose_model",
    "chosen",
    "configs_for",
    "draw_curve",
    "evaluate_command",
    "exact_lookup",
    "exact_match",
    "fetch",
    "first_before_others",
    "fitting",
    "fixed_linear",
    "fragment_corpus",
    "fused_attention",
    "fused_loss",
    "greedy_decode",
    "held_out_loss",
    "keep_model",
    "label_smoothed_loss",
    "last_models",
    "length_penalty",
    "linear",
    "linear_rate",
    "load_bert",
    "load_checkpoint",
    "load_corpus",
    "load_marian",
    "load_model",
    "load_run",
    "load_tensors",
    "locked",
    "mean_pooling",
    "mean_surprise",
    "merge_heads",
    "minilm",
    "multi30k",
    "number_words",
    "numbers_corpus",
    "open_run",
    "pad",
    "padding_mask",
    "padding_share",
    "paper_rate",
    "pick_device",
    "processes",
    "rank_and_size",
    "read_config",
    "read_metrics",
    "read_pairs",
    "read_tokenizer",
    "recipe_for",
    "rounded",
    "save_checkpoint",
    "save_model",
    "save_tensors",
    "scaled_dot_product_attention",
    "scores",
    "seed_interval",
    "sentence_vectors",
    "settings_for",
    "share_right",
    "sinusoidal_encoding",
    "soft_lookup",
    "split_by_source",
    "split_heads",
    "start_decoding",
    "step_flops",
    "target_tokens",
    "tatoeba",
    "teacher_forced",
    "text_lines",
    "this_machine",
    "token_batches",
    "token_limits",
    "train_command",
    "train_run",
    "translate",
    "translate_command",
    "translate_lines",
    "unprefixed",
    "weight_gradient",
    "write_config",
    "write_metrics",
    "write_whole",
]
