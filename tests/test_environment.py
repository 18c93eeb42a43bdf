"""One list of what is needed, pyproject.toml; the others defer to it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from chapters import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}


def test_conda_and_binder_defer_to_pyproject() -> None:
    assert f"python{PROJECT['requires-python']}" in CONDA
    assert [entry for entry in CONDA if isinstance(entry, str) and not entry.startswith("python")] == ["pip"]
    (pip,) = [entry["pip"] for entry in CONDA if isinstance(entry, dict)]
    assert len(pip) == 2 and pip[0] == "-c constraints.txt"
    match = re.fullmatch(r"-e \.\[([\w,]+)\]", pip[1])
    assert match and set(match[1].split(",")) <= set(EXTRAS)


def test_make_installs_the_same_extras() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (pip,) = [entry["pip"] for entry in CONDA if isinstance(entry, dict)]
    assert f"-c constraints.txt -e '{pip[1].removeprefix('-e ')}'" in makefile


def test_extras_name_extras_that_exist_and_nothing_twice() -> None:
    groups = {"": PROJECT["dependencies"], **EXTRAS}
    for group in groups.values():
        for requirement in map(Requirement, group):
            if requirement.name == PROJECT["name"]:
                assert requirement.extras <= set(EXTRAS)
    listed = [name for group in groups.values() for name in names(group) if name != PROJECT["name"]]
    assert sorted(listed) == sorted(set(listed))


def test_constraints_pin_each_package_once_and_exactly() -> None:
    for pin in PINS:
        assert re.fullmatch(r"==[^*,]+", str(pin.specifier)) and not pin.url, pin
    pinned = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in PINS}
    assert len(pinned) == len(PINS)
    direct = [Requirement(item) for group in [PROJECT["dependencies"], *EXTRAS.values()] for item in group]
    for requirement in direct:
        if requirement.name != PROJECT["name"]:
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("path", sorted((ROOT / "transformer").rglob("*.py")), ids=lambda path: path.stem)
def test_the_package_imports_only_what_it_declares(path: Path) -> None:
    """Inside a function, where it can be caught, the package may also ask for one of its extras."""
    required = names(PROJECT["dependencies"] + (EXTRAS["figures"] if path.stem == "figures" else []))
    optional = names(EXTRAS["figures"] + EXTRAS["evaluation"])
    tree = ast.parse(path.read_text(encoding="utf-8"))
    providers = packages_distributions()
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        declared = required if node in tree.body else required | optional
        for module in {module.split(".")[0] for module in modules}:
            if module not in {"transformer", *sys.stdlib_module_names}:
                assert {canonicalize_name(name) for name in providers[module]} & declared, module


@pytest.mark.parametrize(
    ("ci", "reason", "outcome"),
    [
        ("true", "could not import 'x'", "failed"),
        ("true", "no browser here: install chromium", "failed"),
        ("true", "no GPU", "skipped"),
        ("", "could not import 'x'", "skipped"),
    ],
)
def test_on_a_ci_server_nothing_may_be_missing(
    ci: str, reason: str, outcome: str, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    plugin = pytestconfig.pluginmanager.getplugin(str(ROOT / "conftest.py"))
    why = ("x.py", 1, f"Skipped: {reason}")
    report = pytest.TestReport("x", ("x.py", 1, "x"), {}, "skipped", why, "call")
    assert plugin.strict(report).outcome == outcome
