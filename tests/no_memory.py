"""Memory that runs out, as the system itself says it; importing this takes no time."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# nothing that is tried with it is small enough
LEFT_BYTES = 1 << 20


@contextmanager
def no_memory(left_bytes: int = LEFT_BYTES) -> Iterator[None]:
    """This process can map hardly any memory beyond what it has.

    Args:
        left_bytes: that it still may map.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + left_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
