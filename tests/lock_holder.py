"""A folder's lock, held by a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from folder_lock import LOCK_FILE

_HOLDER = """
import sys, time
from pathlib import Path
from folder_lock import alone_with
with alone_with(Path(sys.argv[1]), "", name=sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def held_by_another(folder: Path, name: str = LOCK_FILE) -> Iterator[subprocess.Popen[str]]:
    """While this is open, another process, which it yields, fills a folder."""
    command = [sys.executable, "-c", _HOLDER, str(folder), name]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()
