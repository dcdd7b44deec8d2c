"""The decorator of all compiled loops, and where their machine code is kept between processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])

_HERE = Path(__file__).parent


def _cache_folder() -> Path | None:
    """Where to keep machine code if numba's own choice, `__pycache__` beside the source, cannot be written to."""
    if os.environ.get("NUMBA_CACHE_DIR") or os.access(_HERE, os.W_OK):
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (home / "mask-kernels", Path(tempfile.gettempdir()) / f"mask-kernels-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return None


_folder = _cache_folder()
if _folder is not None:
    # read by numba when it is asked to cache a function, which is later than this
    numba.config.CACHE_DIR = str(_folder)  # type: ignore[attr-defined]


def compiled(function: F) -> F:
    """Compile a loop at its first call.

    It lets go of the interpreter lock, so threads scale, and its machine code is kept on disk, so that a second
    process starts fast. With NUMBA_DISABLE_JIT=1 the function runs as plain Python.
    """
    result: Any = numba.njit(nogil=True, cache=True)(function)
    dispatcher: F = result
    return dispatcher


def fused(function: F) -> F:
    """As `compiled`; a product that is added to something is rounded once with it, where the processor can."""
    result: Any = numba.njit(nogil=True, cache=True, fastmath={"contract"})(function)
    dispatcher: F = result
    return dispatcher


def inlined(function: F) -> F:
    """Compile a small function into each loop that calls it.

    A call that hands over arrays costs some hundred nanoseconds, which the compiler does not always spare by itself.
    """
    result: Any = numba.njit(inline="always")(function)
    dispatcher: F = result
    return dispatcher
