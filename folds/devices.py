"""What a fold trains on: GPUs, of which folds that run at once on one machine each take their own, or CPU threads."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2
import torch

from cores import core_count, thread_count
from folds.workers import process_count


def _name(index: int) -> str:
    """A name of GPU `index` that every process on the machine agrees on, whatever GPUs each can see."""
    return str(torch.cuda.get_device_properties(index).uuid)


@contextmanager
def lease(count: int, folder: Path | None = None) -> Iterator[list[int]]:
    """Take `count` GPUs for as long as the context lasts; a process that dies gives its GPUs back.

    Args:
        count: of GPUs.
        folder: of the lock files; the machine's temporary folder by default, which all its processes share.

    Yields:
        Indices of GPUs that no other lease holds, lowest first; where too few are free, of GPUs that are shared.
        Empty on a machine without GPUs.
    """
    available = torch.cuda.device_count()
    if not available:
        yield []
        return
    root = folder or Path(tempfile.gettempdir()) / f"gpu-leases-{os.getuid()}"
    root.mkdir(parents=True, exist_ok=True)
    taken: list[int] = []
    with ExitStack() as held:
        for index in range(available):
            if len(taken) == count:
                break
            file = held.enter_context((root / f"{_name(index)}.lock").open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            taken.append(index)
        others = [index for index in range(available) if index not in taken]
        # more folds at once than GPUs: spread over them by process
        start = os.getpid() % max(1, len(others))
        taken += (others[start:] + others[:start])[: count - len(taken)]
        yield sorted(taken)


def folds_at_once(asked: int, count: int, devices: int = 1) -> int:
    """How many of `count` folds to train at once: as many as asked, or, of 0, as this machine's GPUs, else its cores,
    are enough for at `devices` a fold. At least one."""
    if asked:
        return min(process_count(asked), count)
    available = torch.cuda.device_count() or core_count()
    return max(1, min(available // devices, count))


def threads_each(at_once: int) -> int:
    """Threads for each of so many folds that train at once; 0, which is all of them, for one alone.

    Two threads for one core slow each other down. The share does not depend on how many folds are left, as the last
    bits of sums depend on it.
    """
    return 0 if at_once == 1 else max(1, core_count() // at_once)


def share_of(threads: int) -> int:
    """Threads that a process computes with to whom so many cores are given, 0 for all: no more than it may have."""
    return min(threads or torch.get_num_threads(), thread_count())


def set_threads(share: int = 0, exactly: int = 0) -> None:
    """Let torch and OpenCV compute in this process with as many threads as it may have, and no more.

    Numba's loops here have one thread each.

    Args:
        share: cores that are this process's; 0 is all of them.
        exactly: threads for torch whatever there is, as the last bits of its sums depend on how many share them; 0
            for as many as there are.
    """
    threads = exactly or share_of(share)
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    # it reads neither OMP_NUM_THREADS nor what torch was told
    cv2.setNumThreads(min(threads, thread_count()))


def hardware(gpus: list[int], processes: int = 1, loaders: int = 0) -> str:
    """What a fold is computed on, for its manifest: the name of its GPUs, or the number of CPU cores it keeps busy.

    Args:
        gpus: their indices; none is the CPU.
        processes: that train together, each with as many threads as this one.
        loaders: processes that load images beside each of them.
    """
    if gpus:
        return f"{len(gpus)} x {torch.cuda.get_device_name(gpus[0])}"
    busy = min(core_count(), processes * (torch.get_num_threads() + loaders))
    return f"{busy} CPU core{'s' if busy > 1 else ''}"
