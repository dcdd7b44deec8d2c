"""A disk that takes no more, as the system itself says it; importing this takes no time."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT_BYTES = 16384


@contextmanager
def no_room(limit_bytes: int = LIMIT_BYTES) -> Iterator[None]:
    """No file can grow above a limit: the system refuses as it does on a full disk, with another number.

    Args:
        limit_bytes: of every file that this process writes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = sys.dont_write_bytecode
    # Python 3.11 keeps the bytecode of what is imported here though half of it was refused, for every process after
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = before
