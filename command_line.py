"""How the command-line programs fail: one sentence, no traceback, exit status not 0. Standard library only."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec

P = ParamSpec("P")

# what the system says when no more bytes fit
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """Bad input: the message is one sentence that names the thing and the remedy."""


def _keep_opencv_to_its_threads() -> None:
    """OpenCV does not read OMP_NUM_THREADS: without its own variable it starts a thread for each core."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if asked.isdecimal():
        os.environ.setdefault("OPENCV_FOR_THREADS_NUM", asked)


def program(main: Callable[P, None]) -> Callable[P, None]:
    """Decorate a program's `main`: a `UserError`, a refused system call or a killed process becomes one line
    and exit status 1.

    Ctrl-C exits with 130, a closed pipe with 141, as a shell would report them.
    """

    @functools.wraps(main)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        _keep_opencv_to_its_threads()
        try:
            main(*args, **kwargs)
        except UserError as error:
            sys.exit(f"error: {error}")
        except BrokenPipeError:
            # the reader has gone; keep the interpreter from complaining again when it flushes at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except OSError as error:
            if error.errno in _DISK_FULL:
                written = f": {error.filename} could not be written" if error.filename else ""
                sys.exit(
                    f"error: the disk is full{written}; free some space and run the same command again, what is "
                    "finished is kept."
                )
            name = f": {error.filename}" if error.filename else ""
            sys.exit(f"error: {error.strerror or error}{name}")
        except BrokenProcessPool:
            sys.exit(
                "error: a process was killed, most often for want of memory: run the same command again to go on from "
                "here, with fewer --jobs where it takes them"
            )
        except KeyboardInterrupt:
            print("interrupted: run the same command again to go on from here", file=sys.stderr)
            sys.exit(130)

    return wrapper
