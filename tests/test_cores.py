"""Cores are counted once, and "one core" is one: to PyTorch, to OpenCV and in the manifest."""

from __future__ import annotations

import ast
import builtins
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cores import core_count, thread_count
from folds.devices import hardware

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path for path in ROOT.rglob("*.py") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
COUNTERS = {"cpu_count", "process_cpu_count", "sched_getaffinity", "CPU_COUNT"}

CHILD = """
import os, sys
if sys.argv[1:]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from command_line import program
import cv2, torch
from cores import core_count, thread_count
from folds.devices import hardware, set_threads

@program
def main():
    print(core_count(), thread_count(), torch.get_num_threads(), cv2.getNumThreads())

main()
# a fold whose share is more than the process may have
set_threads(64)
print(torch.get_num_threads(), cv2.getNumThreads(), hardware([]))
"""


def in_child(*words: str, **variables: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if "THREADS" not in name}
    command = [sys.executable, "-c", CHILD, *words]
    done = subprocess.run(command, cwd=ROOT, env={**kept, **variables}, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_one_thread_is_one_for_every_library() -> None:
    assert in_child(OMP_NUM_THREADS="1") == [f"{core_count()} 1 1 1", "1 1 1 CPU core"]


def test_one_core_of_the_machine_is_one_for_every_library() -> None:
    assert in_child("one") == ["1 1 1 1", "1 1 1 CPU core"]


@pytest.mark.parametrize(
    "files",
    [
        {"/sys/fs/cgroup/cpu.max": "100000 100000"},
        {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
    ],
    ids=["cgroup v2", "cgroup v1"],
)
def test_a_containers_quota_is_kept(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    exists, opened = os.path.exists, builtins.open

    def quota_exists(path: Any) -> bool:
        return path in files if str(path).startswith("/sys/fs/cgroup") else exists(path)

    def quota(path: Any, *rest: Any, **options: Any) -> Any:
        return io.StringIO(files[path]) if path in files else opened(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os.path, "exists", quota_exists)
        patch.setattr(builtins, "open", quota)
        found = core_count(), thread_count()
    assert found == (1, 1)


def test_threads_are_as_many_as_asked_for_and_cores_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cores.core_count", lambda: 8)
    for asked, given in (("3", 3), ("3,2", 3), ("99", 8), ("0", 8), ("many", 8), ("", 8)):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert thread_count() == given
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert thread_count() == 8


def test_hardware_counts_every_process_and_no_more_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("folds.devices.core_count", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert [hardware([]), hardware([], 2), hardware([], 2, 1), hardware([], 4, 4)] == [
        f"{count} CPU cores" for count in (2, 4, 6, 8)
    ]


def test_only_one_file_counts_cores() -> None:
    assert len(SOURCES) > 100
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = {getattr(node, "attr", ""), getattr(node, "id", ""), getattr(node, "name", "")}
            assert path.name == "cores.py" or not names & COUNTERS, f"{path}:{getattr(node, 'lineno', 0)}"


def test_numba_runs_no_loop_in_threads_of_its_own() -> None:
    """So its number of threads, which follows no other library's, does not count."""
    for path in (ROOT / "kernels").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = {getattr(node, "attr", ""), getattr(node, "id", ""), getattr(node, "arg", "")}
            assert not names & {"prange", "parallel"}, f"{path}:{getattr(node, 'lineno', 0)}"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity of processes")
def test_a_process_kept_to_one_core_counts_one() -> None:
    code = "from cores import core_count, keep_to; keep_to(1); print(core_count())"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"
