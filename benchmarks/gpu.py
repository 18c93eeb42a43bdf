"""Measure chapter 12 on a GPU, one change at a time, and write chapters/records/gpu.json.

    python benchmarks/gpu.py --price 2.5        on a machine with a GPU; about ten minutes
    python benchmarks/gpu.py --smoke            toy sizes on a processor, to see that it runs

The model is the paper's base, the batches hold up to 25,000 tokens a side, of which only the real ones
count. Each row keeps the changes of the rows above it. Only the last row is another model, the paper's big.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from record import RECORDS, provenance
from training import work_of

import transformer.multi_head
from transformer.attention import fused_attention, scaled_dot_product_attention
from transformer.config import TransformerConfig
from transformer.data import Example
from transformer.devices import pick_device
from transformer.files import write_whole
from transformer.learning import target_tokens
from transformer.model import Transformer
from transformer.parallel import ParallelTrainer
from transformer.training import TrainingConfig, batches_from

# the makers' figures for dense bfloat16 products, in operations a second: one yardstick for all rows
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12}
PEAKS |= {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H200 NVL": 835e12}
SEED = 0


def peak_of(device: torch.device) -> float | None:
    """What the maker of this GPU promises, if it is known here."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = [key for key in PEAKS if key in name]
    return PEAKS[max(known, key=len)] if known else None


def sentences(vocab_size: int, count: int) -> list[Example]:
    """Random tokens, as many as in real sentences, both sides alike: 25 on average, at most 120."""
    generator = random.Random(SEED)

    def side(length: float) -> list[int]:
        return [generator.randrange(3, vocab_size) for _ in range(min(120, max(2, round(length))))]

    lengths = [generator.lognormvariate(3.05, 0.6) for _ in range(count)]
    return [([*side(n * generator.lognormvariate(0, 0.1)), 2], [1, *side(n), 2]) for n in lengths]


@contextmanager
def readable_attention() -> Iterator[None]:
    """Let the model compute Equation 1 step by step, as chapter 3 writes it."""

    def plain(*args: Any, **kwargs: Any) -> torch.Tensor:
        return scaled_dot_product_attention(*args, **kwargs)[0]

    transformer.multi_head.fused_attention = plain
    try:
        yield
    finally:
        transformer.multi_head.fused_attention = fused_attention


def measure(
    sizes: TransformerConfig,
    options: dict[str, Any],
    *,
    device: torch.device,
    steps: int,
    max_tokens: int,
    peak: float | None,
) -> dict[str, float | None]:
    """Real target tokens a second, memory and MFU of a training; the first batches only warm up."""
    options = dict(options)
    precision = "high" if options.pop("tf32", False) else "highest"
    torch.set_float32_matmul_precision(precision)
    fused_adam, fused = options.pop("fused_adam", False), options.pop("fused_attention", False)
    torch.manual_seed(SEED)
    config = TrainingConfig(100_000, max_tokens=max_tokens, schedule="paper", warmup=4000)
    rows = sentences(sizes.vocab_size, steps * max_tokens // 15)
    trainer = ParallelTrainer(Transformer(sizes), rows, config, device=device, **options)
    if not fused_adam:
        weights = trainer.model.parameters()
        trainer.optimizer = torch.optim.Adam(weights, betas=config.betas, eps=config.eps, foreach=False)
    batches = list(islice(batches_from(rows, config), 2 * steps))
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with nullcontext() if fused else readable_attention():
        for batch in batches[:steps]:
            trainer.update(batch)
        wait()
        begin = time.perf_counter()
        for batch in batches[steps:]:
            trainer.update(batch)
        wait()
        seconds = time.perf_counter() - begin
    timed = batches[steps:]
    work = work_of(sizes, timed)  # on real tokens
    return {
        "tokens_per_second": round(sum(map(target_tokens, timed)) / seconds, 1),
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
        "mfu": work / seconds / peak if peak else None,
        "loss": trainer.losses[-1],
    }


def plan(
    base: TransformerConfig, big: TransformerConfig
) -> Iterator[tuple[str, TransformerConfig, dict[str, Any]]]:
    """The rows: what is new in each, the model and all options so far."""
    options: dict[str, Any] = {}
    yield "float32", base, options
    for name, change in (
        ("TF32", {"tf32": True}),
        ("bfloat16", {"bf16": True}),
        ("fused attention", {"fused_attention": True}),
        ("fused Adam", {"fused_adam": True}),
        ("rounded shapes", {"multiple": 8}),
        ("torch.compile", {"compile": True}),
    ):
        options = options | change
        yield name, base, options
    yield "big, all of these", big, options


def origin(device: torch.device, seconds: float) -> dict[str, Any]:
    """Where the numbers come from."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a processor"
    about = {"device": name, "dtype": "as the rows say; weights in float32", "cuda": torch.version.cuda}
    return provenance(SEED, seconds) | about


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="default: chapters/records/gpu.json")
    parser.add_argument("--price", type=float, default=2.5, help="dollars for an hour of this GPU")
    parser.add_argument("--peak", type=float, help="bfloat16 operations a second, for a GPU not known here")
    parser.add_argument("--steps", type=int, help="steps that are timed, after as many to warm up")
    parser.add_argument(
        "--smoke", action="store_true", help="toy sizes on the processor; writes a file only with --out"
    )
    given = parser.parse_args(arguments)
    device = pick_device("cpu" if given.smoke else "cuda")
    peak = given.peak or peak_of(device)
    if given.smoke:
        base = TransformerConfig.tiny(50, d_model=16, d_ff=32, num_layers=1)
        big, steps, max_tokens = TransformerConfig.tiny(50, num_layers=1), given.steps or 2, 300
    else:
        base, big = TransformerConfig.base(37_000), TransformerConfig.big(37_000)
        steps, max_tokens = given.steps or 20, 25_000
    begin, rows = time.time(), []
    for row, sizes, options in plan(base, big):
        if given.smoke:
            options = options | {"compile": False}  # it would take longer than all the rest
        try:
            result = measure(sizes, options, device=device, steps=steps, max_tokens=max_tokens, peak=peak)
        except torch.OutOfMemoryError as error:
            result = {"not_run": str(error).splitlines()[0]}  # type: ignore[dict-item]
        rows.append({"name": row, **result})
        print(json.dumps(rows[-1]), flush=True)
    price = {"price_per_hour": given.price}
    record = {"provenance": origin(device, time.time() - begin) | price, "rows": rows}
    if not given.smoke or given.out:
        path = given.out or RECORDS / "gpu.json"
        write_whole(path, lambda part: part.write_text(json.dumps(record, indent=2) + "\n"))


if __name__ == "__main__":
    main()
