"""One process a folder: a lock that the operating system holds, so that a process that dies gives it up.

Whatever fills a folder takes it: two that fill the same one at once would each find, and leave, parts of the other's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import atomic
from command_line import UserError, until_end

LOCK_FILE = ".lock"
# what a killed process takes until the system has ended it, GPU and all
_DYING_S = 3.0
_LOOK_S = 0.05


def _taken(file: IO[str], wait: bool = False) -> bool:
    """Take the lock, unless another process holds it; a file system without locks has none to take."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _attempt(path: Path, wait: bool = False) -> tuple[IO[str], bool]:
    """The lock's file, open, and whether it is this process's now."""
    while True:
        try:
            file = path.open("a+")
        except FileNotFoundError:
            # who held it has just removed the folder that nothing was written into
            atomic.make_folder(path.parent)
            continue
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise UserError(
                    f"{path.parent.absolute()} may not be written ({error.strerror}): allow it, or name another, and "
                    "run the same command again; what is finished is kept."
                ) from None
            raise
        taken = _taken(file, wait)
        with suppress(FileNotFoundError):
            if not taken or os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, taken
        # removed by who held it, after it was opened here: nobody else will find this one
        file.close()


def _holder(file: IO[str]) -> str:
    file.seek(0)
    process, _, host = file.read().strip().partition(" ")
    return f"process {process} on {host}" if process and host else "another process"


@contextmanager
def alone_with(
    folder: Path, label: str, *, name: str = LOCK_FILE, doing: str = "is being written", wait: bool = False
) -> Iterator[None]:
    """Hold a folder's lock.

    Args:
        folder: made if it is not there, with its parents; and removed again if nothing was written into it.
        label: of what is filled, for messages.
        name: of the lock's file, where a folder has several that exclude each other in pairs alone.
        doing: what the process that holds it does, for messages.
        wait: until the process that holds it has ended, and say so; otherwise that is refused.

    Raises:
        UserError: another process holds it, which the message names; or the folder may not be written.
    """
    path = folder / name
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    atomic.make_folder(folder)
    with atomic.told(folder):
        file, taken = _attempt(path)
        until = time.monotonic() + _DYING_S
        while not taken and time.monotonic() < until:
            time.sleep(_LOOK_S)
            file.close()
            file, taken = _attempt(path)
        try:
            if not taken:
                holder = _holder(file)
                if not wait:
                    raise UserError(
                        f"{label} {doing} by {holder}: wait for it to end, or end it, and run the same command again, "
                        "which goes on from what it has done."
                    )
                print(f"{label} {doing} by {holder}: waiting for it to end", flush=True)
                file.close()
                file, taken = _attempt(path, wait=True)
            file.truncate(0)
            file.write(f"{os.getpid()} {platform.node()}\n")
            file.flush()
            yield
        finally:
            if taken:
                path.unlink(missing_ok=True)
                # those that nothing was written into
                with suppress(OSError):
                    for each in made:
                        each.rmdir()
            file.close()


def fill(folder: Path, label: str = "", *, name: str = LOCK_FILE) -> None:
    """Have this program alone fill a folder, until it ends.

    Args:
        folder: as `alone_with`; what another process fills is refused.
        label: what it is that is filled; the folder by default.
        name: as `alone_with`.

    Raises:
        UserError: another process fills it; the message names it.
    """
    until_end(alone_with(folder, label or str(folder), name=name))
