"""What image codecs warn of on the process's standard error, and nowhere else: libjpeg, where a stream is damaged."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from command_line import UserError

# libjpeg fills what it cannot decode with grey, says one of these, and goes on
_DAMAGE = re.compile(
    rb"^(?:Corrupt JPEG data|Premature end of JPEG|Inconsistent progression sequence|Invalid SOS parameters"
    rb"|Invalid component ID|Corrupt data)[^\n]*\n?",
    re.MULTILINE,
)
_STANDARD_ERROR = 2
_one_at_a_time = threading.Lock()


@functools.cache
def _buffer(process: int) -> IO[bytes]:
    """A file of a process's own, in memory where the system can do that: a full disk would swallow warnings."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("codec warnings"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _taken(buffer: IO[bytes]) -> bytes:
    if not os.fstat(buffer.fileno()).st_size:
        return b""
    buffer.seek(0)
    text = buffer.read()
    buffer.seek(0)
    buffer.truncate()
    return text


@contextlib.contextmanager
def refused(path: Path) -> Iterator[None]:
    """Raise UserError if a codec warns of damage while the block decodes `path`.

    Standard error is taken aside meanwhile, by one thread of the process at a time; what others write to it appears
    afterwards.
    """
    with _one_at_a_time:
        buffer = _buffer(os.getpid())
        with contextlib.suppress(ValueError, OSError):
            sys.stderr.flush()
        try:
            kept = os.dup(_STANDARD_ERROR)
        except OSError:
            # standard error is closed
            yield
            return
        os.dup2(buffer.fileno(), _STANDARD_ERROR)
        try:
            yield
        finally:
            os.dup2(kept, _STANDARD_ERROR)
            text = _taken(buffer)
            if text:
                os.write(kept, _DAMAGE.sub(b"", text))
            os.close(kept)
    if found := _DAMAGE.search(text):
        said = found[0].decode(errors="replace").strip()
        raise UserError(f"{path} is damaged ({said}): copy the file again or take it out of the folder.")
