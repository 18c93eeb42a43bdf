"""PyTorch's modules as references: their weights into ours, and the gradients of both under our names."""

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from transformer.config import TransformerConfig
from transformer.masking import causal_mask
from transformer.model import Transformer
from transformer.multi_head import MultiHeadAttention

OURS = {  # PyTorch's word → our word
    "self_attn": "self_attention",
    "multihead_attn": "cross_attention",
    "out_proj": "output",
    "linear1": "feed_forward.0",
    "linear2": "feed_forward.2",
    "norm1": "add_norm1.norm",
    "norm2": "add_norm2.norm",
    "norm3": "add_norm3.norm",
}


def in_our_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights or gradients of a PyTorch module, under the names that ours have."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for theirs, ours in OURS.items():
            name = name.replace(theirs, ours)
        if "in_proj_" in name:  # queries, keys and values in one
            parts = [name.replace("in_proj_", f"{part}.") for part in ("query", "key", "value")]
            renamed |= dict(zip(parts, tensor.chunk(3), strict=True))
        else:
            renamed[name] = tensor
    return renamed


def copy_attention_weights(reference: nn.MultiheadAttention, ours: MultiHeadAttention) -> None:
    """Give `ours` the weights of PyTorch's multi-head attention."""
    ours.load_state_dict(in_our_names(reference.state_dict()))


def copy_weights(reference: nn.Transformer, ours: Transformer) -> None:
    """Give the encoder and the decoder of `ours` the weights of PyTorch's; each must find its place."""
    result = ours.load_state_dict(in_our_names(reference.state_dict()), strict=False)
    stray = {name for name in result.missing_keys if name.startswith(("encoder.", "decoder."))}
    if stray or result.unexpected_keys:
        raise ValueError(f"left without a weight: {sorted(stray)}; without a place: {result.unexpected_keys}")


def reference_transformer(config: TransformerConfig) -> nn.Transformer:
    """PyTorch's Transformer of the same sizes, in float64, with random weights, gains and biases.

    Under post-norm PyTorch ends each stack with one norm more than the paper has; it is taken out.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "enable_nested_tensor")  # a remark about speed
        reference = nn.Transformer(
            d_model=config.d_model,
            nhead=config.num_heads,
            num_encoder_layers=config.num_layers,
            num_decoder_layers=config.num_layers,
            dim_feedforward=config.d_ff,
            dropout=0.0,
            batch_first=True,
            norm_first=config.norm_first,
            dtype=torch.float64,
        )
    if not config.norm_first:
        reference.encoder.norm = reference.decoder.norm = nn.Identity()
    randomise(reference)
    return reference


def reference_logits(
    reference: nn.Transformer, embed: Callable[[Tensor], Tensor], project: Callable[[Tensor], Tensor],
    source: Tensor, target: Tensor, pad_id: int,
) -> Tensor:  # fmt: skip
    """The logits of PyTorch's Transformer, whose masks mean the opposite of ours: True forbids."""
    states = reference(
        embed(source),
        embed(target),
        tgt_mask=~causal_mask(target.shape[1]),
        src_key_padding_mask=source == pad_id,
        tgt_key_padding_mask=target == pad_id,
        memory_key_padding_mask=source == pad_id,
    )
    return project(states)


def randomise(module: nn.Module) -> None:
    """Draw every parameter: a gain of 1 or a bias of 0 would hide a mistake."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """The gradient of each parameter that has one."""
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
