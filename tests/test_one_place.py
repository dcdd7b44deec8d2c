"""Only competition.py knows a competition: no number, suffix, folder or column of one stands in code elsewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from competition import COMPETITIONS, Competition
from tests.other_competition import OTHER

ROOT = Path(__file__).parent.parent
# words that mean something else besides: stages, keys of JSON files, and formats that any image may have
_WORDS = {"train", "test", "id", "image", "group", "images", "masks", "make", ".png", ".jpg", "mask", "tile", "lamp"}
# the embedded competition is rendered in its own package, and what is measured against peers has the frames of the data
# that it was measured on
_OWN = ("competition.py", "studio", "benchmarks", "tests")


def _sources() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*.py")):
        first = path.relative_to(ROOT).parts[0]
        if first not in _OWN and not first.startswith("."):
            yield path


def _facts(competition: Competition) -> tuple[set[int], set[str]]:
    """The numbers and the words of a competition."""
    numbers = {*competition.size, competition.train_count or 0, competition.test_count or 0}
    words: set[str | None] = {
        competition.name_pattern,
        competition.mask_suffix,
        competition.image_suffix,
        *competition.header,
        competition.train_dir,
        competition.masks_dir,
        competition.test_dir,
        competition.test_masks_dir,
        competition.truth_table,
        competition.groups_file,
        competition.metadata_file,
        competition.metadata_key,
        competition.metadata_breakdown,
        competition.sample_file,
        competition.slug,
    }
    for archive in competition.archives:
        words |= {archive.name, *archive.folders}
    # what a number below a hundred means nobody can tell, and networks are built of small multiples of 32
    return {n for n in numbers if n >= 100 and (n % 32 or n >= 1000)}, {word for word in words if word} - _WORDS


def _constants(path: Path) -> Iterator[tuple[int, object]]:
    """(line, value) of every constant of a file but its docstrings."""
    tree = ast.parse(path.read_text())
    told = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in told:
            yield node.lineno, node.value


@pytest.mark.parametrize("competition", [*COMPETITIONS.values(), OTHER], ids=lambda competition: competition.name)
def test_no_file_but_one_knows_a_competition(competition: Competition) -> None:
    numbers, words = _facts(competition)
    found = []
    for path in _sources():
        for line, value in _constants(path):
            if isinstance(value, bool):
                continue
            if value in numbers if isinstance(value, int) else any(word in str(value) for word in words):
                found.append(f"{path.relative_to(ROOT)}:{line} {value!r}")
    assert found == []
