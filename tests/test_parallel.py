"""Many processes train as one; lengths, shares and FLOPs are what they claim to be."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from sysconfig import get_path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import examples, model

from transformer.checkpoints import load_tensors
from transformer.data import Batch, pad
from transformer.devices import DeviceTrainer, pick_device, rounded
from transformer.fused_loss import fused_loss
from transformer.learning import batch_loss, target_tokens
from transformer.parallel import ParallelTrainer, batch_share
from transformer.pretrained import MarianTranslator
from transformer.recurrent import RecurrentConfig, RecurrentTranslator
from transformer.training import Trainer, TrainingConfig, load_checkpoint

SCRIPT = """
import sys
import time
import torch
from test_training import examples, model
from transformer.checkpoints import save_tensors
from transformer.parallel import ParallelTrainer, first_before_others, processes
from transformer.training import TrainingConfig, batches_from

config = TrainingConfig(steps=20, max_tokens=int(sys.argv[2]), warmup=4)
with processes(torch.device("cpu")):
    trainer = ParallelTrainer(model(dropout=0.0).double(), examples(12), config)
    trainer.update(next(batches_from(trainer.examples, config)))
    kept = {f"gradient {n}": w.grad.clone() for n, w in trainer.model.named_parameters()}
    trainer.run()
    kept |= trainer.model.state_dict() | {"losses": torch.tensor(trainer.losses, dtype=torch.float64)}
    if trainer.rank == 0:
        save_tensors(sys.argv[1], kept, {})
    with first_before_others(), open(sys.argv[3], "a") as order:
        time.sleep(0.5 if trainer.rank == 0 else 0)
        order.write(str(trainer.rank))
"""
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(
        [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    ),
    "TRANSFORMER_CHECK_SHAPES": "0",
}


def torchrun(count: int) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return [sys.executable, *launcher] if count > 1 else [sys.executable]


def test_two_processes_give_the_gradients_and_the_weights_of_one(tmp_path: Path) -> None:
    """Batches of one to three rows, so that one of the two often has none."""
    (tmp_path / "script.py").write_text(SCRIPT)
    results = []
    for count in (1, 2):
        command = [*torchrun(count), "script.py", f"{count}.safetensors", "24", f"order{count}"]
        subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=120, capture_output=True)
        results.append(load_tensors(tmp_path / f"{count}.safetensors")[0])
    assert [(tmp_path / f"order{count}").read_text() for count in (1, 2)] == ["0", "01"]
    one, two = results
    assert one.keys() == two.keys() and "gradient embedding.weight" in one
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-8, msg=name)


def test_a_killed_rank_ends_the_run_and_it_goes_on(tmp_path: Path) -> None:
    lines = [" ".join(str(n)) for n in range(200, 500)]
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("\n".join(lines))
    options = [
        "train",
        "--corpus",
        "a.txt",
        "b.txt",
        "--steps",
        "24",
        "--every",
        "3",
        "--max-tokens",
        "600",
        "--vocab-size",
        "300",
    ]
    # "--", because torchrun takes "--run" for an abbreviation of its own "--run-path"
    command = [*torchrun(2), "-m", "--", "transformer", *options, "--dropout", "0.1", "--run"]
    quiet = {"cwd": tmp_path, "env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    subprocess.run([*command, "whole"], check=True, timeout=120, **quiet)  # type: ignore[call-overload]

    run = subprocess.Popen([*command, "killed"], **quiet)  # type: ignore[call-overload]
    end = time.time() + 90
    while not (tmp_path / "killed" / "checkpoint.safetensors").exists():
        assert run.poll() is None and time.time() < end
        time.sleep(0.01)
    workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    ranks = {worker: Path(f"/proc/{worker}/environ").read_bytes() for worker in workers}
    [second] = [worker for worker, environment in ranks.items() if b"\0RANK=1\0" in b"\0" + environment]
    os.kill(int(second), signal.SIGKILL)
    run.communicate(timeout=60)
    assert run.returncode != 0
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)

    subprocess.run([*command, "killed"], check=True, timeout=120, **quiet)  # type: ignore[call-overload]
    names = sorted(path.name for path in (tmp_path / "whole").glob("*.safetensors"))
    assert len(names) == 2 + 5 and "model-24.safetensors" in names
    for file in names:
        one, two = (load_tensors(tmp_path / run / file)[0] for run in ("whole", "killed"))
        assert all(torch.equal(two[name], tensor) for name, tensor in one.items()), file
    losses, _ = load_tensors(tmp_path / "killed" / "checkpoint.safetensors")
    assert len(losses["losses"]) == 24


if not Path("/proc/self/task").exists():
    del test_a_killed_rank_ends_the_run_and_it_goes_on  # only Linux tells whose child is whose


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(1, 9))
def test_the_shares_of_all_ranks_make_the_whole(lengths: list[int], world_size: int) -> None:
    target = pad([[1, *[5] * length, 2] for length in lengths])
    batch = Batch(target, target)
    parts = [batch_share(batch, rank, world_size) for rank in range(world_size)]
    assert math.isclose(sum(share for _, share in parts), 1)
    assert sum(len(part.source) for part, share in parts if share) == len(lengths)
    assert all(len(part.source) > 0 for part, _ in parts)


@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_rounding_lengths_adds_padding_and_nothing_else(multiple: int) -> None:
    batch = Batch(*(pad(side) for side in zip(*examples(9), strict=True)))
    longer = rounded(batch, multiple)
    assert longer.source.shape[1] % multiple == (longer.target.shape[1] - 1) % multiple == 0
    for side, before in zip(longer, batch, strict=True):
        assert 0 <= side.shape[1] - before.shape[1] < multiple
        assert torch.equal(side[:, : before.shape[1]], before) and not side[:, before.shape[1] :].any()
    exact = model(dropout=0.0).double()
    losses = [batch_loss(exact, each, smoothing=0.1) for each in (batch, longer)]
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=1e-12)


def config(**changes: object) -> TrainingConfig:
    return TrainingConfig(**{"steps": 10, "max_tokens": 60, "warmup": 3, **changes})


def test_alone_and_without_dropout_it_is_the_trainer() -> None:
    kinds = (Trainer, DeviceTrainer, ParallelTrainer)
    plain, device, parallel = (kind(model(dropout=0.0).double(), examples(), config()) for kind in kinds)
    for run in (plain, device, parallel):
        run.run()
    assert device.losses == pytest.approx(plain.losses, rel=0, abs=1e-10)  # the fused loss rounds otherwise
    assert parallel.losses == device.losses
    for a, b in zip(parallel.model.parameters(), device.model.parameters(), strict=True):
        assert torch.equal(a, b)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**16), st.integers(1, 40), st.integers(2, 20), st.sampled_from([0.0, 0.1, 0.5]))
def test_fused_loss_is_the_loss(seed: int, rows: int, length: int, smoothing: float) -> None:
    torch.manual_seed(seed)
    ours = model(dropout=0.0).double()
    source, target = (torch.randint(3, ours.config.vocab_size, (rows, n)) for n in (4, length))
    target[torch.rand(target.shape) < 0.3] = ours.config.pad_id
    target[0, -1] = 3  # one at least has to be predicted
    found = []
    for loss_of in (batch_loss, fused_loss):
        loss = loss_of(ours, Batch(source, target), smoothing=smoothing)
        found.append([loss, *torch.autograd.grad(-2 * loss, list(ours.parameters()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-10)


def test_fused_loss_where_a_token_is_impossible() -> None:
    torch.manual_seed(0)
    ours = MarianTranslator(model(dropout=0.0).config).double()
    ours.output_bias[1] = -math.inf
    batch, found = Batch(torch.randint(3, 9, (4, 5)), torch.randint(3, 9, (4, 6))), []
    for loss_of in (batch_loss, fused_loss):
        loss = loss_of(ours, batch, smoothing=0.0)
        found.append([loss, *torch.autograd.grad(loss, list(ours.parameters()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-10)


def test_fused_loss_has_no_second_derivative() -> None:
    ours = RecurrentTranslator(RecurrentConfig(9, d_model=8, dropout=0.0))
    batch = Batch(torch.randint(3, 9, (4, 5)), torch.randint(3, 9, (4, 6)))
    [slope] = torch.autograd.grad(batch_loss(ours, batch, smoothing=0.1), ours.output.bias, create_graph=True)
    torch.autograd.grad(slope.square().sum(), ours.output.bias)
    with pytest.raises(RuntimeError, match="batch_loss"):
        torch.autograd.grad(fused_loss(ours, batch, smoothing=0.1), ours.output.bias, create_graph=True)


def test_fused_loss_in_bf16() -> None:
    torch.manual_seed(0)
    ours, batch = model(dropout=0.0), Batch(torch.randint(3, 9, (40, 5)), torch.randint(3, 9, (40, 11)))
    found = []
    for loss_of in (batch_loss, fused_loss):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(ours, batch, smoothing=0.1)
        assert loss.dtype == torch.float32
        found.append([loss, *torch.autograd.grad(loss, list(ours.parameters()))])
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype == torch.float32
    assert found[0][0].item() == pytest.approx(found[1][0].item(), rel=1e-3)
    flat = [torch.cat([g.ravel() for g in gradients[1:]]) for gradients in found]
    assert torch.cosine_similarity(*flat, dim=0) > 0.999


def test_compiling_while_shapes_are_checked_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMER_CHECK_SHAPES", "1")
    with pytest.raises(ValueError, match="TRANSFORMER_CHECK_SHAPES"):
        DeviceTrainer(model(), examples(), config(), compile=True)
    monkeypatch.setenv("TRANSFORMER_CHECK_SHAPES", "0")
    DeviceTrainer(model(), examples(), config(), compile=True)  # compiles when it first learns


LEARNS_COMPILED = """
import copy
import torch
from test_training import examples, model
from transformer.devices import DeviceTrainer
from transformer.training import TrainingConfig

losses = []
for compile in (False, True):
    config = TrainingConfig(steps=5, max_tokens=60, warmup=4)
    trainer = DeviceTrainer(model(dropout=0.0), examples(12), config, compile=compile)
    trainer.run()
    losses.append(torch.tensor(trainer.losses))
torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)
ours = trainer.model.eval()
pair = torch.tensor([[5, 6, 2]]), torch.tensor([[1, 6]])
with torch.no_grad():
    ours(*pair)  # compiled while nobody listened
maps = ours.attention_maps(*pair)  # what is compiled shows its weights, too
torch.testing.assert_close(maps, copy.deepcopy(ours).attention_maps(*pair))
print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


def test_what_is_compiled_learns_the_same() -> None:
    """In a process of its own: here shapes are checked."""
    if not (shutil.which(os.environ.get("CXX", "g++")) and Path(get_path("include"), "Python.h").exists()):
        pytest.skip("a C++ compiler or Python.h is missing")
    command = [sys.executable, "-c", LEARNS_COMPILED]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stderr
    assert int(done.stdout) >= 3  # graphs: both stacks and the loss


def test_target_tokens_are_those_that_must_be_predicted() -> None:
    target = pad([[1, 5, 6, 2], [1, 2], [1, 5, 2]])
    assert target_tokens(Batch(target, target)) == 3 + 1 + 2
    assert target_tokens(Batch(target, target), pad_id=5) == 2 + 3 + 2


def test_dropout_depends_on_seed_and_step_only_and_a_run_resumes(tmp_path: Path) -> None:
    whole = ParallelTrainer(model(), examples(), config())
    whole.run()
    first = ParallelTrainer(model(), examples(), config())
    first.run(6, checkpoint=tmp_path / "x.safetensors")
    second = ParallelTrainer(model(), examples(), config())
    load_checkpoint(second, tmp_path / "x.safetensors")
    torch.manual_seed(77)
    second.run()
    assert second.losses == whole.losses
    other = ParallelTrainer(model(), examples(), config(seed=1))
    other.run()
    assert other.losses != whole.losses


def test_every_process_drops_other_numbers() -> None:
    losses = []
    for rank in (0, 1):
        run = DeviceTrainer(model(), examples(), config())
        run.rank = rank
        run.run(1)
        losses.append(run.losses)
    assert losses[0] != losses[1]


def test_a_trainer_rounds_its_lengths_up() -> None:
    run, lengths = DeviceTrainer(model(), examples(), config(), multiple=8), list[int]()
    for name in ("encoder", "decoder"):
        stack = run.model.get_submodule(name)
        stack.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    run.run(3)
    assert len(lengths) == 6 and not any(length % 8 for length in lengths)


def test_bfloat16_keeps_the_weights_in_float32_and_learns() -> None:
    run = ParallelTrainer(model(dropout=0.0), examples(8), config(steps=150, peak_rate=1e-2), bf16=True)
    run.run()
    assert {weight.dtype for weight in run.model.parameters()} == {torch.float32}
    states = [value for state in run.optimizer.state.values() for value in state.values()]
    assert {state.dtype for state in states} == {torch.float32}
    assert run.losses[-1] < 0.6 * run.losses[0]
    exact = ParallelTrainer(model(dropout=0.0), examples(8), config(steps=150, peak_rate=1e-2))
    exact.run(1)
    assert 0 < abs(run.losses[0] - exact.losses[0]) < 0.05  # it did compute in bfloat16


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "76")
    for name, named in (("cuda:77", "cuda:77"), ("cuda", "cuda:76"), ("abacus", "abacus")):
        with pytest.raises(ValueError, match=named):
            pick_device(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_learns_what_the_processor_learns() -> None:
    runs = [
        ParallelTrainer(model(dropout=0.0), examples(), config(), device=device, bf16=bf16)
        for device, bf16 in (("cpu", False), ("cuda", False), ("cuda", True))
    ]
    for run in runs:
        run.run()
    assert max(abs(a - b) for a, b in zip(runs[0].losses, runs[1].losses, strict=True)) < 1e-3
    assert max(abs(a - b) for a, b in zip(runs[0].losses, runs[2].losses, strict=True)) < 0.1


def test_the_benchmark_runs_at_toy_sizes(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    command = [sys.executable, str(script), "--smoke", "--steps", "1", "--out", str(tmp_path / "gpu.json")]
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=120, capture_output=True)
    record = json.loads((tmp_path / "gpu.json").read_text())
    rows = [row["name"] for row in record["rows"]]
    assert rows[0] == "float32" and len(rows) == 8 and record["provenance"]["torch"] == torch.__version__
