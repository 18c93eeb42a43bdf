"""The implementations that are compared.

All have the same sizes, one embedding for source, target and output, dropout of 0.1 and a label smoothing of
0.1; each is used in its fastest honest form:

- the optimiser is PyTorch's Adam with fused=True for all that train;
- dropout stands where the paper has it, on embeddings and sub-layers, wherever a library can be told so
  (JoeyNMT cannot: it also drops attention weights and hidden units);
- padding is at the end of a sentence, where a causal mask hides it: nobody masks it in the target once more;
- nobody looks for an end when decoding: each sentence gets exactly the tokens that were asked for.

JoeyNMT is measured where it is installed (`pip install joeynmt importlib_metadata`). `make bench` does not do
that: it brings fifty packages, among them a protobuf of 2022, and does not name one that it needs.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from record import Run
from torch import Tensor, nn

from transformer.beam import beam_search
from transformer.config import TransformerConfig
from transformer.data import Batch
from transformer.decoding import greedy_decode
from transformer.encoder_decoder import EncoderDecoder
from transformer.fused_loss import fused_loss
from transformer.layers import TokenEmbedding
from transformer.model import Transformer
from transformer.position import SinusoidalPositions, sinusoidal_encoding

SIZES = {
    "small": TransformerConfig(8000, d_model=256, num_heads=4, d_ff=1024, num_layers=3),
    "base": TransformerConfig.base(8000),
    "toy": TransformerConfig(300, d_model=16, num_heads=2, d_ff=32, num_layers=2),  # to see that all runs
}
SMOOTHING = 0.1


def endless(model: Transformer) -> Transformer:
    """The same model, with the same weights, that never says its end."""
    other, never = copy.copy(model), torch.zeros_like(model.embedding.weight[:, 0])
    never[model.config.eos_id] = -1e9
    other.output_layer = lambda: (model.embedding.weight, never)
    return other


class Peer:
    """One implementation in a given size; what it cannot do stays None."""

    title: str
    library = "torch"
    model: nn.Module | None = None
    loss: Callable[[Batch], Tensor] | None = None  # for training
    greedy: Callable[[Tensor, int], Tensor] | None = None  # source, tokens → (sentences, tokens)
    beam: Callable[[Tensor, int, int], Tensor] | None = None  # source, beam, tokens → (sentences, tokens)

    def __init__(self, sizes: TransformerConfig): ...

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot be measured here, if it cannot."""
        return None if importlib.util.find_spec(cls.library) else f"{cls.library} is not installed"

    def parameters(self) -> list[nn.Parameter]:
        """The weights that are trained."""
        return [weight for weight in self.model.parameters() if weight.requires_grad] if self.model else []


def smoothed(logits: Tensor, wanted: Tensor) -> Tensor:
    """The label-smoothed loss as PyTorch computes it; padding does not count."""
    logits, wanted = logits.flatten(0, 1), wanted.flatten()
    return F.cross_entropy(logits, wanted, ignore_index=0, label_smoothing=SMOOTHING)


def compile_losses() -> None:
    """From now on what stands behind the logits is compiled, everybody's."""
    global smoothed
    smoothed, Ours.compile_loss = torch.compile(smoothed), True


class Ours(Peer):
    title = "ours"
    compile_loss = False

    def __init__(self, sizes: TransformerConfig):
        self.model = Transformer(sizes)

    def loss(self, batch: Batch) -> Tensor:
        return fused_loss(self.model, batch, smoothing=SMOOTHING, compile=self.compile_loss)

    @cached_property
    def writer(self) -> EncoderDecoder:
        """Made ready once, for all sentences."""
        return endless(self.model).frozen()

    def greedy(self, source: Tensor, tokens: int) -> Tensor:
        return greedy_decode(self.writer, source, max_length=tokens)[:, 1:]

    def beam(self, source: Tensor, beam: int, tokens: int) -> Tensor:
        return beam_search(self.writer, source, beam=beam, max_length=tokens)[:, 1:]


class TorchModel(nn.Module):
    """nn.Transformer with what it leaves to its user: embedding, positions, output layer."""

    def __init__(self, sizes: TransformerConfig):
        super().__init__()
        self.embedding = TokenEmbedding(sizes.vocab_size, sizes.d_model)
        self.before = nn.Sequential(
            self.embedding, SinusoidalPositions(sizes.d_model), nn.Dropout(sizes.dropout)
        )
        layers = sizes.num_layers
        self.stacks = nn.Transformer(
            sizes.d_model, sizes.num_heads, layers, layers, sizes.d_ff, sizes.dropout, batch_first=True
        )
        self.stacks.encoder.norm = self.stacks.decoder.norm = None  # one more than the paper's
        for layer in [*self.stacks.encoder.layers, *self.stacks.decoder.layers]:
            layer.dropout = nn.Identity()  # inside the feed-forward network
        for module in self.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        padding = source == 0
        mask = padding if padding.any() else None
        return self.stacks.encoder(self.before(source), src_key_padding_mask=mask), mask

    def decode(self, target: Tensor, memory: Tensor, memory_mask: Tensor | None) -> Tensor:
        length = target.shape[1]
        future = torch.ones(length, length, dtype=torch.bool, device=target.device).triu(1)
        return self.stacks.decoder(
            self.before(target),
            memory,
            tgt_mask=future,
            tgt_is_causal=True,
            memory_key_padding_mask=memory_mask,
        )

    def project(self, states: Tensor) -> Tensor:
        return F.linear(states, self.embedding.weight)


class Torch(Peer):
    title = "nn.Transformer"

    def __init__(self, sizes: TransformerConfig):
        self.model = TorchModel(sizes)

    def loss(self, batch: Batch) -> Tensor:
        states = self.model.decode(batch.target[:, :-1], *self.model.encode(batch.source))
        return smoothed(self.model.project(states), batch.target[:, 1:])

    @torch.inference_mode()
    def greedy(self, source: Tensor, tokens: int) -> Tensor:
        """It has no cache: each step reads all tokens so far."""
        memory = self.model.encode(source)
        target = torch.ones_like(source[:, :1])
        for _ in range(tokens):
            logits = self.model.project(self.model.decode(target, *memory)[:, -1])
            logits[:, :3] = -math.inf  # no padding, beginning or end
            target = torch.cat([target, logits.argmax(1, keepdim=True)], dim=1)
        return target[:, 1:]


class CompiledTorch(Torch):
    title = "nn.Transformer, compiled"
    greedy = None  # a target that grows by one token a step would be compiled without end

    def __init__(self, sizes: TransformerConfig):
        super().__init__(sizes)
        self.model.stacks.encoder.compile(dynamic=True)
        self.model.stacks.decoder.compile(dynamic=True)

    @classmethod
    def missing(cls) -> str | None:
        header = Path(sysconfig.get_path("include"), "Python.h").exists()
        found = shutil.which(os.environ.get("CXX", "g++")) and header
        return None if found else "a C++ compiler or Python.h is missing"


class Marian(Peer):
    """Hugging Face's MarianMTModel, with fused attention as by default."""

    title = "Marian"
    library = "transformers"

    def __init__(self, sizes: TransformerConfig):
        from transformers import MarianConfig, MarianMTModel

        stack = {"layers": sizes.num_layers, "attention_heads": sizes.num_heads, "ffn_dim": sizes.d_ff}
        both = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in stack.items()}
        special = {"pad_token_id": 0, "bos_token_id": 1, "decoder_start_token_id": 1}
        ends = {"eos_token_id": None, "forced_eos_token_id": None}  # no token is an end
        config = MarianConfig(
            vocab_size=sizes.vocab_size, d_model=sizes.d_model, dropout=sizes.dropout,
            activation_function="relu", scale_embedding=True, max_position_embeddings=512,
            **both, **special, **ends,
        )  # fmt: skip
        self.model = MarianMTModel(config)

    def loss(self, batch: Batch) -> Tensor:
        mask = (batch.source != 0).long()
        given = batch.target[:, :-1]
        out = self.model(batch.source, attention_mask=mask, decoder_input_ids=given, use_cache=False)
        return smoothed(out.logits, batch.target[:, 1:])

    def greedy(self, source: Tensor, tokens: int) -> Tensor:
        return self.beam(source, 1, tokens)

    def beam(self, source: Tensor, beam: int, tokens: int) -> Tensor:
        mask = torch.ones_like(source)
        how = {"num_beams": beam, "do_sample": False, "max_new_tokens": tokens}
        return self.model.generate(source, attention_mask=mask, **how)[:, 1:]


class XTransformers(Peer):
    """Post-norm, ReLU and sinusoids, as the others; its layers have no biases except in feed-forward.

    Its beam search copies the beginnings, but not what the encoder made of their sources: none for us.
    """

    title = "x-transformers"
    library = "x_transformers"

    def __init__(self, sizes: TransformerConfig):
        from x_transformers import XTransformer

        stack = {
            "num_tokens": sizes.vocab_size, "max_seq_len": 512, "depth": sizes.num_layers,
            "heads": sizes.num_heads, "attn_dim_head": sizes.d_model // sizes.num_heads, "attn_flash": True,
            "ff_mult": sizes.d_ff / sizes.d_model, "ff_custom_activation": nn.ReLU(), "pre_norm": False,
            "scaled_sinu_pos_emb": True, "emb_dropout": sizes.dropout,
            "attn_sublayer_dropout": sizes.dropout, "ff_sublayer_dropout": sizes.dropout,
        }  # fmt: skip
        both = {f"{side}_{name}": value for side in ("enc", "dec") for name, value in stack.items()}
        self.model = XTransformer(dim=sizes.d_model, tie_token_emb=True, **both)
        self.model.decoder.net.to_logits.weight = self.model.encoder.token_emb.emb.weight

    def loss(self, batch: Batch) -> Tensor:
        mask = batch.source != 0
        memory = self.model.encoder(batch.source, mask=mask, return_embeddings=True)
        logits = self.model.decoder.net(batch.target[:, :-1], context=memory, context_mask=mask)
        return smoothed(logits, batch.target[:, 1:])

    def greedy(self, source: Tensor, tokens: int) -> Tensor:
        return self.model.generate(source, torch.ones_like(source[:, :1]), tokens, temperature=0.0)


class JoeyNMT(Peer):
    """With its own loss; it has no cache and reads all tokens so far in each step."""

    title = "JoeyNMT"
    library = "joeynmt"

    def __init__(self, sizes: TransformerConfig):
        from joeynmt.model import build_model
        from joeynmt.vocabulary import Vocabulary

        ids = {"unk_id": 0, "pad_id": 0, "bos_id": 1, "eos_id": 2, "sep_id": None}
        names = {"unk_token": "0", "pad_token": "0", "bos_token": "1", "eos_token": "2", "sep_token": None}
        special = SimpleNamespace(**ids, **names, lang_tags=[])
        vocabulary = Vocabulary([str(i) for i in range(3, sizes.vocab_size)], special)
        stack = {
            "type": "transformer", "num_layers": sizes.num_layers, "num_heads": sizes.num_heads,
            "hidden_size": sizes.d_model, "ff_size": sizes.d_ff, "dropout": sizes.dropout,
            "layer_norm": "post", "embeddings": {"embedding_dim": sizes.d_model, "scale": True},
        }  # fmt: skip
        tied = {"tied_embeddings": True, "tied_softmax": True}
        self.model = build_model({"encoder": stack, "decoder": stack, **tied}, vocabulary, vocabulary)
        self.model.loss_function = ("crossentropy", SMOOTHING)

    @classmethod
    def missing(cls) -> str | None:
        found = all(importlib.util.find_spec(name) for name in ("joeynmt", "importlib_metadata"))
        return None if found else "joeynmt or importlib_metadata is missing"

    def loss(self, batch: Batch) -> Tensor:
        source, given, wanted = batch.source, batch.target[:, :-1], batch.target[:, 1:]
        real = {"src_mask": (source != 0)[:, None], "trg_mask": (given != 0)[:, None]}
        texts = {"src": source, "src_length": None, "trg_input": given, "trg": wanted}
        return self.model(return_type="loss", **texts, **real)[0] / (wanted != 0).sum()

    @torch.inference_mode()
    def _encoded(self, source: Tensor) -> dict[str, Any]:
        mask = torch.ones_like(source[:, None], dtype=torch.bool)
        memory = self.model(return_type="encode", src=source, src_length=None, src_mask=mask)[0]
        return {"model": self.model, "src_mask": mask, "encoder_output": memory, "encoder_hidden": None}

    @torch.inference_mode()
    def greedy(self, source: Tensor, tokens: int) -> Tensor:
        from joeynmt.search import greedy

        limits = {"max_output_length": tokens, "min_output_length": tokens}
        return torch.as_tensor(greedy(**self._encoded(source), **limits)[0])

    @torch.inference_mode()
    def beam(self, source: Tensor, beam: int, tokens: int) -> Tensor:
        from joeynmt.search import beam_search

        how = {"beam_size": beam, "alpha": 0.6, "max_output_length": tokens, "min_output_length": tokens}
        return torch.as_tensor(beam_search(**self._encoded(source), **how)[0])


class CTranslate2(Peer):
    """The C++ engine for decoding, in float32, with the weights of ours or of the model given."""

    title = "CTranslate2"
    library = "ctranslate2"

    def __init__(self, sizes: TransformerConfig, weights: Transformer | None = None):
        import ctranslate2

        shape = (sizes.num_layers, sizes.num_heads)
        spec = ctranslate2.specs.TransformerSpec.from_config(*shape, pre_norm=False)
        _fill(spec, weights or Transformer(sizes))
        words = [str(i) for i in range(sizes.vocab_size)]
        spec.register_source_vocabulary(words)
        spec.register_target_vocabulary(words)
        spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = words[:3]
        spec.config.decoder_start_token = words[1]
        spec.validate()
        spec.optimize()
        with TemporaryDirectory() as folder:
            spec.save(folder)
            how = {"compute_type": "float32", "inter_threads": 1, "intra_threads": torch.get_num_threads()}
            self.translator = ctranslate2.Translator(folder, "cpu", **how)

    def greedy(self, source: Tensor, tokens: int) -> Tensor:
        return self.beam(source, 1, tokens)

    def beam(self, source: Tensor, beam: int, tokens: int) -> Tensor:
        words = [[str(token) for token in row] for row in source.tolist()]
        limits = {"max_decoding_length": tokens, "min_decoding_length": tokens, "disable_unk": True}
        said = self.translator.translate_batch(words, beam_size=beam, **limits)
        return torch.tensor([[int(word) for word in result.hypotheses[0]] for result in said])


@torch.no_grad()
def _fill(spec: Any, model: Transformer) -> None:
    """Write our weights into a specification of CTranslate2."""

    def linear(spec: Any, *layers: nn.Linear) -> None:
        spec.weight = torch.cat([layer.weight for layer in layers])
        spec.bias = torch.cat([layer.bias for layer in layers])

    def norm(spec: Any, add_norm: Any) -> None:
        spec.layer_norm.gamma, spec.layer_norm.beta = add_norm.norm.weight, add_norm.norm.bias

    def attention(spec: Any, ours: Any, add_norm: Any) -> None:
        *projections, output = spec.linear  # all in one, or query | key and value
        q_k_v = [ours.query, ours.key, ours.value]
        parts = [q_k_v] if len(projections) == 1 else [q_k_v[:1], q_k_v[1:]]
        for projection, part in zip(projections, parts, strict=True):
            linear(projection, *part)
        linear(output, ours.output)
        norm(spec, add_norm)

    positions = sinusoidal_encoding(512, model.config.d_model)
    table = model.embedding.weight
    spec.encoder.embeddings[0].weight = spec.decoder.embeddings.weight = table
    spec.decoder.projection.weight = table
    for stack, ours in ((spec.encoder, model.encoder), (spec.decoder, model.decoder)):
        stack.position_encodings.encodings = positions
        for theirs, layer in zip(stack.layer, ours.layers, strict=True):
            attention(theirs.self_attention, layer.self_attention, layer.add_norm1)
            if hasattr(layer, "cross_attention"):
                attention(theirs.attention, layer.cross_attention, layer.add_norm2)
            linear(theirs.ffn.linear_0, layer.feed_forward[0])
            linear(theirs.ffn.linear_1, layer.feed_forward[2])
            norm(theirs.ffn, layer.add_norm3 if hasattr(layer, "add_norm3") else layer.add_norm2)


PEERS: dict[str, type[Peer]] = {
    "ours": Ours,
    "torch": Torch,
    "torch-compiled": CompiledTorch,
    "marian": Marian,
    "x-transformers": XTransformers,
    "joeynmt": JoeyNMT,
    "ctranslate2": CTranslate2,
}


def build(names: Sequence[str], sizes: TransformerConfig, task: str) -> tuple[dict[str, Peer], list[Run]]:
    """Those of the peers that can do a task here, and a row for each that is missing."""
    able = [name for name in names if getattr(PEERS[name], task)]
    reasons = {name: PEERS[name].missing() for name in able}
    peers = {}
    for name in able:
        if not reasons[name]:
            torch.manual_seed(0)
            peers[name] = PEERS[name](sizes)
    return peers, [{"peer": name, "not_run": reason} for name, reason in reasons.items() if reason]


def about(name: str, peer: Peer) -> Run:
    """What a row says of a peer."""
    return {"peer": name, "title": peer.title, "version": f"{peer.library} {version(peer.library)}"}
