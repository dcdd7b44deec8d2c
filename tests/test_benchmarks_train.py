from dataclasses import replace
from pathlib import Path

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks import train
from tests.tiny_folds import QUICK, TINY, maker


def test_both_loops_are_timed_over_the_same_steps(
    ellipses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that counts optimiser steps: what is timed is one of them a step, and not the warm-up."""
    task = maker(ellipses, tmp_path)(TINY, replace(QUICK, epochs=100))
    done = 0

    def count(*_: object) -> None:
        nonlocal done
        done += 1

    monkeypatch.setattr(train, "_now", lambda: (3.0 * done, 2.0 * done))
    hook = register_optimizer_step_post_hook(count)
    try:
        seen = train._measure(task, 4, 2)
    finally:
        hook.remove()
    assert (seen.bare_s, seen.ours_s) == (3, 3)
    assert (seen.ratio, seen.cpu_ratio) == (1, 1)
    # two rounds of both, each with its warm-up
    assert done == 2 * 2 * (train._WARM + 4)
    assert seen.batch == QUICK.batch
    # the interpreter with torch alone takes more
    assert seen.peak_bytes > 100 * 2**20
