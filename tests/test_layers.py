"""Our dropout on a processor against what dropout has to be, and where the layers have none."""

import pytest
import torch

from transformer.layers import AddAndNorm, DecoderLayer, Dropout, EncoderLayer


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_dropout_keeps_the_share_and_the_expectation(p: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(p)(torch.ones(1_000_000, dtype=torch.float64))
    assert abs((dropped == 0).double().mean() - p) < 4 * (p * (1 - p) / 1e6) ** 0.5
    survivors = dropped[dropped != 0].unique()
    torch.testing.assert_close(survivors, torch.tensor([1 / (1 - p)]).double(), rtol=2e-4, atol=0)


@pytest.mark.parametrize("p", [0.0, 1e-9, 1 - 1e-9, 1.0])
def test_dropout_of_nearly_nothing_and_nearly_everything(p: float) -> None:
    dropped = Dropout(p)(torch.ones(1000))
    assert torch.equal(dropped, torch.ones(1000) if p < 0.5 else torch.zeros(1000))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 5), (3, 5, 7), (4, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dropout_takes_any_shape_and_type(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    given = torch.ones(shape, dtype=dtype).T if len(shape) == 2 else torch.ones(shape, dtype=dtype)
    dropped = Dropout(0.5)(given)
    assert dropped.shape == given.shape and dropped.dtype == dtype
    assert set(dropped.flatten().tolist()) <= {0.0, 2.0}


def test_dropout_depends_on_the_seed_alone_and_not_on_the_threads() -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for seed, count in ((0, 1), (0, 2), (1, 2)):
            torch.set_num_threads(count)
            torch.manual_seed(seed)
            found.append(Dropout(0.5)(torch.ones(300, 1000)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_dropout_in_evaluation_is_the_input_itself() -> None:
    given = torch.ones(5)
    assert Dropout(0.5).eval()(given) is given


@pytest.mark.parametrize("norm_first", [False, True])
def test_dropout_hits_the_branch_and_never_the_way_around(norm_first: bool) -> None:
    part = AddAndNorm(8, dropout=0.5, norm_first=norm_first)
    part.norm = torch.nn.Identity()
    x = torch.full((50, 8), 5.0)
    assert set((part(x, torch.ones_like) - x).flatten().tolist()) == {0.0, 2.0}


def test_no_layer_drops_weights_of_its_attention() -> None:
    """As in the paper; PyTorch's layers do."""
    torch.manual_seed(0)
    encoder, decoder = EncoderLayer(8, 2, 16, dropout=0.5), DecoderLayer(8, 2, 16, dropout=0.5)
    x = torch.randn(1, 9, 8)
    for attention in (encoder.self_attention, decoder.self_attention, decoder.cross_attention):
        assert attention.training and torch.equal(attention(x, x, x)[0], attention(x, x, x)[0])
