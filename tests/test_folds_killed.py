"""A fold killed at any of its writes, renames and removals, and started again, ends as one that was left alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from folds.fold import run_fold
from folds.task import FoldTask, read_manifest
from tests.killed_folds import check_same
from tests.tiny_folds import QUICK, TINY, maker

_CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def _changes(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    """Whether an audit event is about to change something in a folder; TensorBoard's own log is no result."""
    if event not in (*_CHANGES, "open") or not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return False
    path = os.fsdecode(arguments[0])
    if folder not in path or "tensorboard" in path:
        return False
    if event != "open":
        return True
    _, mode, flags = arguments
    return bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool(flags & (os.O_WRONLY | os.O_RDWR))


def _run(task: FoldTask, last_step: int, steps: Any) -> None:
    folder = str(task.folder.parent)

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if _changes(event, arguments, folder):
            if steps.value == last_step:
                os.kill(os.getpid(), signal.SIGKILL)
            steps.value += 1

    sys.addaudithook(count)
    run_fold(task)


def _run_in_child(task: FoldTask, last_step: int = -1) -> tuple[int, int]:
    """Run a fold up to a step, or to its end; the steps that it came to, and the child's exit code."""
    # what is imported is there at once, and a hook cannot be taken out again
    context = multiprocessing.get_context("fork")
    steps = context.Value("i", 0)
    child = context.Process(target=_run, args=(task, last_step, steps))
    child.start()
    child.join()
    assert child.exitcode is not None
    return steps.value, child.exitcode


def _kills(whole: FoldTask) -> Iterator[int]:
    steps, code = _run_in_child(whole)
    assert code == 0
    assert steps > 40
    yield from range(steps)


@pytest.mark.slow
def test_killed_at_any_change_to_the_disk_a_fold_ends_as_undisturbed(ellipses: Path, tmp_path: Path) -> None:
    make, recipe = maker(ellipses, tmp_path), replace(QUICK, epochs=1)
    whole = make(TINY, recipe, "whole")
    for step in _kills(whole):
        killed = make(TINY, recipe, f"killed{step}")
        assert _run_in_child(killed, step)[1] == -signal.SIGKILL
        if read_manifest(killed.folder) is None:
            assert _run_in_child(killed)[1] == 0
        check_same(killed.folder.parent, whole.folder.parent, f"killed at change {step}")
