"""Training as an engineer uses it: the loss, the rates, the loop, and files that survive accidents."""

import json
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from transformer import checkpoints, training
from transformer.checkpoints import load_model, save_model
from transformer.config import TransformerConfig
from transformer.data import Batch, Example, pad, token_batches
from transformer.evaluation import mean_surprise
from transformer.learning import batch_loss, label_smoothed_loss, linear_rate, paper_rate
from transformer.model import Transformer
from transformer.parallel import ParallelTrainer
from transformer.pretrained import MarianTranslator
from transformer.training import Trainer, TrainingConfig, batches_from, load_checkpoint, save_checkpoint

VOCAB = 20


def examples(count: int = 40) -> list[Example]:
    """Sentences of 3 to 9 tokens whose translation is the sentence backwards."""
    generator = torch.Generator().manual_seed(0)
    made: list[Example] = []
    for _ in range(count):
        length = int(torch.randint(2, 8, (1,), generator=generator))
        words = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        made.append(([*words, 2], [1, *reversed(words), 2]))
    return made


def model(**changes: object) -> Transformer:
    torch.manual_seed(1)
    sizes = {"d_model": 16, "num_heads": 2, "d_ff": 32, "num_layers": 1, "dropout": 0.2}
    return Transformer(TransformerConfig(VOCAB, **{**sizes, **changes}))


def config(**changes: object) -> TrainingConfig:
    return TrainingConfig(**{"steps": 16, "max_tokens": 60, "warmup": 4, **changes})


def trainer(**changes: object) -> Trainer:
    return Trainer(model(), examples(), config(**changes))


def weights(trainer: Trainer) -> list[Tensor]:
    return [weight.detach().clone() for weight in trainer.model.parameters()]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@given(st.integers(2, 30), st.floats(0, 0.9), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_the_smoothed_loss_is_its_definition(vocab: int, smoothing: float, seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(4, vocab, dtype=torch.float64)
    wanted = torch.randint(vocab, (4,))
    target = torch.full((4, vocab), smoothing / vocab, dtype=torch.float64)
    target[range(4), wanted] += 1 - smoothing
    expected = -(target * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(label_smoothed_loss(logits, wanted, smoothing=smoothing), expected)


@given(st.integers(1, 5000), st.integers(1, 1024))
@settings(max_examples=50, deadline=None)
def test_the_paper_rate_peaks_at_its_warmup(warmup: int, d_model: int) -> None:
    peak = paper_rate(warmup, d_model=d_model, warmup=warmup)
    assert math.isclose(peak, (d_model * warmup) ** -0.5)
    assert paper_rate(warmup + 1, d_model=d_model, warmup=warmup) < peak
    assert warmup == 1 or paper_rate(warmup - 1, d_model=d_model, warmup=warmup) < peak


@given(st.integers(1, 500), st.integers(0, 500))
@settings(max_examples=50, deadline=None)
def test_the_linear_rate_peaks_at_its_warmup_and_stays_positive(warmup: int, rest: int) -> None:
    steps = warmup + rest
    rates = [linear_rate(step, peak=0.5, warmup=warmup, steps=steps) for step in range(1, steps + 1)]
    assert rates.index(max(rates)) == warmup - 1 and math.isclose(max(rates), 0.5)
    assert min(rates) > 0
    assert linear_rate(steps + 1, peak=0.5, warmup=warmup, steps=steps) == 0


@pytest.mark.parametrize("wrong", [{"warmup": 17}, {"warmup": 0}, {"smoothing": 1.0}, {"smoothing": -0.1}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        config(**wrong)


def test_the_schedule_is_the_one_asked_for() -> None:
    assert config(schedule="paper").rate(7, d_model=64) == paper_rate(7, d_model=64, warmup=4)
    linear = linear_rate(7, peak=0.5, warmup=4, steps=16)
    assert config(peak_rate=0.5).rate(7, d_model=64) == linear
    assert config(schedule="linear", peak_rate=0.5).rate(7, d_model=64) == linear


def test_padding_counts_neither_in_the_loss_nor_in_a_gradient() -> None:
    exact = model(dropout=0.0).double()
    source, target = (pad(side) for side in zip(*examples(6), strict=True))
    wider = Batch(torch.nn.functional.pad(source, (0, 3)), torch.nn.functional.pad(target, (0, 4)))
    results = []
    for batch in (Batch(source, target), wider):
        loss = batch_loss(exact, batch, smoothing=0.1)
        results.append([loss, *torch.autograd.grad(loss, list(exact.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_loss_is_that_of_the_logits_one_token_ahead() -> None:
    exact = model(dropout=0.0).double()
    source, target = (pad(side) for side in zip(*examples(6), strict=True))
    logits = exact(source, target[:, :-1])
    expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), target[:, 1:], ignore_index=0)
    torch.testing.assert_close(batch_loss(exact, Batch(source, target), smoothing=0.0), expected)


def test_every_epoch_and_every_seed_holds_each_sentence_once_in_another_order() -> None:
    count = len(token_batches(examples(), 60))
    stream = batches_from(examples(), config())
    epochs = [[next(stream) for _ in range(count)] for _ in range(2)]
    rows = [sorted(tuple(row) for batch in epoch for row in batch.source.tolist()) for epoch in epochs]
    assert len(rows[0]) == len(rows[1]) == 40
    other = batches_from(examples(), config(seed=1))
    epochs.append([next(other) for _ in range(count)])
    orders = [[batch.source.tolist() for batch in epoch] for epoch in epochs]
    assert orders[0] != orders[1] and orders[2] not in orders[:2]


@pytest.mark.parametrize("skip", [1, 5, 11, 12, 30])
def test_a_stream_that_skips_goes_on_where_the_whole_one_is(skip: int) -> None:
    whole, later = batches_from(examples(), config()), batches_from(examples(), config(), skip=skip)
    for _ in range(skip):
        next(whole)
    for _ in range(20):
        a, b = next(whole), next(later)
        assert torch.equal(a.source, b.source) and torch.equal(a.target, b.target)


def test_it_learns_to_read_backwards() -> None:
    pupil = Trainer(
        model(dropout=0.0), examples(8), config(steps=300, warmup=20, peak_rate=1e-2, smoothing=0.0)
    )
    pupil.run()
    assert len(pupil.losses) == pupil.step == 300
    assert pupil.losses[0] > 2 and pupil.losses[-1] < 0.05


@pytest.mark.parametrize("kind", [Trainer, partial(ParallelTrainer, multiple=4)], ids=["alone", "parallel"])
def test_the_id_of_padding_is_the_models(kind: Callable[..., Trainer]) -> None:
    """0 and 7 change their parts: in the model, in its table and in the sentences."""
    run = kind(model(dropout=0.0).double(), examples(), config())
    other = model(dropout=0.0, pad_id=7).double()
    names = torch.arange(VOCAB)
    names[[0, 7]] = torch.tensor([7, 0])
    with torch.no_grad():
        other.embedding.weight.copy_(run.model.embedding.weight[names])
    renamed = [tuple([int(names[i]) for i in side] for side in pair) for pair in examples()]
    again = kind(other, renamed, config())
    for trained in (run, again):
        trained.run(5)
    assert run.losses == pytest.approx(again.losses, rel=1e-9)
    surprises = [mean_surprise(t.model, t.examples, max_tokens=60) for t in (run, again)]
    assert surprises[0] == pytest.approx(surprises[1], rel=1e-9)


def test_running_stops_where_it_is_told_and_at_the_end() -> None:
    run = trainer()
    run.run(0)
    assert run.step == 0
    run.run(5)
    assert run.step == 5
    run.run(5)
    assert run.step == 5
    run.run(99)
    assert run.step == 16
    run.run()
    assert run.step == 16


def test_each_step_takes_the_rate_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    rate = TrainingConfig.rate

    def listen(self: TrainingConfig, step: int, *, d_model: int) -> float:
        asked.append(step)
        return rate(self, step, d_model=d_model)

    monkeypatch.setattr(TrainingConfig, "rate", listen)
    run = trainer()
    run.run(6)
    assert asked == [1, 2, 3, 4, 5, 6]
    assert run.optimizer.param_groups[0]["lr"] == rate(run.config, 6, d_model=16)


def test_adam_gets_the_settings() -> None:
    [group] = trainer(betas=(0.8, 0.97), eps=1e-7).optimizer.param_groups
    assert group["betas"] == (0.8, 0.97) and group["eps"] == 1e-7


def test_the_same_seed_gives_the_same_weights_and_another_others() -> None:
    runs = [trainer(seed=seed) for seed in (0, 0, 1)]
    results = []
    for seed in (0, 0, 1):
        run = trainer(seed=seed)
        run.run(6)
        results.append(weights(run))
    assert same(results[0], results[1]) and not same(results[0], results[2])
    assert same(weights(runs[0]), weights(runs[2]))  # the model itself is not the trainer's business


def test_a_loss_that_is_not_finite_stops_and_names_the_step() -> None:
    run = trainer()
    run.run(3)
    run.model.decoder.layers[0].feed_forward[2].bias.data[0] = math.inf
    before = weights(run)
    with pytest.raises(FloatingPointError, match="step 4"):
        run.run()
    assert run.step == 3 and same(weights(run), before)


@pytest.mark.parametrize("stop", [1, 7, 11, 15])
@pytest.mark.parametrize("schedule", ["linear", "paper"])
def test_killed_and_resumed_is_never_killed_bit_for_bit(tmp_path: Path, stop: int, schedule: str) -> None:
    whole = trainer(schedule=schedule)
    whole.run()
    killed = trainer(schedule=schedule)
    killed.run(stop, checkpoint=tmp_path / "run.safetensors")
    resumed = trainer(schedule=schedule)
    torch.manual_seed(99)
    load_checkpoint(resumed, tmp_path / "run.safetensors")
    assert resumed.step == stop
    resumed.run()
    assert same(weights(resumed), weights(whole)) and resumed.losses == whole.losses


def test_checkpoints_come_now_and_then_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    monkeypatch.setattr(training, "save_checkpoint", lambda run, path: written.append(run.step))
    trainer().run(11, checkpoint=tmp_path / "x", every=4)
    assert written == [4, 8, 11]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "run.safetensors"
    run = trainer()
    run.run(2, checkpoint=path)
    old = path.read_bytes()
    run.run(4)

    def full_disk(tensors: dict[str, Tensor], part: Path, metadata: dict[str, str]) -> None:
        part.write_bytes(b"the first half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(checkpoints, "save_file", full_disk)
        save_checkpoint(run, path)
    assert path.read_bytes() == old
    assert [file.name for file in path.parent.iterdir()] == ["run.safetensors"]
    save_checkpoint(run, path)
    assert path.read_bytes() != old


def test_the_file_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    replace, fsync = Path.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("fsync"), fsync(file)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("replace"), replace(self, to))[1])
    save_model(model(), tmp_path / "model.safetensors")
    assert order == ["fsync", "replace"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> SimpleNamespace:
    path = tmp_path / "run.safetensors"
    trainer().run(3, checkpoint=path)
    return SimpleNamespace(path=path, content=path.read_bytes())


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_file_cut_short_gives_a_message(checkpoint: SimpleNamespace, size: int) -> None:
    checkpoint.path.write_bytes(checkpoint.content[:size])
    with pytest.raises(ValueError, match=r"run\.safetensors is damaged"):
        load_checkpoint(trainer(), checkpoint.path)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7, 0.9, 0.999])
def test_one_flipped_bit_gives_a_message(checkpoint: SimpleNamespace, place: float) -> None:
    content = bytearray(checkpoint.content)
    content[int(place * len(content))] ^= 4
    checkpoint.path.write_bytes(content)
    fresh = trainer()
    before = weights(fresh)
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(fresh, checkpoint.path)
    assert same(weights(fresh), before)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"settings": "[]"}, {"settings": "{"}])
def test_a_foreign_file_gives_a_message(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path, metadata)
    for read in (lambda: load_checkpoint(trainer(), path), lambda: load_model(path)):
        with pytest.raises(ValueError, match="not a file of this package"):
            read()


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(trainer(), tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (lambda: Trainer(model(dropout=0.1), examples(), config()), "dropout"),
        (lambda: Trainer(model(), examples(), config(peak_rate=1e-3)), "peak_rate"),
        (lambda: Trainer(model(), examples(), config(betas=(0.9, 0.999))), "betas"),
        (lambda: Trainer(model(), examples(39), config()), "examples"),
        (lambda: Trainer(model(), examples()[::-1], config()), "checksum"),
    ],
)
def test_other_settings_or_data_are_refused(checkpoint: SimpleNamespace, other, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        load_checkpoint(other(), checkpoint.path)


def test_another_second_half_of_a_large_corpus_is_refused(tmp_path: Path) -> None:
    path, first, second = tmp_path / "run.safetensors", examples(1500), examples(3000)[1500:]
    save_checkpoint(Trainer(model(), first + second, config()), path)
    load_checkpoint(Trainer(model(), first + second, config()), path)
    with pytest.raises(ValueError, match="checksum"):
        load_checkpoint(Trainer(model(), first + second[::-1], config()), path)


def test_a_model_alone_is_no_checkpoint(tmp_path: Path) -> None:
    save_model(model(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="training"):
        load_checkpoint(trainer(), tmp_path / "model.safetensors")


def test_a_model_comes_back_from_either_file(tmp_path: Path) -> None:
    run = trainer()
    run.run(3, checkpoint=tmp_path / "run.safetensors")
    save_model(run.model, tmp_path / "model.safetensors")
    for name in ("run", "model"):
        loaded = load_model(tmp_path / f"{name}.safetensors")
        assert loaded.config == run.model.config and not loaded.training
        assert same(list(loaded.parameters()), weights(run))
    header = (tmp_path / "model.safetensors").read_bytes()
    stored = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]["settings"]
    assert json.loads(stored)["torch"] == torch.__version__
    assert set(load_file(tmp_path / "model.safetensors")) == set(run.model.state_dict())


def test_a_model_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    for other in (MarianTranslator(model().config), torch.nn.Linear(2, 2)):
        with pytest.raises(TypeError, match=type(other).__name__):
            save_model(other, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists what a process has mapped")
def test_a_file_that_was_read_is_not_in_use(checkpoint: SimpleNamespace) -> None:
    """Windows would not let it be replaced."""
    kept = checkpoints.load_tensors(checkpoint.path)
    assert kept and str(checkpoint.path) not in Path("/proc/self/maps").read_text()


def test_the_bar_shows_step_loss_rate_speed_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    tqdm = training.tqdm
    training.tqdm = lambda **kwargs: tqdm(**kwargs, disable=False, mininterval=0, ascii=True)
    try:
        trainer().run(16)
    finally:
        training.tqdm = tqdm
    last = capsys.readouterr().err.split("\r")[-1]
    for part in ("16/16", "<00:00", "step/s", "loss ", "rate ", "tokens/s"):
        assert part in last
