"""The exporter and the executor, tried on a toy book of four chapters."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

import execute
from chapters import ENVIRONMENT, ROOT, BookError, chapter_number, read_book, repository
from export import export
from floors import MODULES

FRONT = """\
---
jupytext:
  formats: ipynb,md:myst
  text_representation: {{extension: .md, format_name: myst}}
  notebook_metadata_filter: jupytext,kernelspec,book,-jupytext.text_representation.jupytext_version
  cell_metadata_filter: tags,-all
kernelspec: {{name: python3, display_name: Python 3, language: python}}
book:
  module: {module}
---
(ch-{module})=
# About {module}
"""

LOOKUP = (
    FRONT.format(module="lookup")
    + """
Half of a number.

```{code-cell} python3
:tags: [export]
import sys
from collections import OrderedDict, Counter
```

```{code-cell} python3
:tags: [export]
_TWO = 2
LIMIT: int = max(x for x in (7, 8))
LIMIT += 0

# the comment stays
def half(x: float, counter: Counter | None = None) -> float:
    '''Half of a number.'''
    return x / _TWO
```

```{code-cell} python3
print("one"); sys.stdout.flush(); print("two")
half(1)
```
"""
)
HEADS = (
    FRONT.format(module="multi_head")
    + """
```{code-cell} python3
:tags: [export]
from transformer.lookup import half

def quarter(x: float) -> float:
    return half(half(x))
```

```{code-cell} python3
quarter(1)
```
"""
)
# this one imports `lookup` only through `multi_head`
LAYERS = (
    FRONT.format(module="layers")
    + """
```{code-cell} python3
:tags: [export]
from transformer.multi_head import quarter

class Eighth:
    value = quarter(0.5)
```

```{code-cell} python3
Eighth.value
```
"""
)
MASKS = (
    FRONT.format(module="masking")
    + """
```{code-cell} python3
:tags: [export]
def mask() -> bool:
    return True
```
"""
)
TOY = {"01_lookup": LOOKUP, "04_heads": HEADS, "05_masks": MASKS, "07_layer": LAYERS}


def write(root: Path, **chapters: str) -> None:
    for name, text in chapters.items():
        (root / "chapters" / f"{name}.md").write_text(text, encoding="utf-8")


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / "chapters" / f"{name}.md").read_text(encoding="utf-8")
    assert text.count(old) == 1
    write(root, **{name: text.replace(old, new)})


def build(root: Path) -> list[str]:
    """Export and execute; return the chapters whose code ran."""
    export(root)
    return [chapter.path.stem for chapter in read_book(root) if execute.execute(chapter, root)]


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in ("chapters", "transformer")
        for path in sorted((root / folder).glob("*.*"))
    }


def notebook(root: Path, name: str) -> nbformat.NotebookNode:
    return nbformat.read(root / "chapters" / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy book, built once."""
    root = tmp_path_factory.mktemp("built")
    (root / "chapters").mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    write(root, **TOY)
    with pytest.MonkeyPatch.context() as patch:
        environment(patch, root)
        assert build(root) == list(TOY)
    return root


@pytest.fixture
def book(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the built toy book."""
    environment(monkeypatch, tmp_path)
    return shutil.copytree(built, tmp_path, dirs_exist_ok=True)


def environment(patch: pytest.MonkeyPatch, root: Path) -> None:
    patch.setenv("PYTHONPATH", str(root))  # the toy's package comes before the installed one
    patch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # two edits within a second would share one .pyc
    patch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    patch.delenv("BOOK_REPOSITORY", raising=False)


# ---- the exporter


def test_an_exported_module_reads_as_written_by_hand(book: Path) -> None:
    assert (
        (book / "transformer" / "lookup.py").read_text(encoding="utf-8")
        == '''\
"""Exact and soft dictionary look-up.

Chapter: About lookup
Exported from chapters/01_lookup.md; edit it there, not here.
"""

from collections import Counter

__all__ = ["LIMIT", "half"]

_TWO = 2
LIMIT: int = max(x for x in (7, 8))
LIMIT += 0


# the comment stays
def half(x: float, counter: Counter | None = None) -> float:
    """Half of a number."""
    return x / _TWO
'''
    )
    init = (book / "transformer" / "__init__.py").read_text(encoding="utf-8")
    assert "from transformer.lookup import LIMIT, half\n" in init
    assert '__all__ = ["Eighth", "LIMIT", "half", "mask", "quarter"]\n' in init


def test_export_writes_only_what_changed(book: Path) -> None:
    assert export(book) == []
    edit(book, "05_masks", "return True", "return not False")
    assert [path.name for path in export(book)] == ["masking.py"]
    (book / "chapters" / "05_masks.md").unlink()
    assert {path.name for path in export(book)} == {"masking.py", "__init__.py"}
    assert not (book / "transformer" / "masking.py").exists()


def test_one_chapter_may_export_two_modules(book: Path) -> None:
    edit(book, "05_masks", "module: masking", "module: [masking, position]")
    text = (book / "chapters" / "05_masks.md").read_text(encoding="utf-8")
    write(
        book, **{"05_masks": text + "\n```{code-cell} python3\n:tags: [export:position]\nORIGIN = 0\n```\n"}
    )
    export(book)
    assert "ORIGIN = 0" in (book / "transformer" / "position.py").read_text(encoding="utf-8")
    assert "ORIGIN" not in (book / "transformer" / "masking.py").read_text(encoding="utf-8")


FRAGMENT = (
    FRONT.format(module="[fragment.nouns, fragment.phrases]").replace(
        "(ch-[fragment.nouns, fragment.phrases])=", ""
    )
    + """
```{code-cell} python3
:tags: [export, 'export:fragment.phrases']
import math
import sys
```

```{code-cell} python3
:tags: [export]
def noun() -> str:
    return sys.platform and "cow"
```

```{code-cell} python3
:tags: ['export:fragment.phrases']
def phrase() -> str:
    return "the " * math.floor(1) + noun()
```
"""
)


def test_modules_of_one_chapter_in_a_folder(book: Path) -> None:
    """An import cell serves both modules; what one defines and the other uses is imported by itself."""
    layers = LAYERS.replace("Eighth.value", "from transformer.fragment.phrases import phrase\nphrase()")
    write(book, **{"91_fragment": FRAGMENT, "07_layer": layers})
    assert build(book) == ["07_layer", "91_fragment"]
    folder = book / "transformer" / "fragment"
    nouns, phrases = ((folder / f"{name}.py").read_text(encoding="utf-8") for name in ("nouns", "phrases"))
    assert "import sys" in nouns and "import math" not in nouns
    assert "import math\n\nfrom transformer.fragment.nouns import noun\n" in phrases
    assert (folder / "__init__.py").exists() and "noun" not in (book / "transformer/__init__.py").read_text()
    assert notebook(book, "07_layer").cells[-1].outputs[0].data["text/plain"] == "'the cow'"
    edit(book, "91_fragment", '"cow"', '"dog"')
    assert build(book) == ["07_layer", "91_fragment"]
    (book / "chapters" / "91_fragment.md").unlink()
    export(book)
    assert not list(folder.glob("*.py"))


def test_a_lower_module_of_a_chapter_uses_nothing_of_a_higher_one(book: Path) -> None:
    write(book, **{"91_fragment": FRAGMENT.replace('sys.platform and "cow"', "phrase()")})
    with pytest.raises(BookError, match=r"91_fragment\.md: `phrase`: `fragment\.nouns` \(floor 1\) imports"):
        export(book)


Edit = Callable[[Path], None]


def change(name: str, old: str, new: str) -> Edit:
    return lambda root: edit(root, name, old, new)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            change("05_masks", "module: masking", "module: masking\n  colour: red"),
            "chapters/05_masks.md: unknown front-matter key `book.colour`",
        ),
        (
            change("05_masks", "book:\n", "author: me\nbook:\n"),
            "chapters/05_masks.md: unknown front-matter key `author`",
        ),
        (
            change("05_masks", "module: masking", "module: 3"),
            "chapters/05_masks.md: front matter `book.module` must be a name or a list, not 3",
        ),
        (
            change("05_masks", "book:\n  module: masking", "book: masking"),
            "chapters/05_masks.md: front matter `book` must hold keys",
        ),
        (
            change("05_masks", "kernelspec: {", "kernelspec: {{"),
            "chapters/05_masks.md: cannot be read as a MyST notebook",
        ),
        (
            change("05_masks", "# About", "About"),
            "chapters/05_masks.md: no `# Title` before the first code cell",
        ),
        (
            change("05_masks", "tags: [export]", "tags: [exprot]"),
            "chapters/05_masks.md: code cell 1: unknown tag `exprot`",
        ),
        (
            change("05_masks", "book:\n  module: masking\n", ""),
            "chapters/05_masks.md: code cell 1: tag `export`, but no such `book.module`",
        ),
        (
            change("05_masks", "[export]", "[export:data]"),
            "chapters/05_masks.md: code cell 1: tag `export:data`, but no such `book.module`",
        ),
        (
            change("05_masks", "module: masking", "module: secrets"),
            "chapters/05_masks.md: module `secrets` has no floor in tools/floors.py",
        ),
        (
            change("05_masks", "module: masking", "module: lookup"),
            "chapters/05_masks.md: module `lookup` is already exported by chapters/01_lookup.md",
        ),
        (
            change("05_masks", "def mask", "def half"),
            "chapters/05_masks.md: code cell 1: `half` is already exported by chapters/01_lookup.md: code",
        ),
        (
            change("05_masks", "def mask", "def mask(): ...\ndef mask"),
            "chapters/05_masks.md: code cell 1: `mask` is already exported by chapters/05_masks.md: code",
        ),
        (
            change("01_lookup", "import sys", "import sys\nfrom transformer.masking import mask"),
            "chapters/01_lookup.md: code cell 1: `lookup` (floor 1) imports from `transformer.masking`",
        ),
        (
            change("01_lookup", "return x / _TWO", "from transformer.model import Encoder"),
            "chapters/01_lookup.md: code cell 2: `lookup` (floor 1) imports from `transformer.model`",
        ),
        (
            change("01_lookup", "import sys", "import sys\nimport transformer.masking"),
            "chapters/01_lookup.md: code cell 1: `lookup` (floor 1) imports from `transformer.masking`",
        ),
        (
            change("01_lookup", "import sys", "import sys\nfrom .layers import Eighth"),
            "chapters/01_lookup.md: code cell 1: `lookup` (floor 1) imports from `transformer.layers`",
        ),
        (
            change("04_heads", "from transformer.lookup import", "from transformer import"),
            "chapters/04_heads.md: code cell 1: `multi_head` (floor 2) imports from `transformer`",
        ),
        (
            change("01_lookup", "def half(", "def a_half("),
            "chapters/04_heads.md: code cell 1: no chapter exports `half` to `transformer.lookup`",
        ),
        (
            change("05_masks", "return True", "return True)"),
            "chapters/05_masks.md: code cell 1: line 2: unmatched ')'",
        ),
        (
            change("05_masks", "    return True", "    return True\n\nprint(mask())"),
            "chapters/05_masks.md: code cell 1: only imports, constants, functions and classes can be "
            "exported, not `print(mask())`",
        ),
        (
            change("01_lookup", "_TWO = 2", "import math; _TWO = 2"),
            "chapters/01_lookup.md: code cell 2: line 1: two statements in one line",
        ),
        (
            change("04_heads", "from transformer.lookup", "from transformer.lokup"),
            "chapters/04_heads.md: code cell 1: there is no module `transformer.lokup`",
        ),
        (
            lambda root: (root / "chapters" / "05_masks.md").write_bytes(MASKS.encode("utf-16")),
            "chapters/05_masks.md: cannot be read as a MyST notebook",
        ),
        (
            lambda root: write(root, masks=MASKS),
            "chapters/masks.md: a chapter's name begins with two digits",
        ),
    ],
)
def test_a_mistake_is_named_with_its_file(book: Path, mistake: Edit, message: str) -> None:
    before = files(book)["transformer/__init__.py"]
    mistake(book)
    with pytest.raises(BookError, match=re.escape(message)):
        export(book)
    assert files(book)["transformer/__init__.py"] == before


def test_a_new_folder_has_to_be_known(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "games.chess", (1, "Chess."))
    edit(book, "05_masks", "module: masking", "module: games.chess")
    with pytest.raises(BookError, match=r"05_masks\.md: module `games\.chess`: folder `games`"):
        export(book)


def test_what_ruff_says_is_passed_on(book: Path) -> None:
    path = book / "pyproject.toml"
    path.write_text(path.read_text().replace("[tool.ruff]\n", "[tool.ruff]\ncolour = 'red'\n"))
    with pytest.raises(BookError, match=r"(?s)transformer/\w+\.py: .*colour"):
        export(book)


# ---- the executor


def test_a_second_run_executes_nothing_and_a_forced_one_gives_the_same_bytes(book: Path) -> None:
    before = files(book)
    assert build(book) == []
    execute.main(["--force", "01", "04_heads"], book)
    assert files(book) == before


def test_outputs_counts_and_metadata(book: Path) -> None:
    result = notebook(book, "01_lookup")
    nbformat.validate(result)
    cells = [cell for cell in result.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [1, 2, 3]
    stream, value = cells[2].outputs
    assert stream.text == "one\ntwo\n" and value.data["text/plain"] == "0.5"
    assert set(result.metadata) == {"book", "fingerprint", "jupytext", "kernelspec", "language_info"}
    assert result.metadata.language_info == {"name": "python", "pygments_lexer": "ipython3"}


def test_one_character_of_code_executes_its_chapter_and_those_that_import_it(book: Path) -> None:
    edit(book, "01_lookup", "_TWO = 2", "_TWO = 4")
    assert build(book) == ["01_lookup", "04_heads", "07_layer"]
    assert notebook(book, "07_layer").cells[-1].outputs[0].data["text/plain"] == "0.03125"
    edit(book, "04_heads", "quarter(1)", "quarter(2)")  # not exported, so nobody else's concern
    assert build(book) == ["04_heads"]
    edit(book, "05_masks", "tags: [export]", "tags: [export, hide-input]")
    assert build(book) == ["05_masks"]


def test_prose_executes_nothing_and_keeps_the_outputs(book: Path) -> None:
    before = notebook(book, "01_lookup")
    edit(book, "01_lookup", "Half of a number.\n\n", "One half of any number.\n\n")
    edit(book, "01_lookup", "# About lookup", "# About looking up")
    assert build(book) == []
    after = notebook(book, "01_lookup")
    assert "One half of any number." in after.cells[0].source
    assert [cell for cell in after.cells if cell.cell_type == "code"] == [
        cell for cell in before.cells if cell.cell_type == "code"
    ]
    assert "looking up" in (book / "transformer" / "lookup.py").read_text(encoding="utf-8")


def test_a_new_torch_executes_everything(book: Path) -> None:
    constraints = (book / "constraints.txt").read_text(encoding="utf-8")
    assert "\ntorch==" in constraints
    (book / "constraints.txt").write_text(re.sub(r"\ntorch==", "\ntorch==9", constraints), encoding="utf-8")
    marks = [notebook(book, chapter.path.stem).metadata.fingerprint for chapter in read_book(book)]
    assert all(
        execute.fingerprint(chapter, book) != mark
        for chapter, mark in zip(read_book(book), marks, strict=True)
    )


def test_a_new_record_executes_the_chapter_that_reads_it(book: Path) -> None:
    edit(book, "04_heads", "quarter(1)", "'records/gpu.json'; quarter(1)")
    assert build(book) == ["04_heads"]
    records = book / "chapters" / "records"
    records.mkdir()
    (records / "other.json").write_text("{}")
    assert build(book) == []
    for content in ("{}", "[]"):
        (records / "gpu.json").write_text(content)
        assert build(book) == ["04_heads"]
    assert build(book) == []


def test_a_new_file_executes_the_chapter_that_names_it_or_its_folder(book: Path) -> None:
    script, weights = book / "tools" / "toy.js", book / "chapters" / "models" / "toy" / "weights"
    for file in (script, weights):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1")
    edit(book, "04_heads", "quarter(1)", "'../tools/toy.js', 'models/toy', 'no/such'; quarter(1)")
    assert build(book) == ["04_heads"]
    for file in (script, weights):
        file.write_text("2")
        assert build(book) == ["04_heads"]
    assert build(book) == []


def test_a_tampered_notebook_is_executed_again(book: Path) -> None:
    path = book / "chapters" / "05_masks.ipynb"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"return True", b"return None"))
    assert build(book) == ["05_masks"]
    assert path.read_bytes() == before


def test_a_notebook_that_cannot_be_read_is_made_anew(book: Path) -> None:
    path = book / "chapters" / "05_masks.ipynb"
    before = path.read_bytes()
    path.write_bytes(b"<<<<<<< HEAD\n" + before)
    assert build(book) == ["05_masks"]
    assert path.read_bytes() == before


INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
import execute

execute.execute = lambda *_: time.sleep(60)
threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
execute.main([], Path(sys.argv[1]))
"""


def test_ctrl_c_waits_for_no_chapter(book: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(book)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT / "tools")}, timeout=30)
    assert done.returncode == 130


def test_a_failing_cell_is_reported_and_nothing_is_overwritten(book: Path) -> None:
    before = files(book)["chapters/04_heads.ipynb"]
    edit(book, "04_heads", "quarter(1)", "assert quarter(1) == 3, 'a quarter is not three'")
    with pytest.raises(BookError) as error:
        build(book)
    for part in (
        "chapters/04_heads.md: code cell 2 of 2 failed",
        "assert quarter(1) == 3, 'a quarter is not three'",
        "AssertionError",
        "a quarter is not three",
        "Traceback",
    ):
        assert part in str(error.value)
    assert "\x1b" not in str(error.value)  # no colours
    assert files(book)["chapters/04_heads.ipynb"] == before


def test_an_unknown_chapter_is_an_error(book: Path) -> None:
    for name in ("99", "0", "05_mask"):
        with pytest.raises(BookError, match=f"no chapter {name.zfill(2)}"):
            execute.main([name], book)


def test_progress_is_one_line_per_chapter(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    execute.main(["5", "--force"], book)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and re.fullmatch(r"05_masks +cell 1 of 1 +\d+\.\d s", lines[0])
    assert lines[1] == "1 executed, 0 up to date"


def test_chapters_run_side_by_side_and_one_failure_ends_it(
    book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(book)
    execute.main(["--force"], book)
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[:-1]} == set(TOY) and lines[-1] == "4 executed, 0 up to date"
    assert files(book) == before
    edit(book, "04_heads", "quarter(1)", "1 / 0")
    with pytest.raises(BookError, match=r"04_heads\.md: code cell 2 of 2 failed"):
        execute.main([], book)
    edit(book, "01_lookup", 'print("one")', "1 / 0")
    with pytest.raises(BookError) as error:  # both ran, so both are named
        execute.main(["01", "04"], book)
    assert "04_heads.md: code cell 2 of 2 failed" in str(error.value)
    assert "01_lookup.md: code cell 3 of 3 failed" in str(error.value)


def test_two_chapters_run_at_the_same_time(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for the other."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    meet = """import pathlib, time; pathlib.Path("{}").touch(); end = time.time() + 60
while not pathlib.Path("{}").exists():
    assert time.time() < end, "alone"
    time.sleep(0.01)"""
    edit(book, "01_lookup", "half(1)", meet.format("one", "two"))
    edit(book, "04_heads", "quarter(1)", meet.format("two", "one"))
    execute.main(["01", "04"], book)


def test_after_a_failure_no_chapter_is_begun(
    book: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    edit(book, "01_lookup", 'print("one")', "1 / 0")
    with pytest.raises(BookError, match=r"01_lookup\.md: code cell 3 of 3 failed"):
        execute.main(["--force"], book)
    assert "07_layer" not in capsys.readouterr().out  # one may have been begun in the meantime


def test_a_cell_that_ends_its_process_is_named(book: Path) -> None:
    edit(book, "04_heads", "quarter(1)", "import os; os._exit(1)")
    with pytest.raises(BookError, match=r"04_heads\.md: code cell 2 of 2 failed\n\nimport os; os\._exit"):
        build(book)


def test_cells_run_in_their_folder_and_in_the_books_environment(
    book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ENVIRONMENT:
        monkeypatch.setenv(key, "7")
    asking = f"import os; os.path.basename(os.getcwd()), [os.environ[key] for key in {list(ENVIRONMENT)}]"
    edit(book, "04_heads", "quarter(1)", asking)
    assert build(book) == ["04_heads"]
    found = notebook(book, "04_heads").cells[-1].outputs[0].data["text/plain"]
    assert ast.literal_eval(found) == ("chapters", list(ENVIRONMENT.values()))


# ---- the chapters' numbers, the address and Colab's install cell


def test_appendices_have_letters() -> None:
    names = ("chapters/01_lookup", "chapters/17_try", "chapters/90_figures", "98_break")
    assert [chapter_number(name) for name in names] == ["1", "17", "A", "I"]


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("git@github.com:ann/book.git", "https://github.com/ann/book"),
        ("https://github.com/ann/book", "https://github.com/ann/book"),
        ("https://ann:secret@github.com/ann/book.git", "https://github.com/ann/book"),
        ("ssh://git@gitlab.com/group/sub/book.git/", "https://gitlab.com/group/sub/book"),
        ("/home/ann/book", None),
        ("/home/ann/github.com/book", None),
        ("git@example.org:ann/book.git", None),
        ("git@github.com-work:ann/book.git", None),
        ("../github.com/ann/book", None),
        ("file:///home/github.com/ann/book", None),
    ],
)
def test_the_address_comes_from_origin(book: Path, origin: str, address: str | None) -> None:
    assert repository(book) is None
    assert os.system(f"cd '{book}' && git init -q . && git remote add origin '{origin}'") == 0
    assert repository(book) == address


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("ssh://git@github.com:22/ann/book.git", "https://github.com/ann/book"),
        ("https://git.example.org:8443/ann/book/", "https://git.example.org:8443/ann/book"),
        ("git@git.example.org:ann/book.git", "https://git.example.org/ann/book"),
    ],
)
def test_an_address_that_is_given_may_be_anywhere(
    monkeypatch: pytest.MonkeyPatch, given: str, address: str
) -> None:
    monkeypatch.setenv("BOOK_REPOSITORY", given)
    assert repository() == address
    monkeypatch.setenv("BOOK_REPOSITORY", "ann/book")
    with pytest.raises(BookError, match="BOOK_REPOSITORY.*ann/book"):
        repository()


def test_without_git_there_is_no_address(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(book))
    assert repository(book) is None


def test_the_install_cell_follows_the_address(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all("colab" not in cell.source for cell in notebook(book, "05_masks").cells)
    before = files(book)
    monkeypatch.setenv("BOOK_REPOSITORY", "git@github.com:ann/book.git")
    assert build(book) == []  # it is no part of the fingerprint
    result = notebook(book, "01_lookup")
    cell = result.cells[0]
    assert cell.metadata.tags == ["remove-cell", "colab"]
    assert 'if "google.colab" in sys.modules:\n' in cell.source
    assert cell.source.endswith("%pip install --quiet --no-deps git+https://github.com/ann/book")
    packages = re.findall(r"%pip install --quiet (\w.*)\n", cell.source)[0].split()
    assert "torch" not in packages and "safetensors" in packages
    assert [cell.execution_count for cell in result.cells if cell.cell_type == "code"] == [None, 1, 2, 3]
    # a clone without an address keeps the cell, or building it would change what git tracks
    named = files(book)
    monkeypatch.delenv("BOOK_REPOSITORY")
    assert build(book) == [] and files(book) == named != before
    execute.main(["--force", "01"], book)
    assert files(book) == named
    # a fork, which has another address, gets its own
    os.system(f"cd '{book}' && git init -q . && git remote add origin https://github.com/bob/fork")
    assert build(book) == [] and "github.com/bob/fork" in notebook(book, "05_masks").cells[0].source
