"""On a GPU: training and decoding beside other implementations, and where the time of a step goes.

Training is the paper's base model on batches of 25,000 tokens a side: everybody's stacks and losses compiled,
autocast to bfloat16, lengths rounded to multiples of eight, Adam fused. Decoding is greedy and a beam of 4,
64 tokens each, in float32 with TF32; the weights are random and no sentence ends. All take each round one
after the other. Printed are JSON rows, which are also written into chapters/records/bench_gpu.json.

    python benchmarks/gpu_peers.py              on a machine with a GPU and `transformers`; about four minutes
    python benchmarks/gpu_peers.py --smoke      toy sizes on a processor, to see that it runs
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import islice
from statistics import median

import torch
from gpu import SEED, origin, peak_of, sentences
from peers import SIZES, Peer, about, build, compile_losses
from record import RECORDS, Run, save_runs
from side_by_side import interleaved, speeds
from torch.profiler import ProfilerActivity, profile
from training import work_of

from transformer.config import TransformerConfig
from transformer.data import Batch
from transformer.devices import pick_device, rounded
from transformer.learning import target_tokens
from transformer.training import TrainingConfig, batches_from

ABOUT = "On a GPU: training and decoding beside other implementations, and where the time of a step goes."
STACKS = {  # what is compiled
    "ours": ("encoder", "decoder"),
    "torch": ("stacks.encoder", "stacks.decoder"),
    "marian": ("model.encoder", "model.decoder"),
}
CASES = [(1, 1), (1, 256), (4, 1), (4, 64)]  # beam, sentences


def waiting(device: torch.device, run: Callable[[], object]) -> Callable[[], None]:
    """The same, until the device has finished."""

    def wait() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return wait


def learning(name: str, peer: Peer, batches: Sequence[Batch], device: torch.device) -> Callable[[], None]:
    """One step on each batch."""
    peer.model.to(device).train()
    adam = torch.optim.Adam(peer.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)
    if device.type == "cuda":
        for stack in STACKS[name]:
            peer.model.get_submodule(stack).compile(dynamic=True)

    def learn() -> None:
        for batch in batches:
            adam.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                loss = peer.loss(batch)
            loss.backward()
            adam.step()

    return learn


def training(
    sizes: TransformerConfig,
    max_tokens: int,
    steps: int,
    rounds: int,
    device: torch.device,
    peak: float | None,
) -> tuple[list[Run], Callable[[], None]]:
    """A row for each implementation, and ours once more, to be profiled."""
    rows = sentences(sizes.vocab_size, steps * max_tokens // 15)
    config = TrainingConfig(100_000, max_tokens=max_tokens, schedule="paper", warmup=4000)
    given = [rounded(batch, 8) for batch in islice(batches_from(rows, config), steps)]
    batches = [Batch(*(side.to(device) for side in batch)) for batch in given]
    work = work_of(sizes, given)  # on real tokens
    peers, found = build(list(STACKS), sizes, "loss")
    if device.type == "cuda":
        compile_losses()
    runs = {name: waiting(device, learning(name, peer, batches, device)) for name, peer in peers.items()}
    for name, run in list(runs.items()):
        try:
            run()  # what is compiled is compiled now
        except Exception as error:  # of somebody else's code: the others are measured all the same
            if name == "ours":
                raise
            found.append({"peer": name, "task": "training", "not_run": str(error).splitlines()[0]})
            del runs[name]
    seconds = interleaved(runs, rounds)
    for name, speed in speeds(seconds, sum(map(target_tokens, batches))).items():
        row = about(name, peers[name]) | {"task": "training"} | speed
        typical = median(speed["wall_seconds"])
        found.append(row | {"mfu": round(work / typical / peak, 3) if peak else None})
    return found, runs["ours"]


def decoding(sizes: TransformerConfig, tokens: int, rounds: int, device: torch.device) -> list[Run]:
    """A row for each implementation and case."""
    peers, found = build(["ours", "marian"], sizes, "greedy")
    for peer in peers.values():
        peer.model.to(device).eval()
    source = torch.randint(3, sizes.vocab_size, (max(s for _, s in CASES), 20), device=device)

    def run(peer: Peer, beam: int, sentences: int) -> object:
        some = source[:sentences]
        return peer.greedy(some, tokens) if beam == 1 else peer.beam(some, beam, tokens)

    for beam, count in CASES:
        runs = {
            name: waiting(device, lambda peer=peer, beam=beam, count=count: run(peer, beam, count))
            for name, peer in peers.items()
        }
        for name, speed in speeds(interleaved(runs, rounds), count * tokens).items():
            case = {"task": "decoding", "beam": beam, "sentences": count, "tokens": tokens}
            found.append(about(name, peers[name]) | case | speed)
    return found


def hottest(step: Callable[[], None], device: torch.device, count: int = 15) -> list[Run]:
    """The operations of a step that take the device longest, and their share of its time."""
    activities = [ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        step()
    side = "device" if device.type == "cuda" else "cpu"
    times = {event.key: getattr(event, f"self_{side}_time_total") for event in profiler.key_averages()}
    whole = sum(times.values())
    longest = sorted(times, key=lambda key: -times[key])[:count]
    return [{"task": "profile", "operation": key, "share": round(times[key] / whole, 4)} for key in longest]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="toy sizes on a processor; writes nothing")
    given = parser.parse_args(arguments)
    device = pick_device("cpu" if given.smoke else "cuda")
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(SEED)
    sizes, max_tokens, steps, tokens = TransformerConfig.base(37_000), 25_000, 8, 64
    if given.smoke:
        sizes, max_tokens, steps, tokens = SIZES["toy"], 300, 2, 3
    begin = time.time()
    rows, step = training(sizes, max_tokens, steps, given.rounds, device, peak_of(device))
    rows += hottest(step, device) + decoding(sizes, tokens, given.rounds, device)
    about_all = origin(device, time.time() - begin)
    rows = [row | {"provenance": about_all} for row in rows]
    for row in rows:
        print(json.dumps(row))
    if not given.smoke:
        settings = {"max_tokens": max_tokens, "steps": steps, "rounds": given.rounds}
        save_runs(RECORDS / "bench_gpu.json", ABOUT, settings, rows)


if __name__ == "__main__":
    main()
