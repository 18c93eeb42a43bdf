"""Our attention and our Transformer against PyTorch's: values and gradients, to ten places in float64."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from parity import (
    copy_attention_weights,
    copy_weights,
    gradients,
    in_our_names,
    randomise,
    reference_logits,
    reference_transformer,
)
from torch import Tensor, nn

from transformer.attention import fused_attention, scaled_dot_product_attention
from transformer.config import TransformerConfig
from transformer.model import Transformer
from transformer.multi_head import MultiHeadAttention

# the same examples on every run, and none made smaller after a failure: they are small
few = settings(max_examples=40, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
seeds = st.integers(0, 2**32 - 1)


def close(mine: Any, theirs: Any) -> None:
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def random_mask(shape: tuple[int, ...], share: float) -> Tensor:
    """True in about `share` of the places and at least once a row: PyTorch gives NaN to an empty one."""
    mask = torch.rand(shape) < share
    return mask.scatter(-1, torch.randint(shape[-1], (*shape[:-1], 1)), True)


def with_gradients(attention: Any, inputs: list[Tensor], mask: Tensor | None) -> list[Tensor]:
    inputs = [x.clone().requires_grad_() for x in inputs]
    output = attention(*inputs, mask)
    output = output[0] if isinstance(output, tuple) else output
    return [output, *torch.autograd.grad(output.pow(3).sum(), inputs)]


@few
@given(seeds, *[st.integers(1, 6)] * 6, st.sampled_from([None, 0.2, 0.6, 0.95]))
def test_attention_equals_pytorch(
    seed: int, batch: int, heads: int, queries: int, keys: int, d_k: int, d_v: int, share: float | None
) -> None:
    torch.manual_seed(seed)
    shapes = [(queries, d_k), (keys, d_k), (keys, d_v)]
    inputs = [torch.randn(batch, heads, *shape, dtype=torch.float64) for shape in shapes]
    mask = None if share is None else random_mask((batch, 1, queries, keys), share)
    expected = with_gradients(F.scaled_dot_product_attention, inputs, mask)
    close(with_gradients(scaled_dot_product_attention, inputs, mask), expected)
    close(with_gradients(fused_attention, inputs, mask), expected)


@pytest.mark.parametrize("attention", [scaled_dot_product_attention, fused_attention])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_query_with_nothing_to_attend_to_gets_zeros(attention: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, n, 4, dtype=dtype) for n in (5, 6, 6)]
    mask = torch.rand(2, 1, 5, 6) < 0.6
    mask[1, 0, 2] = False
    output, *grads = with_gradients(attention, inputs, mask)
    assert torch.equal(output[1, :, 2], torch.zeros(3, 4, dtype=dtype))
    assert all(grad.isfinite().all() for grad in grads)
    assert torch.equal(grads[0][1, :, 2], torch.zeros(3, 4, dtype=dtype))


@few
@given(
    seeds, st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6),
    st.booleans(), st.sampled_from([None, 0.3, 0.8]),
)  # fmt: skip
def test_multi_head_attention_equals_pytorch(
    seed: int, heads: int, d_head: int, batch: int, queries: int, keys: int, bias: bool, share: float | None
) -> None:
    torch.manual_seed(seed)
    d_model = heads * d_head
    theirs = nn.MultiheadAttention(d_model, heads, bias=bias, batch_first=True, dtype=torch.float64)
    randomise(theirs)
    ours = MultiHeadAttention(d_model, heads, bias=bias).double()
    copy_attention_weights(theirs, ours)
    inputs = [torch.randn(batch, n, d_model, dtype=torch.float64) for n in (queries, keys, keys)]
    mask = None if share is None else random_mask((batch, 1, queries, keys), share)
    blocked = None if mask is None else ~mask.expand(batch, heads, queries, keys).flatten(0, 1)

    given_ours, given_theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    mine, my_weights = ours(*given_ours, mask, need_weights=True)
    reference, weights = theirs(*given_theirs, attn_mask=blocked, average_attn_weights=False)
    close((mine, my_weights), (reference, weights))
    close(ours(*inputs, mask)[0], reference)  # the fused path
    alone = ours(*(x[0] for x in inputs), None if mask is None else mask[0], need_weights=True)
    close(alone, (reference[0], weights[0]))  # without an axis for the batch
    stacked = ours(*(x[None] for x in inputs), None if mask is None else mask[None])[0]
    close(stacked[0], reference)  # with two of them
    mine.pow(3).sum().backward()
    reference.pow(3).sum().backward()
    close([x.grad for x in given_ours], [x.grad for x in given_theirs])
    close(gradients(ours), in_our_names(gradients(theirs)))


def random_sentences(batch: int, length: int, vocab_size: int, pad_id: int, *, full: bool) -> Tensor:
    """Random tokens, each row of its own length and then padding; with `full`, none."""
    real = [i for i in range(vocab_size) if i != pad_id]
    tokens = torch.tensor(real)[torch.randint(len(real), (batch, length))]
    lengths = torch.full((batch, 1), length) if full else torch.randint(1, length + 1, (batch, 1))
    return tokens.masked_fill(torch.arange(length) >= lengths, pad_id)


@few
@given(
    seed=seeds,
    heads=st.integers(1, 3),
    half_head=st.integers(1, 3),
    d_ff=st.integers(1, 9),
    num_layers=st.integers(1, 3),
    batch=st.integers(1, 3),
    lengths=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    positions=st.sampled_from(["sinusoidal", "learned"]),
    special=st.permutations([0, 1, 2]),
    full=st.booleans(),
    norm_first=st.booleans(),
)
def test_the_transformer_equals_pytorch(
    seed: int, heads: int, half_head: int, d_ff: int, num_layers: int, batch: int, lengths: tuple[int, int],
    positions: Any, special: list[int], full: bool, norm_first: bool,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    config = TransformerConfig(
        vocab_size=11, d_model=2 * heads * half_head, num_heads=heads, d_ff=d_ff, num_layers=num_layers,
        dropout=0.0, positions=positions, max_length=8, norm_first=norm_first,
        pad_id=special[0], bos_id=special[1], eos_id=special[2],
    )  # fmt: skip
    ours, theirs = Transformer(config).double(), reference_transformer(config)
    randomise(ours)
    copy_weights(theirs, ours)
    source, target = (random_sentences(batch, n, 11, config.pad_id, full=full) for n in lengths)

    # the reference has an embedding and positions of its own, in the plainest form
    table, place = ours.embedding.weight.detach().clone().requires_grad_(), copy.deepcopy(ours.positions)
    expected = reference_logits(
        theirs,
        lambda tokens: place(F.one_hot(tokens, 11).double() @ table * math.sqrt(config.d_model)),
        lambda states: states @ table.T,
        source,
        target,
        config.pad_id,
    )
    mine = ours(source, target)
    close(mine, expected)
    close(ours.eval()(source, target), expected)
    mine.pow(3).mean().backward()
    expected.pow(3).mean().backward()
    close(
        gradients(ours),
        in_our_names(gradients(theirs))
        | {"embedding.weight": table.grad}
        | {f"positions.{name}": grad for name, grad in gradients(place).items()},
    )


@few
@given(seeds, st.integers(1, 3), st.tuples(st.integers(1, 6), st.integers(1, 6)), st.booleans())
def test_attention_maps(seed: int, num_layers: int, lengths: tuple[int, int], norm_first: bool) -> None:
    torch.manual_seed(seed)
    config = TransformerConfig(
        11, d_model=8, num_heads=2, d_ff=8, num_layers=num_layers, norm_first=norm_first
    )
    model = Transformer(config).double().eval()
    source, target = (random_sentences(3, n, 11, 0, full=False) for n in lengths)
    before = model(source, target)
    maps = model.attention_maps(source, target)
    keys_of = {"encoder": source, "decoder": target, "cross": source}
    queries_of = {"encoder": source, "decoder": target, "cross": target}
    assert list(maps) == list(keys_of)
    for kind, weights in maps.items():
        assert weights.shape == (3, num_layers, 2, queries_of[kind].shape[1], keys_of[kind].shape[1])
        close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        assert (weights.movedim(-1, 1)[keys_of[kind] == 0] == 0).all()  # padding gets exactly nothing
    assert torch.equal(maps["decoder"], maps["decoder"].tril())
    layer: Any = model.encoder.layers[0]  # the first map is the first layer's
    x = model.embed(source)
    x = layer.add_norm1.norm(x) if norm_first else x
    close(
        maps["encoder"][:, 0],
        layer.self_attention(x, x, x, (source != 0)[:, None, None], need_weights=True)[1],
    )
    assert torch.equal(model(source, target), before)  # no hook stays behind
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_copying_weights_notices_what_does_not_fit() -> None:
    config = TransformerConfig(11, d_model=8, num_heads=2, d_ff=8, num_layers=1)
    theirs = reference_transformer(config)
    theirs.encoder.norm = nn.LayerNorm(8)
    with pytest.raises(ValueError, match="encoder.norm.weight"):
        copy_weights(theirs, Transformer(config))
    with pytest.raises(ValueError, match=r"layers\.1"):
        copy_weights(
            reference_transformer(config), Transformer(TransformerConfig(11, d_model=8, num_heads=2, d_ff=8))
        )
