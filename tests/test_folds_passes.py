"""Passes over many images in processes: in order, a few parts ahead, and over when one fails.

That the processes end with the program, tests/test_folds_train.py tells.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from command_line import UserError
from folds.parallel import cut, in_parallel


def _squares(numbers: range) -> tuple[int, list[int]]:
    # the first parts take the longest
    time.sleep(max(0, 3 - numbers.start) * 0.05)
    return os.getpid(), [number * number for number in numbers]


@pytest.mark.parametrize(("few", "beside"), [(11, False), (10, True)])
def test_results_come_in_order_and_of_few_without_another_process(few: int, beside: bool) -> None:
    found = list(in_parallel(_squares, cut(range(11), 3), 11, label="square", few=few, jobs=2))
    assert [number for _, part in found for number in part] == [number * number for number in range(11)]
    assert (os.getpid() in {process for process, _ in found}) != beside


def test_of_nothing_there_is_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(in_parallel(_squares, [], 0, label="square")) == []
    assert capsys.readouterr() == ("", "")


def _fails(folder: Path, part: range) -> None:
    if part.start == 1:
        raise UserError("the second cannot be used: leave it out.")
    (folder / str(part.start)).touch()
    time.sleep(0.1)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_part_that_fails_ends_the_pass_at_once(tmp_path: Path, jobs: int) -> None:
    taken = []

    def parts() -> Iterator[range]:
        for part in cut(range(400), 1):
            taken.append(part)
            yield part

    with pytest.raises(UserError, match="the second cannot be used"):
        list(in_parallel(partial(_fails, tmp_path), parts(), 400, label="fail", jobs=jobs))
    assert len(taken) < 40 and len(list(tmp_path.iterdir())) < 40


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("output", [_Terminal(), io.StringIO()])
def test_the_bar_has_a_unit_and_a_rate_and_is_for_terminals(
    output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", output)
    list(in_parallel(len, cut("ten images", 4), 10, label="look", unit="mask", jobs=1))
    shown = output.getvalue().rpartition("\r")[2]
    assert ("look: 100%" in shown and "10/10" in shown and "mask/s" in shown) if output.isatty() else shown == ""
