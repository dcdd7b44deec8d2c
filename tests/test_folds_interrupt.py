"""Ctrl-C during a training: after the batch that it comes in, and at once when it comes again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from folds.fold import run_fold
from folds.inputs import Inputs
from folds.interrupt import InterruptBetweenBatches
from folds.task import FoldTask
from tests.tiny_folds import QUICK, TINY, maker, train_in_child


@dataclass
class InterruptedInputs:
    """Inputs during whose nth reading of an image Ctrl-C comes, `times` times."""

    inputs: Inputs
    at: int
    times: int = 1
    read: list[int] = field(default_factory=list)

    def image(self, position: int) -> np.ndarray:
        self.read.append(position)
        if len(self.read) == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
        return self.inputs.image(position)

    def target(self, position: int) -> np.ndarray:
        return self.inputs.target(position)


def interrupted(made: FoldTask, at: int, times: int = 1) -> tuple[FoldTask, InterruptedInputs]:
    inputs = InterruptedInputs(made.inputs, at, times)
    return replace(made, inputs=inputs, workers=0), inputs


@pytest.mark.parametrize("at", [1, 5, 9, 11, 13], ids=lambda at: f"reading {at}")
def test_the_batch_is_ended_first(at: int, ellipses: Path, tmp_path: Path) -> None:
    # an epoch reads eight images to train on and four to validate on, two a batch
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        task, inputs = interrupted(maker(ellipses, tmp_path)(TINY, replace(QUICK, epochs=3)), at)
        with pytest.raises(KeyboardInterrupt):
            run_fold(task)
        # Lightning may load the batch after this one before it hands this one on
        assert at < len(inputs.read) <= at + 3
        assert task.last_state.exists() == (at > 12)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_one_ends_the_process(ellipses: Path, tmp_path: Path) -> None:
    task, _ = interrupted(maker(ellipses, tmp_path)(TINY, QUICK), 3, times=2)
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=train_in_child, args=(task,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGINT


def test_one_after_the_last_batch_is_not_lost() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        reached = False
        with pytest.raises(KeyboardInterrupt), InterruptBetweenBatches():
            signal.raise_signal(signal.SIGINT)
            reached = True
        assert reached
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_ctrl_c_does_elsewhere_stays() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        with InterruptBetweenBatches():
            signal.raise_signal(signal.SIGINT)
        assert came == [signal.SIGINT]
        with InterruptBetweenBatches():
            # no signal can be set from there
            thread = threading.Thread(target=lambda: came.append(InterruptBetweenBatches().__enter__() is None))
            thread.start()
            thread.join()
        assert came == [signal.SIGINT, False]
    finally:
        signal.signal(signal.SIGINT, before)
