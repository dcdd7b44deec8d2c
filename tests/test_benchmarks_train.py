from dataclasses import replace
from pathlib import Path

from benchmarks.train import _measure
from tests.tiny_folds import QUICK, TINY, maker


def test_both_loops_are_timed(ellipses: Path, tmp_path: Path) -> None:
    task = maker(ellipses, tmp_path)(TINY, replace(QUICK, epochs=100))
    seen = _measure(task, 4, 2)
    assert 0 < seen.bare_s < 5
    assert 0 < seen.ours_s < 5
    assert 0 < seen.ratio < 3
    # the interpreter with torch alone takes more
    assert seen.peak_bytes > 100 * 2**20
