"""What image codecs say of damage on the process's standard error, and nowhere else, as errors.

libjpeg fills what it cannot decode with grey, libtiff leaves it black; both write a line and go on. The other codecs
give no image.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from command_line import UserError
from models.image_header import JPEG, TIFF

T = TypeVar("T")

FORMATS = (JPEG, TIFF)
# libjpeg's, and libtiff's as OpenCV logs them; others may have written to the same line before
_DAMAGE = re.compile(
    rb"(?:\[ *(?:WARN|ERROR):[^\n]*?TIFF_(?:Warning|Error) (?:JPEGLib: )?)?"
    rb"((?:Corrupt JPEG data|Premature end of JPEG|Inconsistent progression sequence|Invalid SOS parameters"
    rb"|Invalid component ID|Corrupt data|(?<=TIFF_Error ))[^\n]*)\n?"
)
_STANDARD_ERROR = 2


def _buffer() -> int:
    """A file of no name, in memory where the system can do that: a full disk would swallow warnings."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("codec warnings")
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())


class _StandardError:
    """Standard error of this process, taken aside while any of its threads decodes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._decoding = 0
        self._waiting = 0
        self._buffer = -1
        # of the buffer, what was passed on already
        self._passed_bytes = 0
        # standard error itself; -1 while nobody decodes, or where it is closed
        self._real = -1
        self._warnings = 0
        self._latest = b""

    def _enter(self) -> int:
        """Count a decoder in; returns the warnings before it."""
        if not self._decoding:
            with contextlib.suppress(ValueError, OSError):
                sys.stderr.flush()
            if self._buffer < 0:
                self._buffer = _buffer()
            try:
                self._real = os.dup(_STANDARD_ERROR)
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
            else:
                os.dup2(self._buffer, _STANDARD_ERROR)
        self._decoding += 1
        return self._warnings

    def _leave(self, before: int) -> bytes:
        """Count it out; returns a warning that has appeared since, if any."""
        self._decoding -= 1
        if self._real >= 0:
            if not self._decoding:
                os.dup2(self._real, _STANDARD_ERROR)
            self._pass_on()
            if not self._decoding:
                os.close(self._real)
                self._real = -1
        self._changed.notify_all()
        return self._latest if self._warnings != before else b""

    def _pass_on(self) -> None:
        """Note warnings that have appeared, and write all else to where it was meant to go."""
        new_bytes = os.fstat(self._buffer).st_size - self._passed_bytes
        if not new_bytes:
            return
        text = os.pread(self._buffer, new_bytes, self._passed_bytes)
        self._passed_bytes += len(text)
        if not self._decoding:
            # nobody writes to it now
            os.ftruncate(self._buffer, 0)
            os.lseek(self._buffer, 0, os.SEEK_SET)
            self._passed_bytes = 0
        if found := _DAMAGE.search(text):
            self._warnings += 1
            self._latest = found[1]
        if others := _DAMAGE.sub(b"", text):
            # where nobody reads it any more, the image is no worse for that
            with contextlib.suppress(OSError):
                os.write(self._real, others)

    def beside_others(self, decode: Callable[[], T]) -> tuple[T, bytes]:
        """What `decode` returns, and a warning that appeared while it ran, of its own or of others; empty for none."""
        with self._changed:
            # those who want to be alone go first
            self._changed.wait_for(lambda: not self._waiting)
            before = self._enter()
        warning = b""
        try:
            result = decode()
        finally:
            with self._changed:
                warning = self._leave(before)
        return result, warning

    def alone(self, decode: Callable[[], T]) -> tuple[T, bytes]:
        """The same while no other thread decodes, so that the warning is its own."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._decoding)
            finally:
                self._waiting -= 1
            before = self._enter()
            warning = b""
            try:
                result = decode()
            finally:
                warning = self._leave(before)
            return result, warning


@functools.cache
def _standard_error(process: int) -> _StandardError:
    return _StandardError()


def undamaged(path: Path, decode: Callable[[], T]) -> T:
    """What `decode` returns; UserError if a codec warns of damage meanwhile.

    Threads decode beside each other. A line on standard error does not say whose image it is about: where one appears,
    all that were decoding decode once more, one at a time. Undamaged images cost five system calls.

    Args:
        path: the image, for the message.
        decode: decodes it, and may be called twice; it must not call this function.

    Raises:
        UserError: the image is damaged; and whatever `decode` raises.
    """
    standard_error = _standard_error(os.getpid())
    result, warning = standard_error.beside_others(decode)
    if warning:
        result, warning = standard_error.alone(decode)
    if warning:
        raise UserError(
            f"{path} is damaged ({warning.decode(errors='replace').strip()}): copy the file again or take it out of "
            "the folder; if it looks whole in a viewer, save it anew."
        )
    return result
