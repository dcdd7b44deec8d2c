"""How the command-line programs fail: one sentence, no traceback, exit status not 0. Standard library only."""

from __future__ import annotations

import functools
import inspect
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack
from typing import ParamSpec, TypeVar

import shortage
from remedies import completed

P = ParamSpec("P")
T = TypeVar("T")

# nearly when the process started: programs import this among the first
_STARTED = time.monotonic()

# sequences as ECMA-48 has them (CSI; OSC and its kin up to their end; two characters), then single controls, and what
# changes the direction of writing
_CONTROLS = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


class UserError(Exception):
    """Bad input: the message is one sentence that names the thing and the remedy."""


# what the random generators of all libraries take
SEEDS = 2**32


def check_seed(seed: int, flag: str = "--seed") -> int:
    """The seed itself; UserError where it is none that every library takes."""
    if not 0 <= seed < SEEDS:
        raise UserError(f"{flag} {seed} is out of range: give 0 .. {SEEDS - 1}.")
    return seed


def plain(text: str) -> str:
    """`text` without what would act on a terminal instead of showing: escape sequences and other control characters.

    Line ends and tabs stay.

    >>> plain("\\x1b[2J\\x1b]0;title\\x07gone")
    'gone'
    """
    return _CONTROLS.sub("", text)


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(41.4), duration(119.6), duration(7322)
    ('41 s', '2 min 0 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 120 and seconds < 119.5:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 7200 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _name_of_command(module: str) -> str:
    """What follows `python -m`, where a program of that module is what this process was started for; else empty."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = "" if spec is None else str(spec.name).removesuffix(".__main__")
    return name if name and (module == "__main__" or module.startswith(f"{name}.")) else ""


def _keep_opencv_to_its_threads() -> None:
    """OpenCV does not read OMP_NUM_THREADS: without its own variable it starts a thread for each core."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if asked.isdecimal():
        os.environ.setdefault("OPENCV_FOR_THREADS_NUM", asked)


def end_with_parent(parent: int) -> None:
    """Have this process end as soon as the one that started it has ended, in whatever way.

    A worker that outlived its program would go on computing beside the next one, and writing where that writes.

    Args:
        parent: process id of the one that started it.
    """

    def watch() -> None:
        try:
            parents_end = os.pidfd_open(parent)
        except (AttributeError, OSError):
            # another system than Linux, or an old one
            while os.getppid() == parent:
                time.sleep(1)
        else:
            # it may have ended before it could be watched
            if os.getppid() == parent:
                select.select([parents_end], [], [])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def begin_worker(parent: int) -> None:
    """What every process does first that joblib starts for a program.

    Args:
        parent: process id of the program.
    """
    from joblib.externals.loky import process_executor

    end_with_parent(parent)
    # joblib takes a worker for a leaking one, and starts another in its place, where it holds 300 MB more than after
    # its first task. Ours do and leak nothing: torch is imported for a later task than the first, and a training keeps
    # what it frees. Without this count of bytes, joblib collects garbage between tasks instead
    process_executor._USE_PSUTIL = False


def _tie_workers() -> None:
    """Have all processes that joblib will start for this program end with it."""
    joblib = sys.modules.get("joblib")
    # a program that has not imported it starts none
    if joblib is not None:
        joblib.parallel_config("loky", initializer=begin_worker, initargs=(os.getpid(),))


# what the programs that run, one within the other at most, leave when they end
_open: list[ExitStack] = []


def until_end(context: AbstractContextManager[T]) -> T:
    """Enter a context that the running program leaves when it ends, however it does; returns what it yields."""
    return _open[-1].enter_context(context)


def _ran_out(error: Exception) -> str | None:
    """The sentence for an error that is a full disk, or memory that ran out; None for another."""
    if shortage.is_disk_full(error):
        path = getattr(error, "filename", None)
        written = f": {path} could not be written" if path else ""
        return f"the disk is full{written}; free some space and run the same command again, what is finished is kept."
    if shortage.is_out_of_memory(error):
        words = shortage.detail(error)
        return (
            f"memory ran out{f' ({words})' if words else ''}: end what else runs and run the same command again to go "
            "on from here, with fewer --jobs or a smaller --batch where it takes them."
        )
    return None


def program(main: Callable[P, None]) -> Callable[P, None]:
    """Decorate a program's `main`: a `UserError`, a refused system call, a full disk, memory that ran out or a killed
    process becomes one line and exit status 1.

    Ctrl-C exits with 130, a closed pipe with 141, as a shell would report them. One that succeeds says on standard
    error how long it took, where it is what the process was started for.
    """

    @functools.wraps(main)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        _keep_opencv_to_its_threads()
        _tie_workers()
        try:
            with ExitStack() as stack:
                _open.append(stack)
                stack.callback(_open.remove, stack)
                main(*args, **kwargs)
        except UserError as error:
            named = inspect.signature(main).bind(*args, **kwargs).arguments
            sys.exit(f"error: {plain(completed(str(error), named))}")
        except BrokenPipeError:
            # the reader has gone; keep the interpreter from complaining again when it flushes at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except BrokenProcessPool:
            sys.exit(
                "error: a process was killed, most often for want of memory: run the same command again to go on from "
                "here, with fewer --jobs where it takes them"
            )
        except Exception as error:
            if sentence := _ran_out(error):
                sys.exit(plain(f"error: {sentence}"))
            if not isinstance(error, OSError):
                raise
            path = f": {error.filename}" if error.filename else ""
            sys.exit(plain(f"error: {error.strerror or error}{path}"))
        except KeyboardInterrupt:
            print("interrupted: run the same command again to go on from here", file=sys.stderr)
            sys.exit(130)
        if name := _name_of_command(main.__module__):
            print(f"{name} took {duration(time.monotonic() - _STARTED)}", file=sys.stderr)

    return wrapper
