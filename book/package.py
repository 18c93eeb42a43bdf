"""The page of the package: its modules from the lowest floor up, each with what its docstrings say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from tools.chapters import chapter_number
from tools.floors import MODULES

PAGE = "book/package"
ORIGIN = r"Exported from (chapters/\S+)\.md;"


def origins(root: Path) -> Iterator[tuple[str, str]]:
    """Each module and the chapter that it is exported from, from the lowest floor up."""
    for name in sorted(MODULES, key=lambda name: MODULES[name][0]):
        path = root.joinpath("transformer", *name.split(".")).with_suffix(".py")
        if path.exists():  # a fork may have left its chapter out
            yield name, re.findall(ORIGIN, path.read_text(encoding="utf-8"))[0]


def add_modules(app: Sphinx, docname: str, source: list[str]) -> None:
    """Write below the page's own text a table of the modules, then each of them."""
    if docname != PAGE:
        return
    table = [
        "```{table}",
        ":class: steady floors",
        "",
        "| Floor | Module | Holds | Chapter |",
        "|---|---|---|---|",
    ]
    sections = []
    for name, chapter in origins(Path(app.srcdir)):
        floor, holds = MODULES[name]
        link = f"{{doc}}`{chapter_number(chapter)} </{chapter}>`"
        module = f"{{py:mod}}`{name} <transformer.{name}>`"
        table.append(f"| {floor} | {module} | {holds.rstrip('.')} | {link} |")
        sections.append(f"## `{name}`\n\n```{{eval-rst}}\n.. automodule:: transformer.{name}\n```")
    source[0] = "\n\n".join([source[0], "\n".join([*table, "```"]), *sections]) + "\n"


def name_origin(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Let a module's docstring lead to its chapter rather than name the file."""
    if what == "module" and (found := re.search(ORIGIN, "\n".join(lines))):
        lines[2:] = [f"Built in :doc:`/{found[1]}`.", ""]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", add_modules)
    app.connect("autodoc-process-docstring", name_origin)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
