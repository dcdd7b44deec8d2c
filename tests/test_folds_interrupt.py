"""Ctrl-C during a training: after the batch that it comes in, and at once when it comes again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import UserError
from folds.fold import run_fold
from folds.inputs import Inputs
from folds.interrupt import InterruptBetweenBatches
from folds.task import FoldTask
from tests.tiny_folds import QUICK, TINY, maker, train_in_child

ROOT = Path(__file__).parent.parent


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


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        # of a process that loads images, and of the server that starts it
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), KeyboardInterrupt),
        (EOFError("unexpected EOF"), KeyboardInterrupt),
        (UserError("diverged"), UserError),
        (SystemExit(1), SystemExit),
    ],
)
def test_what_fails_since_it_ended_other_processes_is_no_fault(error: BaseException, raised: type) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(raised), InterruptBetweenBatches():
            signal.raise_signal(signal.SIGINT)
            raise error
        with pytest.raises(type(error)), InterruptBetweenBatches():
            raise error
    finally:
        signal.signal(signal.SIGINT, before)


def test_nobody_need_read_what_it_says() -> None:
    # as where it ends `tee`, too, which the messages go to
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    reader, writer = os.pipe()
    os.close(reader)
    messages = os.dup(2)
    os.dup2(writer, 2)
    reached = False
    try:
        with pytest.raises(KeyboardInterrupt), InterruptBetweenBatches():
            signal.raise_signal(signal.SIGINT)
            reached = True
    finally:
        os.dup2(messages, 2)
        os.close(messages)
        os.close(writer)
        signal.signal(signal.SIGINT, before)
    assert reached


def test_a_second_one_ends_the_process(ellipses: Path, tmp_path: Path) -> None:
    task, _ = interrupted(maker(ellipses, tmp_path)(TINY, QUICK), 3, times=2)
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=train_in_child, args=(task,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGINT


@pytest.mark.parametrize(("times", "status"), [(1, 130), (2, -signal.SIGINT)])
def test_a_terminal_sends_it_to_loading_processes_too(times: int, status: int, ellipses: Path, tmp_path: Path) -> None:
    flags = (
        f"--variant unet-mobilenetv3 --fold 0 --folds 3 --batch 4 --epochs 500 --jobs 1 --workers 1 --data {ellipses}"
    )
    command = [sys.executable, "-m", "folds.train", *flags.split(), "--runs", str(tmp_path / "runs")]
    begin = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, preexec_fn=begin, **pipes) as process:
        assert process.stdout is not None
        while "epoch 1/" not in process.stdout.readline():
            assert process.poll() is None
        for _ in range(times):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.05)
        # it is closed when the last process has ended
        told = process.communicate(timeout=60)[0]
    assert process.returncode == status
    assert ("interrupted: run the same command again" in told) == (times == 1)
    assert "memory" not in told


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
