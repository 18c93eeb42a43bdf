"""What the recording scripts share: where a number comes from, and files that survive a stop."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from transformer.files import write_whole
from transformer.products import _family_by_amd

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "chapters" / "records"

Run = dict[str, Any]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def processor() -> str:
    """What the processor calls itself. AMD calls several generations the same: theirs is added."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        called = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        called = platform.processor() or platform.machine()
    family = _family_by_amd()
    if not family:
        return called
    zen_3_or_4 = "Zen 4" if torch.backends.cpu.get_cpu_capability() == "AVX512" else "Zen 3"
    return f"{called}, " + {25: zen_3_or_4, 26: "Zen 5"}.get(family, f"family {family}")


def _without_folder(argument: str) -> str:
    """Where data lie on the machine is nobody's business."""
    return os.path.basename(argument) if os.path.isabs(argument) else argument


def provenance(seed: int, seconds: float) -> Run:
    """Where the numbers of one run come from; a commit with + had changes on top of it."""
    changed = "+" if _git("status", "--porcelain", "--", "transformer", "benchmarks") else ""
    return {
        "commit": os.environ.get("BENCHMARK_COMMIT") or _git("rev-parse", "--short", "HEAD") + changed,
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"cpu ({processor()})",
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "seed": seed,
        "torch": torch.__version__,
        "command": shlex.join(
            ["python", os.path.relpath(sys.argv[0], ROOT), *map(_without_folder, sys.argv[1:])]
        ),
        "seconds": round(seconds, 1),
    }


def load_runs(path: Path, settings: Run | None = None) -> list[Run]:
    """The runs recorded so far; SystemExit if there are some with other settings than those given."""
    if not path.exists():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    if settings is not None and record["settings"] != settings:
        raise SystemExit(f"{path}: recorded with other settings; remove it to begin anew")
    return record["runs"]


def save_runs(path: Path, about: str, settings: Run, runs: list[Run]) -> None:
    """Write the record, one run a line, whole or not at all."""
    lines = ",\n  ".join(json.dumps(run, ensure_ascii=False) for run in runs)
    head = f'"about": {json.dumps(about)},\n "settings": {json.dumps(settings)}'
    text = f'{{{head},\n "runs": [\n  {lines}\n ]}}\n'
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))
