"""What tests have processes killed by; importing it takes no time, unlike what those processes do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

from folds.inputs import Inputs
from folds.ranks import Rank
from folds.workers import connected, run_all

_reads = count()


def die(_: object) -> None:
    """A process that comes here is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker: Path) -> None:
    """The first process that comes here is killed."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    die(None)


def die_once_first(marker: Path, call: Callable[[object], object], task: object) -> object:
    """Call, unless this is the first process that comes here."""
    die_once(marker)
    return call(task)


def run_all_killing(marker: Path, call: Callable[[object], object], *rest: object, **options: object) -> object:
    """`run_all`, with one process killed before its first task."""
    return run_all(partial(die_once_first, marker, call), *rest, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class KillingInputs:
    """Inputs that have the first process killed that reads so many images, unless it is the one that made them.

    Attributes:
        inputs: what is read.
        owner: the process that is spared.
        marker: a file that is made when a process is killed.
        number: of the read.
    """

    inputs: Inputs
    owner: int
    marker: Path
    number: int

    def image(self, position: int) -> np.ndarray:
        if os.getpid() != self.owner and next(_reads) == self.number:
            die_once(self.marker)
        return self.inputs.image(position)

    def target(self, position: int) -> np.ndarray:
        return self.inputs.target(position)


@dataclass(frozen=True)
class TellingInputs:
    """Inputs that print which process reads them."""

    def image(self, position: int) -> np.ndarray:
        print(os.getpid(), flush=True)
        return np.zeros((8, 8, 3), np.uint8)

    def target(self, position: int) -> np.ndarray:
        return np.zeros((8, 8), np.uint8)


def load_and_sleep() -> None:
    """Read images in processes of their own, and sleep for longer than any test takes."""
    from folds.samples import EpochSampler, Samples, loader

    multiprocessing.set_forkserver_preload(["folds.samples"])
    sampler = EpochSampler(np.arange(2), seed=0, shuffle=False)
    batches = loader(Samples(TellingInputs(), None), sampler, 1, workers=2, pin=False)
    for _ in batches:
        time.sleep(120)


def tell_who_and_sleep(folder: Path) -> None:
    """Name a file after this process, and sleep for longer than any test takes."""
    (folder / str(os.getpid())).touch()
    time.sleep(120)


def tell_and_sleep(rank: Rank) -> None:
    """Print who this process is, and sleep for longer than any test takes."""
    print(os.getpid(), flush=True)
    time.sleep(120)


def end_scheduler(address: str, _: object) -> None:
    """End a cluster from within one of its tasks."""
    with connected(address) as client:
        client.shutdown()
