"""Chapters as the tools see them: jupytext Markdown in, checked cells out."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jupytext
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]

# What every cell and every test runs under. It has to be in place before torch is imported.
ENVIRONMENT = {
    # Chapters run side by side, one on each core. A training step of chapter 11 takes 69 ms on one thread and
    # 46 ms on two, but more than 300 ms on two beside another process.
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",  # a set prints in the same order every time
    "TOKENIZERS_PARALLELISM": "false",  # or the library warns, in the output, whenever a process forks
    "TQDM_DISABLE": "1",  # a progress bar is never the same twice
    "TRANSFORMER_CHECK_SHAPES": "1",  # every annotated shape is checked at run time
}

FRONT_MATTER = {"jupytext", "kernelspec", "book"}
BOOK_KEYS = {"module"}
TAGS = {"export", "hide-cell", "hide-input", "hide-output", "nbval-ignore-output", "remove-cell"}
EXAMPLE = "https://github.com/you/your-book"
FORGES = {"bitbucket.org", "codeberg.org", "github.com", "gitlab.com"}


class BookError(Exception):
    """A mistake in the book's sources; the message names the file."""


@dataclass(frozen=True)
class Chapter:
    """One chapters/NN_name.md."""

    path: Path
    name: str  # relative to the book's root, with forward slashes: what messages and headers show
    title: str
    modules: tuple[str, ...]
    notebook: NotebookNode

    @property
    def code_cells(self) -> list[NotebookNode]:
        return [cell for cell in self.notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def read_chapter(path: Path, root: Path = ROOT) -> Chapter:
    """Read one chapter and check its front matter and tags."""
    name = path.relative_to(root).as_posix()
    if not re.match(r"\d\d_", path.name):
        raise BookError(f"{name}: a chapter's name begins with two digits and an underscore")
    try:
        notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="md:myst")
    except Exception as error:  # UnicodeDecodeError, and many kinds more; the author needs the file's name
        raise BookError(f"{name}: cannot be read as a MyST notebook: {error}") from error
    book = notebook.metadata.get("book", {})
    if not isinstance(book, dict):
        raise BookError(f"{name}: front matter `book` must hold keys such as `module`, not {book!r}")
    for key in [*(set(notebook.metadata) - FRONT_MATTER), *(f"book.{key}" for key in set(book) - BOOK_KEYS)]:
        raise BookError(f"{name}: unknown front-matter key `{key}`")
    module = book.get("module", [])
    modules = [module] if isinstance(module, str) else module
    if not isinstance(modules, list) or not all(isinstance(item, str) for item in modules):
        raise BookError(f"{name}: front matter `book.module` must be a name or a list, not {module!r}")
    number, known = 0, ", ".join(sorted(TAGS))
    for cell in notebook.cells:
        number += cell.cell_type == "code"
        for tag in tags(cell):
            if tag not in TAGS and not tag.startswith(("export:", "figure:")):
                raise BookError(f"{name}: code cell {number}: unknown tag `{tag}` (known: {known})")
    set_cell_ids(notebook.cells)
    heading = re.search(r"^# +(.+?) *$", notebook.cells[0].source if notebook.cells else "", re.MULTILINE)
    if not heading:
        raise BookError(f"{name}: no `# Title` before the first code cell")
    return Chapter(path, name, heading[1], tuple(modules), notebook)


def read_book(root: Path = ROOT) -> list[Chapter]:
    """Every chapter, in reading order."""
    return [read_chapter(path, root) for path in sorted((root / "chapters").glob("*.md"))]


def chapter_number(name: str) -> str:
    """The number that a chapter shows: that of its file, and A, B … for 90, 91 …"""
    number = int(Path(name).name[:2])
    return str(number) if number < 90 else chr(ord("A") + number - 90)


def update(path: Path, text: str) -> bool:
    """Write a file, whole or not at all, unless it already holds the text; return whether it had to be."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)
    return True


def set_cell_ids(cells: list[NotebookNode]) -> None:
    """Give each cell an id made from its content, so that regenerating a notebook changes nothing."""
    seen: Counter[str] = Counter()
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def repository(root: Path = ROOT) -> str | None:
    """The book's public address: BOOK_REPOSITORY, else git's `origin` where that is on a public forge."""
    given = os.environ.get("BOOK_REPOSITORY", "").strip()
    address = given or origin(root)
    # git@host:owner/name.git, ssh://git@host:22/owner/name and https://token@host/owner/name are one address
    form = (
        r"(?:(https?|ssh|git)://)?(?:[^@/]+@)?([\w-]+(?:\.[\w-]+)+)(?(1)(:\d+)?/|[:/])([^/].*?)(?:\.git)?/?"
    )
    match = re.fullmatch(form, address)
    if given and not match:
        raise BookError(f"BOOK_REPOSITORY is no address of a repository, such as {EXAMPLE}: {given}")
    if not match or not given and match[2] not in FORGES:
        return None
    port = match[3] or "" if match[1] in ("http", "https") else ""
    return f"https://{match[2]}{port}/{match[4]}"


def origin(root: Path) -> str:
    """What git calls `origin`; empty where there is none, or no git."""
    command = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""
