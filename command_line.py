"""How the command-line programs start and fail: numbers in range, one sentence, no traceback. Standard library only."""

from __future__ import annotations

import functools
import inspect
import io
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ParamSpec, Protocol, TypeVar, cast, get_args, get_origin, get_type_hints

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


@dataclass(frozen=True)
class Range:
    """Which numbers an option may have: `Annotated[int, Range(1, 64)]`; `program` holds every option to its range.

    Attributes:
        low, high: the least and the greatest; no option is infinite or NaN.
        but: one between them that is none.
    """

    low: float
    high: float
    but: float | None = None

    def check(self, value: Any, flag: str) -> None:
        """UserError where a number, or one of a tuple of them, is out of range; None is no number."""
        numbers = value if isinstance(value, (tuple, list)) else [value]
        for number in numbers:
            # NaN is nowhere between
            if number is not None and (not self.low <= number <= self.high or number == self.but):
                but = "" if self.but is None else f", but not {self.but}"
                raise UserError(f"{flag} {number} is out of range: give {self.low} .. {self.high}{but}.")


def ranges_of(hint: Any) -> Iterator[Range]:
    """The ranges that a type is annotated with, at any depth."""
    if get_origin(hint) is Annotated:
        yield from (each for each in hint.__metadata__ if isinstance(each, Range))
    for part in get_args(hint):
        yield from ranges_of(part)


def _check_ranges(main: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    hints = get_type_hints(main, include_extras=True)
    for name, value in inspect.signature(main).bind(*args, **kwargs).arguments.items():
        for each in ranges_of(hints.get(name)):
            each.check(value, f"--{name.replace('_', '-')}")


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


def _command(module: str) -> str:
    """What a shell in this folder calls a program by, whatever its PATH has."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return f"{python} -m {_name_of_command(module) or module}"


def _one_line(text: str) -> str:
    """A message that stays on its line and acts on no terminal."""
    return plain(text).replace("\r", "\\r")


def _escape_what_is_not_unicode() -> None:
    """Names of files that are not UTF-8 must not end whoever prints them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


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


class Program(Protocol[P]):
    """A program's `main`.

    Attributes:
        command: what it is called by, for tyro to name it by.
    """

    command: str
    __module__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None: ...


def program(main: Callable[P, None]) -> Program[P]:
    """Decorate a program's `main`: a `UserError`, a refused system call, a full disk, memory that ran out or a killed
    process becomes one line and exit status 1. So does a number out of its `Range`, before anything else is done.

    Ctrl-C exits with 130, a closed pipe with 141, as a shell would report them. One that succeeds says on standard
    error how long it took, where it is what the process was started for.
    """

    @functools.wraps(main)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        _escape_what_is_not_unicode()
        _keep_opencv_to_its_threads()
        _tie_workers()
        try:
            _check_ranges(main, *args, **kwargs)
            with ExitStack() as stack:
                _open.append(stack)
                stack.callback(_open.remove, stack)
                main(*args, **kwargs)
        except UserError as error:
            named = inspect.signature(main).bind(*args, **kwargs).arguments
            sys.exit(f"error: {_one_line(completed(str(error), named))}")
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
                sys.exit(_one_line(f"error: {sentence}"))
            if not isinstance(error, OSError):
                raise
            path = f": {error.filename}" if error.filename else ""
            sys.exit(_one_line(f"error: {error.strerror or error}{path}"))
        except KeyboardInterrupt:
            print("interrupted: run the same command again to go on from here", file=sys.stderr)
            sys.exit(130)
        if name := _name_of_command(main.__module__):
            print(f"{name} took {duration(time.monotonic() - _STARTED)}", file=sys.stderr)

    runnable = cast("Program[P]", wrapper)
    runnable.command = _command(main.__module__)
    return runnable
