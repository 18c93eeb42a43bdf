"""Execute the chapters that changed: `python tools/execute.py [03 …] [--force]`."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from nbformat.reader import NotJSONError

from chapters import (
    ENVIRONMENT,
    ROOT,
    BookError,
    Chapter,
    read_chapter,
    repository,
    set_cell_ids,
    tags,
    update,
)

IMPORT = re.compile(r"^[ \t]*(?:from|import)[ \t]+transformer(?:\.([\w.]+))?\b", re.MULTILINE)
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}  # exactly this, or jupytext rewrites every fence


def imported_modules(source: str, root: Path) -> set[Path]:
    """The package's modules that some code imports, directly or through one another."""
    package = root / "transformer"
    found: set[Path] = set()
    queue = [source]
    while queue:
        for name in IMPORT.findall(queue.pop()):
            # `from transformer import …` may mean any module of that folder, so it depends on all of them
            target = package.joinpath(*name.split("."))
            for path in target.rglob("*.py") if target.is_dir() else [target.with_suffix(".py")]:
                if path.exists() and path not in found:
                    found.add(path)
                    queue.append(path.read_text(encoding="utf-8"))
    return found


def named_files(source: str, root: Path) -> list[Path]:
    """The files that some code names by their path from the chapter, and those in folders that it names."""
    names = re.findall(r"""["']((?:\.\./)?[\w-]+/[\w./-]+)["']""", source)
    paths = {(root / "chapters" / name).resolve() for name in names}
    files = {file for path in paths for file in [path, *path.glob("*")] if file.is_file()}
    return sorted(file for file in files if root.resolve() in file.parents)


def code_of(path: Path) -> str:
    """A module without its docstring: that names the chapter's title, which is prose."""
    return path.read_text(encoding="utf-8").split('"""', 2)[-1]


def fingerprint(chapter: Chapter, root: Path = ROOT) -> str:
    """What a chapter's outputs depend on: its code and tags, the modules and files that it uses, torch."""
    code = [[cell.source, tags(cell)] for cell in chapter.code_cells]
    source = "\n".join(source for source, _ in code)
    paths = sorted(imported_modules(source, root))
    constraints = (root / "constraints.txt").read_text(encoding="utf-8")
    torch = re.findall(r"^torch==.*$", constraints, re.MULTILINE)
    parts = [code, [[path.name, code_of(path)] for path in paths], torch]
    for path in named_files(source, root):
        parts.append([path.name, hashlib.sha256(path.read_bytes()).hexdigest()])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def install_cell(root: Path) -> NotebookNode | None:
    """The cell that installs the package in Colab, or None while the book has no public address."""
    address = repository(root)
    if not address:
        return None
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]]
    source = f"""\
# In Colab, install the book's package beside the torch that is there already; elsewhere, do nothing.
import sys

if "google.colab" in sys.modules:
    %pip install --quiet {" ".join(name for name in names if name != "torch")}
    %pip install --quiet --no-deps git+{address}"""
    return nbformat.v4.new_code_cell(source, metadata={"tags": ["remove-cell", "colab"]})


def is_install_cell(cell: NotebookNode) -> bool:
    return "colab" in tags(cell)


def copy_outputs(new: NotebookNode, old: NotebookNode) -> bool:
    """Give `new` the outputs of `old`; False, and nothing done, if their code cells differ."""
    olds = [cell for cell in old.cells if cell.cell_type == "code" and not is_install_cell(cell)]
    news = [cell for cell in new.cells if cell.cell_type == "code"]
    if [cell.source for cell in olds] != [cell.source for cell in news]:
        return False
    for cell, source in zip(news, olds, strict=True):
        cell.outputs, cell.execution_count = source.outputs, source.execution_count
    return True


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream: where a kernel cuts its prints is chance."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


class Progress:
    """A line per finished chapter and, on a terminal, one that says where the running ones are."""

    running: ClassVar[dict[str, Progress]] = {}
    lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, chapter: Chapter) -> None:
        self.name, self.total = chapter.path.stem, len(chapter.code_cells)
        self.number, self.start = 0, time.perf_counter()

    def cell(self, cell: NotebookNode, cell_index: int) -> None:
        self.number += cell.cell_type == "code"
        with self.lock:
            self.running[self.name] = self
            if sys.stdout.isatty():
                now = [f"{run.name} {run.number}/{run.total}" for run in list(self.running.values())]
                print("\r\x1b[K" + "   ".join(now), end="", flush=True)

    def done(self) -> None:
        seconds = time.perf_counter() - self.start
        line = f"{self.name:<24} cell {self.number} of {self.total}  {seconds:6.1f} s"
        with self.lock:
            self.running.pop(self.name, None)
            print(f"\r\x1b[K{line}" if sys.stdout.isatty() else line, flush=True)


def run(chapter: Chapter, notebook: NotebookNode) -> None:
    """Execute a notebook in place. A failing cell raises BookError with all that is needed to mend it."""
    progress = Progress(chapter)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--IPKernelApp.log_level=40"],  # or ipykernel warns about its TCP port
        resources={"metadata": {"path": str(chapter.path.parent)}},
        on_cell_start=progress.cell,
    )
    try:
        client.execute(env=os.environ | ENVIRONMENT)
    except (CellExecutionError, DeadKernelError) as error:
        progress.done()
        text = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # it comes coloured, wherever it goes
        if isinstance(error, DeadKernelError):  # the other kind holds the cell's source and the traceback
            text = f"{chapter.code_cells[progress.number - 1].source}\n\n{text}"
        cell = f"code cell {progress.number} of {progress.total}"
        raise BookError(f"{chapter.name}: {cell} failed\n\n{text}") from error
    progress.done()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)


def read_notebook(path: Path) -> NotebookNode:
    """The notebook as it is; an empty one if there is none that can be read, as after a git conflict."""
    try:
        return nbformat.read(path, as_version=4)
    except (FileNotFoundError, NotJSONError):
        return nbformat.v4.new_notebook()


def execute(chapter: Chapter, root: Path = ROOT, force: bool = False) -> bool:
    """Bring one chapter's notebook up to date; return whether its code had to run."""
    path, mark = chapter.path.with_suffix(".ipynb"), fingerprint(chapter, root)
    old = read_notebook(path)
    new = nbformat.from_dict(chapter.notebook)
    stale = force or old.metadata.get("fingerprint") != mark or not copy_outputs(new, old)
    if stale:
        run(chapter, new)
    # A notebook that is otherwise up to date gets no install cell, so that building a clone leaves no
    # difference for git to show; naming the address on purpose writes it everywhere. One that has it keeps it
    # where there is no address, and in a fork gets the fork's.
    kept = next((cell for cell in old.cells if is_install_cell(cell)), None)
    install = install_cell(root) if stale or kept or "BOOK_REPOSITORY" in os.environ else None
    new.cells = [cell for cell in [install or kept] if cell] + new.cells
    set_cell_ids(new.cells)
    # `fingerprint` stands outside `book`, or jupytext would carry it into the chapter's front matter
    new.metadata.update(language_info=LANGUAGE, fingerprint=mark)
    new.nbformat, new.nbformat_minor = 4, 5
    update(path, nbformat.writes(new) + "\n")
    return stale


def main(arguments: list[str] | None = None, root: Path = ROOT) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chapters", nargs="*", help="as in 03 or 03_attention; all if left out")
    parser.add_argument("--force", action="store_true", help="execute even what is up to date")
    options = parser.parse_args(arguments)
    wanted = {Path(name).stem.zfill(2) for name in options.chapters}  # 3 is 03
    paths = sorted((root / "chapters").glob("*.md"))
    names = {path: {path.stem, path.stem[:2]} for path in paths}
    if missing := sorted(wanted.difference(*names.values())):
        raise BookError(f"no chapter {', '.join(missing)} in chapters/")
    chosen = [path for path in paths if not wanted or wanted & names[path]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each has a kernel of its own
        runs = [pool.submit(execute, read_chapter(path, root), root, options.force) for path in chosen]
        try:
            ran = [run.result() for run in runs]
        except KeyboardInterrupt:
            os._exit(130)  # waits for nothing; a kernel ends when it has lost its parent
        except BookError:
            pool.shutdown(cancel_futures=True)  # let those that run come to their end, and start no more
            errors = [run.exception() for run in runs if not run.cancelled()]
            raise BookError("\n\n".join(str(error) for error in errors if error)) from None
    print(f"{sum(ran)} executed, {len(ran) - sum(ran)} up to date")


if __name__ == "__main__":
    try:
        main()
    except BookError as error:
        sys.exit(f"error: {error}")
