"""Two tiny folds by the training program, of which one is killed: set up once for all ways to run them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from folds import train
from folds.task import FoldTask
from models.variants import VARIANTS
from tests.dying import KillingInputs
from tests.tiny_folds import TINY


def tiny_flags(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Flags of `folds.train` for two of three folds of four images each."""
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    # the last bits of a sum depend on how many threads share it
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return {"variant": "tiny", "recipe": "demo", "epochs": 2, "batch": 2, "fold": "0,1", "folds": 3}


def kill_in_the_second_epoch(monkeypatch: pytest.MonkeyPatch, marker: Path) -> None:
    """Have the first process but this that comes to the second epoch of such a fold killed there."""
    make_tasks = train.make_tasks

    def killing(*arguments: Any, **more: Any) -> list[FoldTask]:
        # an epoch reads twelve images
        tasks = make_tasks(*arguments, **more)
        return [replace(task, inputs=KillingInputs(task.inputs, os.getpid(), marker, 15)) for task in tasks]

    monkeypatch.setattr(train, "make_tasks", killing)


def results(root: Path) -> dict[str, object]:
    """All that folds leave but what tells of the machine, by path."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.name == "manifest.json":
            facts = json.loads(path.read_text())
            found[name] = {key: facts[key] for key in facts if key not in ("seconds", "cpu_seconds", "hardware")}
        elif path.is_file() and "tensorboard" not in name and path.name != ".lock":
            found[name] = path.read_bytes()
    return found


def _values_that_differ(left: object, right: object) -> object:
    if isinstance(left, dict) and isinstance(right, dict):
        return {key: (left.get(key), right.get(key)) for key in {*left, *right} if left.get(key) != right.get(key)}
    return "absent or there" if left is None or right is None else "other bytes"


def check_same(left: Path, right: Path, context: object = "") -> None:
    """Fail, naming the files and what is other in them, unless two folders hold the same results."""
    ours, theirs = results(left), results(right)
    names = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    differ = {name: _values_that_differ(ours.get(name), theirs.get(name)) for name in names}
    assert not differ, (differ, context)
