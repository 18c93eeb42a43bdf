"""What is committed belongs together: chapters, notebooks, the exported package, the table of contents."""

from pathlib import Path

import nbformat
import pytest
import yaml

import execute
from chapters import ROOT, read_chapter, set_cell_ids, tags
from export import package

SOURCES = sorted((ROOT / "chapters").glob("*.md"))
each_chapter = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


def read(path: Path) -> tuple[nbformat.NotebookNode, list[nbformat.NotebookNode]]:
    """A chapter's notebook, and its cells without the one that installs the package in Colab."""
    assert path.with_suffix(".ipynb").exists(), "make book executes it"
    notebook = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    return notebook, [cell for cell in notebook.cells if not execute.is_install_cell(cell)]


@each_chapter
def test_the_notebook_holds_its_chapters_cells(path: Path) -> None:
    notebook, cells = read(path)
    nbformat.validate(notebook)
    wanted = read_chapter(path).notebook.cells
    assert [(cell.cell_type, cell.source, tags(cell)) for cell in cells] == [
        (cell.cell_type, cell.source, tags(cell)) for cell in wanted
    ], "make book brings it up to date"
    ids = [cell.id for cell in notebook.cells]
    set_cell_ids(notebook.cells)
    assert [cell.id for cell in notebook.cells] == ids


@each_chapter
def test_the_notebook_was_executed_top_to_bottom(path: Path) -> None:
    notebook = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    cells = [
        cell for cell in notebook.cells if cell.cell_type == "code" and not execute.is_install_cell(cell)
    ]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    # a warning on the page is noise to its reader, and often another one on another machine
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


@each_chapter
def test_the_outputs_are_those_of_the_code(path: Path) -> None:
    notebook = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    assert notebook.metadata["fingerprint"] == execute.fingerprint(read_chapter(path)), (
        "make book executes it again"
    )


def test_each_notebook_has_a_source() -> None:
    assert {path.stem for path in (ROOT / "chapters").glob("*.ipynb")} <= {path.stem for path in SOURCES}


def test_each_chapter_is_in_the_table_of_contents() -> None:
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [entry["file"] for part in contents["parts"] for entry in part["chapters"]]
    chapters = [file for file in listed if file.startswith("chapters/")]
    assert chapters == [f"chapters/{path.stem}" for path in SOURCES]


def test_the_package_is_what_the_chapters_export() -> None:
    paths = [path for path in (ROOT / "transformer").rglob("*.*") if "__pycache__" not in path.parts]
    found = {path: path.read_text(encoding="utf-8") for path in paths if path.is_file()}
    assert found == package(), "make book exports it again"
