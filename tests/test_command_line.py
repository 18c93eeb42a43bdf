"""`python -m transformer` as its user meets it: killed, interrupted, out of space, and fed with nonsense.

There are KILLS kills, every second one while a checkpoint is written: 3, or what the environment says.
"""

import errno
import fcntl
import io
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import tokenizers
import torch
from safetensors.torch import save_file

from transformer import commands, parallel, runs
from transformer.__main__ import main
from transformer.checkpoints import load_tensors, save_model, save_tensors
from transformer.commands import scores
from transformer.config import TransformerConfig
from transformer.corpora import numbers_corpus
from transformer.data import Batch, Tokenizer
from transformer.decoding import translate
from transformer.evaluation import average_weights
from transformer.model import Transformer
from transformer.recipes import RECIPES, SIZES, configs_for, load_corpus, settings_for
from transformer.run_files import draw_curve, load_run, read_config, read_metrics
from transformer.run_models import choose_model, chosen, keep_model, last_models
from transformer.run_trainer import RunTrainer
from transformer.runs import train_run

KILLS = int(os.environ.get("KILLS", "3"))
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TRANSFORMER_CHECK_SHAPES": "0"}
TRAIN = "--steps 24 --every 2 --max-tokens 400 --vocab-size 300 --dropout 0.2".split()  # noqa: SIM905


def write_corpus(folder: Path) -> None:
    lines = [" ".join(str(n)) for n in range(2000, 2300)]
    (folder / "a.txt").write_text("\n".join(lines))
    (folder / "b.txt").write_text("\n".join(" ".join(reversed(line.split())) for line in lines))


def command(folder: Path, run: str, *options: str) -> list[str]:
    corpus = ["--corpus", str(folder / "a.txt"), str(folder / "b.txt"), "--device", "cpu"]
    return [*corpus, *TRAIN, *options, "--run", str(folder / run)]


def start(folder: Path, run: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "transformer", "train", *command(folder, run)]
    out = subprocess.PIPE
    return subprocess.Popen(words, env=ENVIRONMENT, stdout=out, stderr=subprocess.STDOUT, text=True)


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint, the run's model and the last models."""
    files = {path.name: load_tensors(path)[0] for path in run.glob("*.safetensors")}
    return {f"{name} {key}": tensor for name, each in files.items() for key, tensor in each.items()}


def same(ours: Path, theirs: Path) -> None:
    a, b = tensors(ours), tensors(theirs)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    timeless = [
        [
            {name: value for name, value in entry.items() if name not in ("seconds", "tokens_per_second")}
            for entry in read_metrics(run)
        ]
        for run in (ours, theirs)
    ]
    assert timeless[0] == timeless[1]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the processes have: sums in another order differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run that nobody has killed, and how long it trained."""
    folder = tmp_path_factory.mktemp("runs")
    write_corpus(folder)
    process = start(folder, "whole")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    seconds = time.time() - (folder / "whole" / "config.json").stat().st_mtime  # of the training
    return SimpleNamespace(folder=folder, run=folder / "whole", seconds=seconds, out=out)


def kill(folder: Path, run: str, writing: bool, seconds: float) -> bool:
    """Start or go on; kill -9 so long after the first step can come, or at the next write of a checkpoint.

    False if the run was at its end before.
    """
    config, checkpoint = folder / run / "config.json", folder / run / "checkpoint.safetensors"
    before = config.stat().st_mtime_ns if config.exists() else 0
    process = start(folder, run)
    while process.poll() is None and (not config.exists() or config.stat().st_mtime_ns == before):
        time.sleep(0.005)
    begin = time.time()
    while process.poll() is None and (writing or time.time() < begin + seconds):
        parts = checkpoint.parent.glob("checkpoint*.part") if writing else []
        if time.time() >= begin + seconds and any(parts):
            break
        time.sleep(0 if writing else 0.005)
    process.kill()
    process.communicate()
    done = len(load_tensors(checkpoint)[0]["losses"]) if checkpoint.exists() else 0
    return process.returncode == -signal.SIGKILL and done < 24


def test_kill_9_at_any_moment_and_in_a_write_changes_nothing(whole: SimpleNamespace) -> None:
    """The run that was killed again and again ends with the weights of the one that never was."""
    generator = random.Random(0)
    killed, number = 0, 0
    while killed < KILLS:
        run = f"killed{number}"
        number += 1
        for _ in range(3):  # each run is killed up to three times, then it may finish
            if killed < KILLS:
                killed += kill(whole.folder, run, killed % 2 == 1, generator.uniform(0, 0.4) * whole.seconds)
        process = start(whole.folder, run)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out
        same(whole.folder / run, whole.run)
        assert not list((whole.folder / run).glob("*.part"))
    print(f"{killed} kills, {number} runs")


DEADLY = """
import os, pathlib, signal, sys
import transformer.runs
from transformer.__main__ import main

transformer.runs.held_out_loss = lambda *_: 0.5  # of the average: so it is the best
replace, name, moment, left = pathlib.Path.replace, sys.argv[1], sys.argv[2], int(sys.argv[3])

def deadly(self, target):
    global left
    due = left == 0 and target.name == name
    if due and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(self, target)
    if due:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= left > 0 and target.name == "checkpoint.safetensors"

pathlib.Path.replace = deadly
sys.exit(main(sys.argv[4:]))
"""


def test_kill_9_after_the_last_checkpoint_changes_nothing(whole: SimpleNamespace) -> None:
    """All steps are done; the average is written and noted, and each time the process is killed."""
    run = whole.folder / "late"
    for name, moment, checkpoints in (
        ("model.safetensors", "before", 12),
        ("model.safetensors", "after", 0),
        ("metrics.jsonl", "before", 0),
        ("nothing", "ever", 0),
    ):
        words = [sys.executable, "-c", DEADLY, name, moment, str(checkpoints)]
        words += ["train", *command(whole.folder, "late")]
        done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
        metrics = read_metrics(run)
        assert len(load_tensors(run / "checkpoint.safetensors")[0]["losses"]) == 24
        if name == "nothing":
            assert done.returncode == 0 and f"model.safetensors: {chosen(metrics)}" in done.stdout
        else:
            assert done.returncode == -signal.SIGKILL and "average_loss" not in metrics[-1], done.stderr
    assert metrics[-1]["average_loss"] == 0.5 and "average" in chosen(metrics)
    mean = average_weights([load_tensors(path)[0] for path in last_models(run, metrics)])
    ours, theirs = tensors(run), tensors(whole.run)
    theirs |= {f"model.safetensors {name}": tensor for name, tensor in mean.items()}
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_a_second_training_in_a_directory_is_refused(
    whole: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    run = whole.folder / "twice"
    first = start(whole.folder, "twice")
    while first.poll() is None and not (run / "config.json").exists():
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)  # it is at work, and has all the time of the world
    try:
        status, _, err = call(f"train --run {run}", capsys)
        assert status == 1 and f"another training is at work in {run}" in err and err.count("\n") == 1
    finally:
        first.kill()  # and leaves its lock behind, one should think
        first.communicate()
    assert call(f"train --run {run} --device cpu", capsys)[0] == 0
    same(run, whole.run)


def test_where_there_are_no_locks_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "as some file systems of clusters answer")

    monkeypatch.setattr(fcntl, "flock", flock)
    write_corpus(tmp_path)
    assert call(["train", *command(tmp_path, "run", "--steps", "1")], capsys)[0] == 0


def test_what_someone_else_left_behind_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tokenizer without a config.json is of a run that never began, perhaps on another corpus."""
    write_corpus(tmp_path)
    Tokenizer.train(["abab"] * 3, 260).save(tmp_path / "run" / "tokenizer.json")
    (tmp_path / "run" / "config.json.7.part").touch()
    options = command(tmp_path, "run", "--steps", "1")
    assert call(["train", *options], capsys)[0] == 0
    assert not list((tmp_path / "run").glob("*.part"))
    assert len(Tokenizer.load(tmp_path / "run" / "tokenizer.json")) > 260


def test_a_run_directory_holds_all_that_is_promised(whole: SimpleNamespace) -> None:
    names = {path.name for path in whole.run.iterdir()}
    wanted = {"config.json", "tokenizer.json", "checkpoint.safetensors", "model.safetensors", "metrics.jsonl"}
    last = {f"model-{step}.safetensors" for step in (16, 18, 20, 22, 24)}
    assert names == wanted | last | {"curve.png", "lock"}
    config = read_config(whole.run)
    [session] = config["sessions"]
    assert session["device"].startswith("cpu") and session["dtype"] == "float32"
    assert session["torch"] == torch.__version__ and config["settings"]["seed"] == 0
    metrics = read_metrics(whole.run)
    assert [entry["step"] for entry in metrics] == list(range(2, 25, 2))
    measured = {"loss", "rate", "seconds", "tokens_per_second", "validation_loss", "exact_match"}
    assert set(metrics[0]) == {"step"} | measured
    assert set(metrics[-1]) - set(metrics[0]) == {"average_loss"}
    losses = load_tensors(whole.run / "checkpoint.safetensors")[0]["losses"]
    assert metrics[-1]["loss"] == pytest.approx(losses[-2:].mean().item())  # of the steps since the last
    assert f"model.safetensors: {chosen(metrics)}" in whole.out


@pytest.mark.parametrize("average", [3.5, 4.0, 5.0, math.nan])
def test_the_best_of_all_is_kept_and_no_more_than_five_others(tmp_path: Path, average: float) -> None:
    def small(value: float) -> Transformer:
        model = Transformer(TransformerConfig(300, 8, 1, 8, 1))
        model.embedding.weight.data[:] = value
        return model

    def value_of(path: Path) -> float:
        return load_tensors(path)[0]["embedding.weight"][0, 0].item()

    metrics: list[dict[str, float]] = []
    for step, loss in enumerate([9, 8, 4, 6, 7, 5, 4, 6], start=1):
        metrics.append({"step": step, "validation_loss": loss})
        keep_model(tmp_path, small(step), metrics)
        keep_model(tmp_path, small(step), metrics)  # as after a kill
        assert len(list(tmp_path.iterdir())) == min(step, 5) + 1
    assert value_of(tmp_path / "model.safetensors") == 3  # the first of the two with 4
    asked = []

    def loss_of(model: Transformer) -> float:
        asked.append(model.embedding.weight[0, 0].item())
        return average

    choose_model(tmp_path, metrics, loss_of)
    choose_model(tmp_path, metrics, loss_of)
    assert asked == [(4 + 5 + 6 + 7 + 8) / 5]  # once
    assert value_of(tmp_path / "model.safetensors") == (6 if average < 4 else 3)
    assert ("average" in chosen(metrics)) == (average < 4) and "step 3," in chosen(metrics)


def test_one_report_has_no_average(tmp_path: Path) -> None:
    """Nor has a run of an earlier version, which kept no models."""
    metrics = [{"step": step, "validation_loss": 1.0} for step in range(6)]
    for some in (metrics[:1], metrics):
        choose_model(tmp_path, some, lambda model: pytest.fail("asked"))


def call(text: str | list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run a command in this process: its status, output and errors."""
    try:
        status = main(text.split() if isinstance(text, str) else text)
    except SystemExit as error:
        status = int(error.code or 0)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return status, out, err


def test_the_same_command_does_nothing_more_and_others_are_refused(
    whole: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tensors(whole.run)
    assert call(["train", *command(whole.folder, "whole")], capsys)[0] == 0
    assert call(f"train --run {whole.run}", capsys)[0] == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(whole.run).items())
    for option, value in (
        ("seed", 5),
        ("steps", 50),
        ("dropout", 0.5),
        ("size", "small"),
        ("corpus", "numbers"),
    ):
        status, _, err = call(f"train --run {whole.run} --{option} {value}", capsys)
        assert status == 1 and option in err and str(value) in err


def test_ctrl_c_stops_after_a_step_and_the_run_goes_on(
    whole: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    update, before = parallel.ParallelTrainer.update, signal.getsignal(signal.SIGINT)

    def interrupted(self: parallel.ParallelTrainer, batch: Batch) -> None:
        if self.step == 10:
            signal.raise_signal(signal.SIGINT)
        update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(parallel.ParallelTrainer, "update", interrupted)
        status, out, _ = call(["train", *command(whole.folder, "stopped")], capsys)
    run = whole.folder / "stopped"
    assert status == 130 and f"train --run {run}" in out
    assert len(load_tensors(run / "checkpoint.safetensors")[0]["losses"]) == 11
    assert signal.getsignal(signal.SIGINT) is before
    assert call(f"train --run {run}", capsys)[0] == 0
    same(run, whole.run)


def test_a_second_ctrl_c_stops_at_once_and_half_a_step_is_not_kept(
    whole: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, usual = torch.optim.Adam.step, signal.default_int_handler

    def interrupted(self: torch.optim.Adam, *args: Any) -> None:
        step(self, *args)
        if self.state_dict()["state"][0]["step"] == 11:  # the weights have moved, the losses are those of 10
            signal.raise_signal(signal.SIGINT)
            while signal.getsignal(signal.SIGINT) is not usual:  # until it has been heard
                time.sleep(0.001)
            signal.raise_signal(signal.SIGINT)
            time.sleep(60)  # which this ends

    before = signal.signal(signal.SIGINT, usual)  # who was begun in the background may ignore it
    try:
        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.Adam, "step", interrupted)
            assert call(["train", *command(whole.folder, "hasty")], capsys)[0] == 130
    finally:
        signal.signal(signal.SIGINT, before)
    run = whole.folder / "hasty"
    assert len(load_tensors(run / "checkpoint.safetensors")[0]["losses"]) == 10
    assert call(f"train --run {run}", capsys)[0] == 0
    same(run, whole.run)


def test_a_polite_kill_stops_after_a_step_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    update = parallel.ParallelTrainer.update

    def killed(self: parallel.ParallelTrainer, batch: Batch) -> None:
        signal.raise_signal(signal.SIGTERM)
        update(self, batch)

    monkeypatch.setattr(parallel.ParallelTrainer, "update", killed)
    write_corpus(tmp_path)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # or, unheard, it would end the tests
    try:
        status, out, _ = call(["train", *command(tmp_path, "run", "--steps", "2")], capsys)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert status == 130 and f"train --run {tmp_path / 'run'}" in out
    assert len(load_tensors(tmp_path / "run" / "checkpoint.safetensors")[0]["losses"]) == 1


def test_a_full_disk_ends_with_a_message_and_the_old_checkpoint(whole: SimpleNamespace) -> None:
    """A limit on the size of files stands for a disk without room."""
    words = [sys.executable, "-m", "transformer", "train", *command(whole.folder, "full")]
    # the model fits, the checkpoint, three times as large, does not
    limit = (whole.run / "model.safetensors").stat().st_size + 100_000
    run = whole.folder / "full"

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    options = {"env": ENVIRONMENT, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run(words, preexec_fn=small_files, **options)  # type: ignore[call-overload]
    assert done.returncode == 1 and "error: " in done.stderr and "Traceback" not in done.stderr
    assert not (run / "checkpoint.safetensors").exists() and not list(run.glob("*.part"))
    done = subprocess.run(words, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    same(run, whole.run)


def test_a_loss_that_is_nan_stops_and_keeps_the_last_good_checkpoint(
    whole: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(self: parallel.ParallelTrainer, batch: Batch) -> None:
        update(self, batch)
        if self.step == 6:  # as a gradient that overflows would do
            next(iter(self.model.parameters())).data[:] = math.nan

    update = parallel.ParallelTrainer.update
    with monkeypatch.context() as patch:
        patch.setattr(parallel.ParallelTrainer, "update", poisoned)
        status, _, err = call(["train", *command(whole.folder, "nan")], capsys)
    run = whole.folder / "nan"
    assert status == 1 and "step 6" in err
    kept, _ = load_tensors(run / "checkpoint.safetensors")
    assert len(kept["losses"]) == 4 and all(tensor.isfinite().all() for tensor in kept.values())
    assert call(f"train --run {run}", capsys)[0] == 0
    same(run, whole.run)


def test_a_rate_beyond_reason_stops_at_its_step(
    whole: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = call(["train", *command(whole.folder, "wild", "--peak-rate", "1e30")], capsys)
    assert status == 1 and "loss" in err and "step" in err and "lower rate" in err


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        (b"one\ntwo\n", b"eins\n", ["a.txt has 2 lines", "b.txt has 1"]),
        (b"one\n\xfftwo\n", b"eins\nzwei\n", ["a.txt, line 2", "not UTF-8"]),
        (b"one\ntwo\n", b"eins\nzwei\n", ["a.txt", "too few"]),
        (b"", b"", ["a.txt", "too few"]),
        (None, b"eins\n", ["a.txt", "No such file"]),
    ],
)
def test_bad_files_are_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    a: bytes | None,
    b: bytes,
    wanted: list[str],
) -> None:
    for name, content in (("a.txt", a), ("b.txt", b)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    status, _, err = call(["train", *command(tmp_path, "run")], capsys)
    assert status == 1 and err.count("\n") == 1
    assert [part for part in wanted if part not in err] == []
    assert not (tmp_path / "run").exists()


def test_empty_sides_and_long_sentences_are_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path)
    for name, extra in (("a.txt", "\n \nx\n" + "9 " * 500), ("b.txt", "\neins\n\n1")):
        with (tmp_path / name).open("a") as file:
            file.write(extra)
    options = command(tmp_path, "run", "--steps", "1")
    status, out, _ = call(["train", *options], capsys)
    assert status == 0 and "skipped 2 pairs with an empty side" in out
    assert "skipped 1 pairs with more than 256 tokens" in out


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fly",
        "train --corpus atlantis",
        "train --corpus a b c",
        "train --size huge",
        "train --steps 0",
        "train --steps many",
        "evaluate --split last",
    ],
)
def test_usage_errors_are_2(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(text, capsys)
    assert status == 2 and "usage" in err


def test_batches_too_small_for_any_sentence_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or the trainer would look for its first batch for ever."""
    write_corpus(tmp_path)
    status, _, err = call(["train", *command(tmp_path, "run", "--max-tokens", "3")], capsys)
    assert status == 1 and "at most 3 tokens" in err and "--max-tokens" in err


def test_compiling_while_shapes_are_checked_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFORMER_CHECK_SHAPES", "1")
    write_corpus(tmp_path)
    status, _, err = call(["train", *command(tmp_path, "run", "--compile")], capsys)
    assert status == 1 and "TRANSFORMER_CHECK_SHAPES" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    [
        "train --warmup 900 --steps 800",
        "train --dropout 1",
        "train --peak-rate -1.0",
        "train --peak-rate nan",
        "train --vocab-size 100",
        "train --device abacus",
    ],
)
def test_settings_that_cannot_be_write_nothing(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = call(f"{text} --run {tmp_path / 'run'}", capsys)
    setting = text.split()[1].removeprefix("--").replace("-", "_")
    assert status == 1 and setting in err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "value"), [("size", "huge"), ("layers", 3)])
def test_settings_that_do_not_exist_are_named(
    whole: SimpleNamespace, tmp_path: Path, name: str, value: object
) -> None:
    for run in (tmp_path, whole.run):  # new and old
        with pytest.raises(ValueError, match=rf"{name}.* ({value}|warmup)"):
            train_run(run, {name: value})
    assert not list(tmp_path.iterdir())


def test_texts_in_pieces_bring_their_own_tokenizer(
    whole: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of fewer pieces than one of ours could have; and it goes on with that."""
    library = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({piece: i for i, piece in enumerate("pbe?0123456789")}, "?")
    )
    library.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    files = [str(whole.folder / name) for name in ("a.txt", "b.txt")]
    options = {"corpus": files, "steps": 2, "every": 1, "vocab_size": 14}
    for own in (Tokenizer(library), None):
        assert train_run(tmp_path / "run", options, tokenizer=own, device="cpu")
    assert len(Tokenizer.load(tmp_path / "run" / "tokenizer.json")) == 14


def test_the_usual_directory_tells_corpus_and_size(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[str] = []

    def finished(folder: Path, *_: object, **__: object) -> bool:
        folders.append(str(folder))
        return True

    monkeypatch.setattr(commands, "train_run", finished)
    for options in ("", "--size base", "--corpus fragment --size big", "--corpus a b --size small"):
        assert call(f"train --device cpu {options}", capsys)[0] == 0
    assert folders == ["runs/numbers-tiny", "runs/numbers-base", "runs/fragment-big", "runs/files-small"]


def test_help_shows_examples_and_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call("--help", capsys)
    assert status == 0 and "python -m transformer train" in out and "torchrun" in out
    status, out, _ = call("train --help", capsys)
    assert status == 0
    for name, recipe in RECIPES.items():
        assert [word for word in (name, str(recipe.steps), str(recipe.vocab_size)) if word not in out] == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("corpus", RECIPES)
def test_every_recipe_can_be(corpus: str, size: str) -> None:
    names = ["a", "b"] if corpus == "files" else [corpus]
    for steps in ({}, {"steps": 1}, {"steps": 37}):
        settings = settings_for({"corpus": names, "size": size, **steps})
        model, training = configs_for(settings, 400)
        assert 1 <= training.warmup <= training.steps and settings["every"] >= 1
        assert model.dropout == settings["dropout"] and model.num_layers == settings["num_layers"]
    assert settings_for({"warmup": 3, "every": 9})["warmup"] == 3


def test_held_out_sentences_are_not_learned_from(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    for name in ("a.txt", "b.txt"):
        lines = (tmp_path / name).read_text().splitlines()
        (tmp_path / name).write_text("\n".join(lines * 2))  # every sentence twice
    corpus, skipped = load_corpus([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
    sides = [{pair[0] for pair in split} for split in (corpus.train, corpus.validation, corpus.test)]
    assert skipped == 0 and all(sides) and not sides[0] & (sides[1] | sides[2]) and not sides[1] & sides[2]


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("content", "lines", "status", "message"),
    [
        (b"", 0, 0, ""),
        (b"2 0 1", 1, 0, ""),
        (b"2 0 1\n\n3 3 3\n", 3, 0, ""),
        (b"2 0 1\r\n\n", 2, 0, ""),
        (b"2 0 1\n" + b"7 " * 400 + b"\n1 2 3\n", 3, 1, "line 2"),
        (b"2 0 1\n\xff\n", 0, 1, "input, line 2"),
    ],
)
def test_translate_keeps_lines_in_step(
    whole: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    lines: int,
    status: int,
    message: str,
) -> None:
    feed(monkeypatch, content)
    code, out, err = call(f"translate --run {whole.run} --device cpu", capsys)
    assert code == status and out.count("\n") == lines
    assert message in err if message else err == ""
    model, tokenizer = load_run(whole.run)
    given = content.decode().splitlines() if lines else []
    some = [0 < len(line) < 100 for line in given]
    alone = [translate(model, tokenizer, [line])[0] for line, fits in zip(given, some, strict=True) if fits]
    assert [line for line in out.splitlines() if line] == alone
    assert [bool(line) for line in out.splitlines()] == some


def test_evaluate_prints_its_scores_with_a_signature(
    whole: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, _ = call(f"evaluate --run {whole.run} --device cpu", capsys)
    assert status == 0 and out.startswith("exact match ")
    exact, cased, lowered = out.splitlines()
    assert "case:mixed" in cased and "case:lc" in lowered and "tok:13a" in cased and "tok:13a" in lowered
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    status, out, _ = call(f"evaluate --run {whole.run} --split validation", capsys)
    assert status == 0 and "sacrebleu is not installed" in out
    status, _, err = call(f"evaluate --run {whole.run} --split unseen", capsys)
    assert status == 1 and "unseen" in err


def test_no_bleu_where_no_reference_has_four_words() -> None:
    words = [german for _, german in numbers_corpus().validation]
    assert "BLEU 0.0" not in "".join(scores(words, words)) and "no BLEU" in scores(words, words)[1]
    three, four = "drei Worte nur", "nun sind es vier"
    assert len(scores([three], [three])) == 2
    assert "BLEU 100.0" in scores([three, four], [three, four])[1]


def test_bleu_with_and_without_capitals() -> None:
    wanted = ["Der Hund sieht die Katze .", "Sie schläft in der Sonne ."]
    exact, cased, lowered = scores([text.lower() for text in wanted], wanted)
    assert "exact match  0.0 %" in exact and "BLEU 100.0" in lowered and "BLEU 100.0" not in cased


def test_the_curve_shows_both_losses_and_the_exact_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[tuple[list[float], list[float]]] = []

    def keep(figure: Any, *_: object, **__: object) -> None:
        drawn = [line for axes in figure.axes for line in axes.lines]
        lines.extend((list(line.get_xdata()), list(line.get_ydata())) for line in drawn)

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", keep)
    measured = {"loss": (4, 2), "validation_loss": (5, 3), "exact_match": (0.25, 0.5)}
    metrics = [{"step": i + 7, **{name: both[i] for name, both in measured.items()}} for i in (0, 1)]
    draw_curve(metrics, tmp_path / "curve.png")
    assert lines == [([7, 8], [4, 2]), ([7, 8], [5, 3]), ([7, 8], [25, 50])]


def test_without_matplotlib_the_curve_is_missing_and_says_so(
    whole: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, _ = call(f"train --run {whole.run}", capsys)
    assert status == 0 and "no curve.png" in out


def truncated(run: Path) -> None:
    content = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(content[:-100])


def foreign(run: Path) -> None:
    save_file({"weight": torch.zeros(3)}, run / "model.safetensors")


def copied(run: Path, to: Path) -> Path:
    to.mkdir()
    for path in run.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def another_model(run: Path) -> None:
    save_model(Transformer(TransformerConfig(300, 16, 2, 32, 1)), run / "model.safetensors")


def weights_of_another(run: Path) -> None:
    weights = Transformer(TransformerConfig(300, 16, 2, 32, 1)).state_dict()
    save_tensors(run / "model.safetensors", weights, {"model": read_config(run)["model"]})


def another_tokenizer(run: Path) -> None:
    words = ["abab"] * 3
    Tokenizer.train(words, 260).save(run / "tokenizer.json")


def broken_tokenizer(run: Path) -> None:
    (run / "tokenizer.json").write_text('{"a": 1}')


def broken_config(run: Path) -> None:
    (run / "config.json").write_text('{"settings": ')


def no_model(run: Path) -> None:
    (run / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (truncated, "model.safetensors is damaged"),
        (foreign, "not a file of this package"),
        (another_model, "config.json"),
        (weights_of_another, "model.safetensors"),
        (another_tokenizer, "tokenizer.json"),
        (broken_tokenizer, "tokenizer.json"),
        (broken_config, "config.json is damaged"),
        (no_model, "no model"),
    ],
)
def test_a_spoilt_run_is_not_used(
    whole: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil,
    wanted: str,
) -> None:
    run = copied(whole.run, tmp_path / "run")
    spoil(run)
    feed(monkeypatch, b"1 2 3\n")
    status, out, err = call(f"translate --run {run} --device cpu", capsys)
    assert status == 1 and out == "" and wanted in err and err.count("\n") == 1


def test_a_checkpoint_that_is_damaged_is_not_gone_on_with(
    whole: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(whole.run, tmp_path / "run")
    content = bytearray((run / "checkpoint.safetensors").read_bytes())
    content[-5000] ^= 1
    (run / "checkpoint.safetensors").write_bytes(content)
    status, _, err = call(f"train --run {run}", capsys)
    assert status == 1 and "checkpoint.safetensors is damaged" in err
    assert (run / "checkpoint.safetensors").read_bytes() == content


def test_a_directory_with_other_things_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    status, _, err = call(["train", *command(tmp_path, "run")], capsys)
    assert status == 1 and "thesis.txt" in err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_prompt_translates_until_it_ends(
    whole: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["2 0 1", "2 \udcff", ""])

    def ask(prompt: str) -> str:
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", ask)
    status, out, _ = call(f"translate --run {whole.run} --device cpu", capsys)
    assert status == 0 and out.count("\n") == 4 and "not UTF-8" in out


def test_a_corpus_may_move_but_not_change(
    whole: SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied(whole.run, tmp_path / "run")
    write_corpus(tmp_path)
    there = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)  # only now; later, it goes on from elsewhere
        assert call("train --run run --corpus a.txt b.txt", capsys)[0] == 0
    assert read_config(tmp_path / "run")["settings"]["corpus"] == there
    (tmp_path / "b.txt").write_text((tmp_path / "b.txt").read_text().replace("2", "7"))
    status, _, err = call(f"train --run {tmp_path / 'run'}", capsys)
    assert status == 1 and "checkpoint.safetensors" in err and "data" in err


def test_a_model_without_its_checkpoint_is_not_written_over(
    whole: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(whole.run, tmp_path / "run")
    (run / "checkpoint.safetensors").unlink()
    before = (run / "model.safetensors").read_bytes()
    for _ in range(2):
        status, _, err = call(f"train --run {run}", capsys)
        assert status == 1 and "no checkpoint" in err and "another --run" in err
        assert (run / "model.safetensors").read_bytes() == before
        (run / "metrics.jsonl").unlink(missing_ok=True)


@pytest.mark.parametrize("text", ['{"step": 2', "{}", "[]"])
def test_damaged_metrics_are_named(
    whole: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    run = copied(whole.run, tmp_path / "run")
    (run / "metrics.jsonl").write_text(text)
    status, _, err = call(f"train --run {run}", capsys)
    assert status == 1 and "metrics.jsonl is damaged" in err and err.count("\n") == 1


def test_a_finished_run_without_metrics_says_that_it_is_done(
    whole: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(whole.run, tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    status, out, _ = call(f"train --run {run}", capsys)
    assert status == 0 and "all 24 steps are done" in out


def test_one_endless_sentence_does_not_lengthen_the_others(whole: SimpleNamespace) -> None:
    corpus, _ = load_corpus([str(whole.folder / name) for name in ("a.txt", "b.txt")])
    corpus = replace(corpus, validation=corpus.train[:120])  # more than are shown
    endless = replace(corpus, validation=[("9 " * 500, "9 " * 500), *corpus.validation])
    settings = read_config(whole.run)["settings"]
    shown = RunTrainer(whole.run, settings, endless).shown
    assert shown == RunTrainer(whole.run, settings, corpus).shown == corpus.validation[:100]


def test_the_beam_is_as_wide_as_asked(
    whole: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    beams: list[int] = []

    def listen(model: Transformer, tokenizer: Tokenizer, lines: list[str], **options: int) -> list[str]:
        beams.append(options["beam"])
        return lines

    monkeypatch.setattr(commands, "translate", listen)
    monkeypatch.setattr("builtins.input", Mock(side_effect=["2 0 1", EOFError]))
    assert call(f"evaluate --run {whole.run} --device cpu --beam 2", capsys)[0] == 0
    feed(monkeypatch, b"2 0 1\n")
    assert call(f"translate --run {whole.run} --device cpu --beam 3", capsys)[0] == 0
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert call(f"translate --run {whole.run} --device cpu --beam 4", capsys)[0] == 0
    assert beams == [2, 3, 4]


def test_other_files_are_scored_as_a_whole(
    whole: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").write_text("1 2 3 4\n" + "5 " * 500 + "\n2 2 2 2\n")
    (tmp_path / "b").write_text("4 3 2 1\n5\n2 2 2 2\n")
    status, out, err = call(f"evaluate --run {whole.run} --files {tmp_path}/a {tmp_path}/b", capsys)
    assert status == 0 and "of 3 sentences" in out and err.startswith("line 2: ")
    (tmp_path / "b").write_text("4 3 2 1\n")
    status, _, err = call(f"evaluate --run {whole.run} --files {tmp_path}/a {tmp_path}/b", capsys)
    assert status == 1 and "3 lines" in err
    for name in "ab":
        (tmp_path / name).write_text("")
    status, _, err = call(f"evaluate --run {whole.run} --files {tmp_path}/a {tmp_path}/b", capsys)
    assert status == 1 and "no sentences" in err and "/a" in err


def test_translations_are_written_in_utf_8(whole: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    monkeypatch.setattr(commands, "translate", lambda *_, **__: ["Mädchen"])
    feed(monkeypatch, b"girl\n")
    assert main(f"translate --run {whole.run} --device cpu".split()) == 0
    assert out.getvalue().decode() == "Mädchen\n"


def test_many_lines_have_a_bar_in_a_terminal_and_one_has_none(
    whole: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for lines, terminal in ((b"2 0\n2 1\n", False), (b"2 0\n", True), (b"2 0\n2 1\n", True)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        feed(monkeypatch, lines)
        status, out, err = call(f"translate --run {whole.run} --device cpu", capsys)
        assert status == 0 and len(out.splitlines()) == len(lines.splitlines())
        assert "2/2" in err if terminal and len(lines) > 4 else err == ""


def test_whoever_has_heard_enough_may_leave(whole: SimpleNamespace) -> None:
    words = f"{sys.executable} -m transformer translate --run {whole.run} --device cpu | true"
    done = subprocess.run(["bash", "-c", words], env=ENVIRONMENT, input=b"2 0 1\n", capture_output=True)
    assert done.stderr == b""


def test_a_closed_input_is_said(whole: SimpleNamespace) -> None:
    words = f"{sys.executable} -m transformer translate --run {whole.run} --device cpu <&-"
    done = subprocess.run(["bash", "-c", words], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1 and "standard input is closed" in done.stderr
    assert done.stderr.count("\n") == 1


def test_training_beside_the_main_thread(whole: SimpleNamespace, tmp_path: Path) -> None:
    run = copied(whole.run, tmp_path / "run")
    with ThreadPoolExecutor() as pool:
        assert pool.submit(train_run, run, {}, device="cpu").result()


def test_metrics_are_json_lines(whole: SimpleNamespace) -> None:
    lines = (whole.run / "metrics.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 12
    assert runs.RunTrainer.stopping is False
