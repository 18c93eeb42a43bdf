"""How long the book takes: set up and built in a fresh clone, built again after a change, tested.

The clone is made from what is committed here, in a folder of its own, and is thrown away at the end. It takes
a quarter of an hour. Printed are JSON rows; --record also writes them into chapters/records/bench_book.json.

    python benchmarks/book.py [--record]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from record import ROOT, Run, provenance
from side_by_side import report

ABOUT = "How long the book takes: built in a fresh clone, built again after one chapter changed, tested."
CHANGED = "05_masks"


def change(clone: Path) -> None:
    """Add a cell to a chapter, as its author would."""
    path = clone / "chapters" / f"{CHANGED}.md"
    cell = "\n```{code-cell} ipython3\nassert 1 + 1 == 2\n```\n"
    path.write_text(path.read_text(encoding="utf-8") + cell, encoding="utf-8")


def wall_seconds(clone: Path, target: str) -> float:
    """How long `make` takes; what it says is shown if it fails."""
    begin = time.perf_counter()
    # nothing that this process was told about threads or checks is passed on
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "TRANSFORMER_"))}
    done = subprocess.run(["make", target], cwd=clone, env=kept, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"make {target} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - begin


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help="write into chapters/records")
    given = parser.parse_args(arguments)
    rows: list[Run] = []
    with TemporaryDirectory() as folder:
        clone = Path(folder) / "book"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        for step, target in (
            ("make book, in a fresh clone", "book"),
            ("make test", "test"),
            ("make book, one chapter changed", "book"),
        ):
            if "changed" in step:
                change(clone)
            rows.append({"step": step, "wall_seconds": round(wall_seconds(clone, target), 1)})
    origin = provenance(0, sum(row["wall_seconds"] for row in rows))
    del origin["threads"]  # of this process, which only waited; `make` uses all cores
    rows = [row | {"provenance": origin} for row in rows]
    report("book", ABOUT, {"changed": CHANGED}, {"cores": os.cpu_count()}, rows, record=given.record)


if __name__ == "__main__":
    main()
