"""What tests have processes killed by; importing it takes no time, unlike what those processes do."""

from __future__ import annotations

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
