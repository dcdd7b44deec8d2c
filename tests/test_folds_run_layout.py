import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from folds import run_layout
from notebooks import on_kaggle

ROOT = Path(__file__).parents[1]
NAMES = {value for key, value in vars(run_layout).items() if key.endswith(("_FILE", "_DIR", "_STORE")) and "." in value}
PACKAGES = (
    "folds",
    "predict",
    "ensemble",
    "report",
    "submit",
    "kaggle_client",
    "notebooks",
    "benchmarks",
    "studio",
)
# the script that runs alone on Kaggle; a manifest of rendered data, which is no run; one line to be moved
EXEMPT = ("notebooks/on_kaggle.py", "studio/render.py", "ensemble/oof_data.py")


def _literals(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string but the docstrings; fields of f-strings are {}."""
    described = (ast.Module, ast.ClassDef, ast.FunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, described)]
    skipped = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


def test_names_in_a_runs_folder_are_written_once() -> None:
    """In the code; tests spell them out, so that a name cannot change unnoticed."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = {path.relative_to(ROOT).as_posix(): path for path in paths if path.stem != "run_layout"}
    found = [
        f"{name}:{line} {text!r}"
        for name, path in names.items()
        if name not in EXEMPT
        for line, text in _literals(ast.parse(path.read_text()))
        if not NAMES.isdisjoint(text.split("/")) or not {"fold{}", "fold*"}.isdisjoint(text.split("/"))
    ]
    assert found == []


def test_the_script_on_kaggle_leaves_behind_what_is_made_again() -> None:
    """It is uploaded alone, so it has the names a second time."""
    from ensemble.blend_file import SHARDS_DIR

    made_again = {run_layout.CACHE_DIR, run_layout.TEST_STORE, run_layout.RESUME_DIR, SHARDS_DIR}
    assert set(on_kaggle._LEFT_OUT) == {*made_again, "__pycache__"}


def test_the_layout_needs_no_library() -> None:
    code = "import sys, folds.run_layout; print(*({'numpy', 'torch', 'pandas'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_folds_and_runs_are_found_in_order(tmp_path: Path) -> None:
    finished = {"b": [10, 2, 0], "a-x": [1], "cache": [], "blend": []}
    for run, folds in finished.items():
        for fold in folds:
            (tmp_path / run / f"fold{fold}").mkdir(parents=True)
            (tmp_path / run / f"fold{fold}" / "manifest.json").write_text("{}")
    for other in ("b/fold1", "b/folds", "b/fold-3", "c/fold0", "blend"):
        (tmp_path / other).mkdir(parents=True, exist_ok=True)
    (tmp_path / "blend" / "manifest.json").write_text("{}")
    (tmp_path / "folds.csv").write_text("")
    assert [path.name for path in run_layout.begun_folds(tmp_path / "b")] == ["fold0", "fold1", "fold2", "fold10"]
    assert [path.name for path in run_layout.finished_folds(tmp_path / "b")] == ["fold0", "fold2", "fold10"]
    assert [path.name for path in run_layout.trained_runs(tmp_path)] == ["a-x", "b"]
    assert run_layout.begun_folds(tmp_path / "none") == run_layout.trained_runs(tmp_path / "none") == []


@pytest.mark.parametrize("fold", [0, 7, 10])
def test_a_folds_folder_and_its_number_are_opposites(fold: int) -> None:
    assert run_layout.fold_number(run_layout.fold_folder(Path("runs/c/a-unet"), fold)) == fold
