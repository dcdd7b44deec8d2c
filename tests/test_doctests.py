"""No example in a docstring is forgotten: every package is looked through, and every example found."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def sources() -> Iterator[Path]:
    """The repository's Python files, relative to it: modules at its root, and those of packages."""
    for entry in sorted(ROOT.iterdir()):
        if entry.suffix == ".py":
            yield entry.relative_to(ROOT)
        elif not entry.name.startswith(".") and any(entry.glob("*.py")):
            yield from (path.relative_to(ROOT) for path in sorted(entry.rglob("*.py")))


def examples(path: Path) -> int:
    """How many docstrings of a file hold an example."""
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    return sum(">>>" in (ast.get_docstring(node) or "") for node in nodes if isinstance(node, _DOCUMENTED))


def test_every_module_and_package_is_where_pytest_looks(pytestconfig: pytest.Config) -> None:
    assert "--doctest-modules" in pytestconfig.getini("addopts")
    assert {path.parts[0] for path in sources()} == set(pytestconfig.getini("testpaths"))


@pytest.mark.parametrize("path", [path for path in sources() if examples(path)], ids=str)
def test_every_example_is_found(path: Path) -> None:
    module = importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
    found = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert len(found) == examples(path)


def test_an_example_is_counted_where_it_stands() -> None:
    assert examples(Path("competition.py")) == 9
    assert examples(Path("tests/test_doctests.py")) == 0
