"""Write the package `transformer` from the chapters' cells tagged `export`: `python tools/export.py`."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from chapters import ROOT, BookError, Chapter, read_book, tags, update
from floors import MODULES

FOLDERS = {"fragment": '"""A small grammar of English and German sentences, and the corpus it writes."""'}
# `figures` needs matplotlib, an extra; `__main__` is for `python -m`. Folders' modules stay in their folders.
NOT_IN_INIT = {"figures", "__main__"}

INIT = '''\
"""The Transformer of "Attention Is All You Need", as built in the book *Attention, Piece by Piece*.

Every module is exported from the chapter that its docstring names. Set the environment variable
TRANSFORMER_CHECK_SHAPES=1 before the first import to check each annotated shape at run time.
"""

import os

__version__ = "{version}"

if os.environ.get("TRANSFORMER_CHECK_SHAPES", "0") != "0":
    from jaxtyping import install_import_hook

    # an int is accepted for a float, as everywhere in Python
    install_import_hook({annotated}, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

{imports}

__all__ = {names}
'''


@dataclass
class Module:
    """What a chapter exports to one module."""

    name: str
    chapter: Chapter
    imports: dict[str, str] = field(default_factory=dict)  # each, and the cell that it stands in
    body: list[str] = field(default_factory=list)
    defined: dict[str, str] = field(default_factory=dict)  # each top-level name, and the cell that defines it

    @property
    def public(self) -> list[str]:
        return sorted(name for name in self.defined if not name.startswith("_"))

    def add(self, source: str, where: str) -> None:
        """Take one export cell."""
        try:
            tree = ast.parse(source)
        except SyntaxError as error:
            raise BookError(f"{where}: line {error.lineno}: {error.msg}: {error.text or ''}") from error
        check_floors(tree, self.name, where)
        for one, next_one in pairwise(tree.body):
            if one.end_lineno == next_one.lineno:  # with the line of an import, its neighbour would be lost
                raise BookError(f"{where}: line {next_one.lineno}: two statements in one line")
        lines = source.splitlines()
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imports[ast.unparse(node)] = where
                for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                    lines[number] = ""
                continue
            for name in defined_names(node, where):
                if name in self.defined:
                    raise BookError(f"{where}: `{name}` is already exported by {self.defined[name]}")
                self.defined[name] = where
        if text := "\n".join(lines).strip("\n"):
            self.body.append(text)

    def source(self) -> str:
        origin = f"Chapter: {self.chapter.title}\nExported from {self.chapter.name}; edit it there, not here."
        header = f'"""{MODULES[self.name][1]}\n\n{origin}\n"""'
        # a notebook, too, is called "__main__", so no cell of it could say this
        last = ['if __name__ == "__main__":\n    sys.exit(main())'] if self.name == "__main__" else []
        return "\n\n".join([header, "\n".join(self.imports), f"__all__ = {self.public}", *self.body, *last])


def defined_names(node: ast.stmt, where: str) -> list[str]:
    """The names that a top-level statement defines; anything but a definition is an error."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [item for target in targets for item in ast.walk(target) if isinstance(item, ast.Name)]
        return [name.id for name in names if isinstance(name.ctx, ast.Store)]
    if isinstance(node, ast.AugAssign):  # `TABLE |= …` defines no new name
        return []
    line = ast.unparse(node).splitlines()[0]
    raise BookError(f"{where}: only imports, constants, functions and classes can be exported, not `{line}`")


def check_floors(tree: ast.Module, module: str, where: str) -> None:
    """Refuse an import from the package that is not from a floor below, wherever in the cell it stands."""
    for node in ast.walk(tree):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            imported = [("transformer." if node.level else "") + (node.module or "")]
        for name in imported:
            package, _, target = name.partition(".")
            if package != "transformer":
                continue
            if target and target not in MODULES:
                raise BookError(f"{where}: there is no module `{name}` in tools/floors.py")
            floor, own = MODULES.get(target, (99, ""))[0], MODULES[module][0]
            if floor >= own:
                raise BookError(
                    f"{where}: `{module}` (floor {own}) imports from `{name}`, which is not below it"
                )


def collect(book: list[Chapter]) -> dict[str, Module]:
    """Gather the export cells of every chapter, by module."""
    modules: dict[str, Module] = {}
    for chapter in book:
        for name in chapter.modules:
            if name not in MODULES:
                raise BookError(f"{chapter.name}: module `{name}` has no floor in tools/floors.py")
            folder, dot, _ = name.partition(".")
            if dot and folder not in FOLDERS:
                raise BookError(
                    f"{chapter.name}: module `{name}`: folder `{folder}` is not in tools/export.py"
                )
            if name in modules:
                other = modules[name].chapter.name
                raise BookError(f"{chapter.name}: module `{name}` is already exported by {other}")
            modules[name] = Module(name, chapter)
        for number, cell in enumerate(chapter.code_cells, start=1):
            where = f"{chapter.name}: code cell {number}"
            for tag in [tag for tag in tags(cell) if tag.startswith("export")]:
                name = tag.removeprefix("export").removeprefix(":") or next(iter(chapter.modules), "")
                if name not in chapter.modules:
                    raise BookError(f"{where}: tag `{tag}`, but no such `book.module` in the front matter")
                modules[name].add(cell.source, where)
    for module in modules.values():
        import_neighbours(module, list(modules.values()))
        check_names(module, modules)
    return {name: module for name, module in modules.items() if module.defined}


def check_names(module: Module, modules: dict[str, Module]) -> None:
    """Refuse an import of what no chapter exports: it would break the package, and so every chapter."""
    for source, where in module.imports.items():
        (node,) = ast.parse(source).body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("transformer."):
            other = modules.get(node.module.removeprefix("transformer."))
            for alias in node.names:
                if not other or alias.name not in other.defined:
                    raise BookError(f"{where}: no chapter exports `{alias.name}` to `{node.module}`")


def import_neighbours(module: Module, modules: list[Module]) -> None:
    """Import what a chapter defines for one of its modules and uses in another."""
    names = [node for node in ast.walk(ast.parse("\n\n".join(module.body))) if isinstance(node, ast.Name)]
    used = {name.id for name in names} - {name.id for name in names if isinstance(name.ctx, ast.Store)}
    for other in modules:
        shared = sorted(used & other.defined.keys()) if other.chapter is module.chapter else []
        if other is not module and shared:
            source = f"from transformer.{other.name} import {', '.join(shared)}"
            check_floors(ast.parse(source), module.name, f"{module.chapter.name}: `{shared[0]}`")
            module.imports[source] = module.chapter.name


def init_source(modules: dict[str, Module], root: Path) -> str:
    """The package's `__init__.py`: every public name of every module, and each name once."""
    shown = [module for name, module in modules.items() if name not in NOT_IN_INIT and "." not in name]
    owner: dict[str, str] = {}
    for module in shown:
        for name in module.public:
            if name in owner:
                raise BookError(f"{module.defined[name]}: `{name}` is already exported by {owner[name]}")
            owner[name] = module.defined[name]
    imports = [f"from transformer.{module.name} import {', '.join(module.public)}" for module in shown]
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    # `fragment` annotates no shapes, and checking its many small calls takes ten times as long as they do
    annotated = [
        f"transformer.{name}" for name, module in modules.items() if "jaxtyping" in "".join(module.imports)
    ]
    return INIT.format(version=version, annotated=annotated, imports="\n".join(imports), names=sorted(owner))


def tidy(source: str, path: Path, root: Path) -> str:
    """Sort the imports, drop those that this module does not use, and format, all as pyproject.toml says."""
    options = ["--config", str(root / "pyproject.toml"), "--stdin-filename", str(path), "--quiet", "-"]
    for step in (["check", "--fix", "--select=I,F401"], ["format"]):
        command = [sys.executable, "-m", "ruff", *step, *options]
        done = subprocess.run(command, input=source, capture_output=True, encoding="utf-8")
        if done.returncode:
            raise BookError(f"transformer/{path.name}: {done.stdout}{done.stderr}")
        source = done.stdout
    return source


def package(root: Path = ROOT) -> dict[Path, str]:
    """Every file of the package, with the text that it should hold."""
    modules = collect(read_book(root))
    sources = {name: module.source() for name, module in modules.items()}
    sources["__init__"] = init_source(modules, root)
    folders = {name.partition(".")[0] for name in modules if "." in name}
    sources |= {f"{folder}.__init__": FOLDERS[folder] for folder in folders}
    paths = {name: root.joinpath("transformer", *name.split(".")).with_suffix(".py") for name in sources}
    files = {path: tidy(sources[name], path, root) for name, path in paths.items()}
    return files | {root / "transformer" / "py.typed": ""}


def export(root: Path = ROOT) -> list[Path]:
    """Bring transformer/ up to date; return the files that were written or removed."""
    files = package(root)
    stale = [path for path in (root / "transformer").rglob("*.py") if path not in files]
    for path in stale:
        path.unlink()
    return stale + [path for path, text in files.items() if update(path, text)]


if __name__ == "__main__":
    try:
        for path in export():
            print(f"{path.relative_to(ROOT)} {'written' if path.exists() else 'removed'}")
    except BookError as error:
        sys.exit(f"error: {error}")
