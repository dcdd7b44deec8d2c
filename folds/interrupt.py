"""Ctrl-C takes effect between two batches of a training, where no lock is held.

An exception that a signal raises can come at any instruction: also where TensorBoard's writer has taken the lock of its
queue and not yet entered the block that gives it back. Lightning then ignores further signals and closes the writer,
which waits for that lock for ever.
"""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from lightning.pytorch.callbacks import Callback

from command_line import UserError


class InterruptBetweenBatches(Callback):
    """While this is entered, Ctrl-C raises KeyboardInterrupt after the batch that it comes in; a second one kills.

    Nothing changes outside the main thread, or where Ctrl-C does something else than Python's own.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._previous is not None:
            # Lightning leaves Ctrl-C ignored
            signal.signal(signal.SIGINT, self._previous)
        # a terminal's Ctrl-C also ends processes that are about to load images, which is told in many ways
        if kind is None or (issubclass(kind, Exception) and not issubclass(kind, UserError)):
            self._check()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            # states are written whole or not at all, so that nothing has to be put in order
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._asked = True
        # not through a buffer, which the interrupted code may be writing to; its reader may have ended, as `tee` does
        with suppress(OSError):
            os.write(2, b"\nstopping after this batch (Ctrl-C again: now)\n")

    def _check(self) -> None:
        if self._asked:
            raise KeyboardInterrupt

    def on_train_batch_start(self, *_: Any) -> None:
        """Stop here when asked to."""
        self._check()

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop here when asked to."""
        self._check()

    def on_validation_batch_end(self, *_: Any) -> None:
        """Stop here when asked to."""
        self._check()
