"""One process a fold: a lock that the operating system holds, so that a process that dies gives it up."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import atomic
from command_line import UserError
from folds.run_layout import LOCK_FILE

# what a killed process takes until the system has ended it, GPU and all
_DYING_S = 3.0
_LOOK_S = 0.05


def _taken(file: IO[str]) -> bool:
    """Take the lock, unless another process holds it; a file system without locks has none to take."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    process, _, host = file.read().strip().partition(" ")
    return f"process {process} on {host}" if process and host else "another process"


@contextmanager
def alone_with(folder: Path, label: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a fold's lock.

    Args:
        folder: of the fold; made if it is not there.
        label: of the fold, for messages.
        wait: until the process that holds it has ended, and say so; otherwise that is refused.

    Raises:
        UserError: another process holds it; the message names it.
    """
    atomic.make_folder(folder)
    with atomic.told(folder), (folder / LOCK_FILE).open("a+") as file:
        taken, until = _taken(file), time.monotonic() + _DYING_S
        while not taken and time.monotonic() < until:
            time.sleep(_LOOK_S)
            taken = _taken(file)
        if not taken:
            holder = _holder(file)
            if not wait:
                raise UserError(
                    f"{label} is being trained by {holder}: wait for it to end, or end it, and run the same command "
                    "again, which goes on from what it has done."
                )
            print(f"{label} is being trained by {holder}: waiting for it to end", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()} {platform.node()}\n")
        file.flush()
        yield
