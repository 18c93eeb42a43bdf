"""What the comparisons share: texts, rounds in turn, ratios, memory, options, records."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from record import RECORDS, Run, load_runs, save_runs
from tqdm import tqdm

from transformer.corpora import fragment_corpus
from transformer.data import Pair
from transformer.downloads import multi30k


def captions(count: int) -> list[Pair]:
    """Pairs as long as Multi30k's, English and German.

    Multi30k itself if MULTI30K_DIR says where it is; else sentences of the fragment, two or three or four in
    a row until there are 8 to 22 words of German, over and over.
    """
    if os.environ.get("MULTI30K_DIR"):
        return multi30k().train[:count]
    generator, sentences = random.Random(0), itertools.cycle(fragment_corpus().train)
    pairs = []
    for _ in range(count):
        wanted = generator.randint(8, 22)
        joined = [next(sentences)]
        while sum(german.count(" ") + 1 for _, german in joined) < wanted:
            joined.append(next(sentences))
        pairs.append((" ".join(english for english, _ in joined), " ".join(german for _, german in joined)))
    return pairs


class Seconds(NamedTuple):
    """How long something took."""

    cpu: float  # of all threads together
    wall: float


Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


def interleaved(work: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, list[Seconds]]:
    """Do all work in turn, A B C A B C, and time it; a first round only warms up."""
    seconds: dict[Key, list[Seconds]] = {key: [] for key in work}
    with tqdm(total=(1 + rounds) * len(work), unit="run", disable=None) as bar:
        for _ in range(1 + rounds):
            for key, run in work.items():
                bar.set_postfix_str(str(key), refresh=True)
                cpu, wall = time.process_time(), time.perf_counter()
                run()
                seconds[key].append(Seconds(time.process_time() - cpu, time.perf_counter() - wall))
                bar.update()
    return {key: times[1:] for key, times in seconds.items()}


def medians(times: Sequence[Seconds]) -> Seconds:
    """The median of each kind of seconds."""
    return Seconds(*map(statistics.median, zip(*times, strict=True)))


def speeds(seconds: Mapping[str, Sequence[Seconds]], tokens: int) -> dict[str, Run]:
    """Tokens a second of each peer, and how that compares with the best of the others.

    The ratio is the median over the rounds of what the best other peer took and what this one took.
    """
    rows: dict[str, Run] = {name: {} for name in seconds}
    others = [name for name in seconds if name != "ours"] or ["ours"]
    for kind, unit in (("cpu", "cpu_second"), ("wall", "second")):
        times = {name: [getattr(each, kind) for each in seconds[name]] for name in seconds}
        best = min(others, key=lambda name: statistics.median(times[name]))
        for name, row in rows.items():
            pairs = zip(times[best], times[name], strict=True)
            row[f"tokens_per_{unit}"] = round(tokens / statistics.median(times[name]), 1)
            row[f"ratio_{kind}"] = round(statistics.median(theirs / mine for theirs, mine in pairs), 3)
            row[f"{kind}_seconds"] = [round(each, 4) for each in times[name]]
    return rows


def resident() -> float:
    """The most memory that this process has held so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would begin with the peak of the process that started this one
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of a Mac, in bytes


def in_new_process(measure: Callable[..., Result], *arguments: object) -> Result:
    """What `measure` returns in a process of its own, for the peak of a process never falls."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def options(doc: str, peers: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The options that the benchmarks share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if peers:
        parser.add_argument("--size", choices=["small", "base"], default="small")
        parser.add_argument("--peers", nargs="+", choices=peers, default=list(peers), metavar="PEER")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="toy sizes and two rounds, to see that it runs")
    parser.add_argument("--record", action="store_true", help="write into chapters/records")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options and set the number of threads."""
    given = parser.parse_args(arguments)
    if given.smoke:
        if given.record:
            parser.error("--smoke measures nothing that is worth a record")
        given.size, given.rounds = "toy", 2
        if "peers" in given:  # compiling would take longer than all the rest
            given.peers = [name for name in given.peers if name != "torch-compiled"]
    torch.set_num_threads(given.threads)
    return given


def report(
    name: str, text: str, settings: Run, same: Run, rows: list[Run], *, record: bool, folder: Path = RECORDS
) -> None:
    """Print the rows, and write them to a record beside those that are not the `same` in size and threads."""
    rows = [same | row for row in rows]
    for row in rows:
        print(json.dumps(row))
    if record:
        path = folder / f"bench_{name}.json"
        kept = [old for old in load_runs(path) if any(old[key] != value for key, value in same.items())]
        save_runs(path, text, settings, [*kept, *rows])
