"""The package as an engineer meets it: what it exports, what importing it costs, what it says of itself."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import transformer
from chapters import ROOT
from floors import MODULES

PACKAGE = Path(transformer.__file__).parent
FILES = sorted(PACKAGE.rglob("[a-z]*.py"))
PATHS = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in FILES}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_needs_nothing_of_the_book() -> None:
    """`figures` and the site's packages are extras: they must not be loaded by the import."""
    code = (
        "import os; os.environ.pop('TRANSFORMER_CHECK_SHAPES', None); import sys, transformer; "
        "print([m for m in ('matplotlib', 'IPython', 'beartype', 'sphinx', 'jupytext') if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_shapes_are_checked_on_request() -> None:
    """With the switch a wrong shape is named in the message; without it torch may say nothing."""
    code = (
        "import os; os.environ['TRANSFORMER_CHECK_SHAPES'] = '{}'; import torch; "
        "from transformer import padding_mask\n"
        "try: print(padding_mask(torch.ones(4), 0).shape)\n"
        "except Exception as error: print(type(error).__name__)"
    )
    assert run(code.format("1")) == "TypeCheckError"
    assert run(code.format("0")) != "TypeCheckError"


@pytest.mark.parametrize("name", PATHS)
def test_public_names_are_documented_and_typed(name: str) -> None:
    module = importlib.import_module(f"transformer.{name}")
    assert name in MODULES and module.__doc__ and "chapters/" in module.__doc__
    for public in module.__all__:
        thing = getattr(module, public)
        if inspect.isfunction(thing):
            assert thing.__doc__, f"{name}.{public} has no docstring"
            signature = inspect.signature(thing)
            parameters = [parameter.annotation for parameter in signature.parameters.values()]
            assert inspect.Signature.empty not in [*parameters, signature.return_annotation], (
                f"{name}.{public} is not fully typed"
            )
        elif inspect.isclass(thing):
            # a dataclass or a named tuple without one is given its signature
            documented = thing.__doc__ and not thing.__doc__.startswith(f"{public}(")
            assert documented, f"{name}.{public} has no docstring"


@pytest.mark.parametrize("name", PATHS)
def test_modules_import_only_from_floors_below(name: str) -> None:
    tree = ast.parse(PATHS[name].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            imported = [("transformer." if node.level else "") + (node.module or "")]
        for package, _, module in (each.partition(".") for each in imported):
            if package == "transformer":
                assert module in MODULES and MODULES[module][0] < MODULES[name][0], module


def test_the_readmes_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the comment at the end of a block is a list, its last line returns that."""
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        names: dict[str, Any] = {}
        before, _, last = block.rpartition("\n")
        exec(before, names)
        code, _, comment = last.partition("  # ")
        if comment.startswith("["):
            assert eval(code, names) == ast.literal_eval(comment)
        else:
            exec(code, names)
            assert names["logits"].shape == (8, 20, 37_000)
