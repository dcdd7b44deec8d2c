"""How many cores this process may keep busy: the only file that counts them."""

from __future__ import annotations

import os

import joblib


def core_count() -> int:
    """Cores that this process and those it starts may keep busy, at least 1.

    No more than its affinity (`taskset`), the CPU quota of its container (cgroup v1 or v2) and the environment
    variable LOKY_MAX_CPU_COUNT let it have.
    """
    return int(joblib.cpu_count())


def thread_count() -> int:
    """Threads that this process may compute with: OMP_NUM_THREADS if that is set, but never more than `core_count`.

    PyTorch and the numerical libraries take that variable by themselves; OpenCV and our own threads do not.
    """
    # a list holds a number for each level of nested parallel loops
    outermost = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    asked = int(outermost) if outermost.isdecimal() else 0
    return min(asked or core_count(), core_count())


def keep_to(cores: int) -> None:
    """Let this process, and those it starts, run on no more than that many of its cores; what counts them sees it too.

    Does nothing where the system cannot (macOS).
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
