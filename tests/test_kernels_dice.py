import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kernels import dice
from kernels.rle import encode, encode_text
from tests import naive

sizes = st.tuples(st.integers(1, 20), st.integers(1, 60))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of one shape; the second sometimes the first, shifted by some pixels."""
    a = draw(hnp.arrays(bool, sizes))
    if draw(st.booleans()):
        return a, np.roll(a, draw(st.integers(-70, 70)))
    return a, draw(hnp.arrays(bool, a.shape))


@given(pairs())
def test_masks_and_runs_agree_with_the_obvious_count(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    expected = naive.counts(a, b)
    assert dice.counts(a, b) == expected
    assert dice.counts(a.astype(np.uint8), b) == expected
    assert dice.counts(np.asfortranarray(a), b[::-1][::-1]) == expected
    assert dice.dice(a, b) == dice.from_counts(expected) == naive.dice(a, b)
    for order in ("row", "column"):
        runs_a, runs_b = encode(a, order=order), encode(b, order=order)
        assert dice.counts_runs(runs_a, runs_b) == expected
        assert dice.from_counts(dice.counts_runs(runs_a, runs_b)) == naive.dice(a, b)


@given(pairs())
def test_dice_is_symmetric_and_bounded(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    assert dice.dice(a, b) == dice.dice(b, a)
    assert 0 <= dice.dice(a, b) <= 1
    assert dice.dice(a, a) == 1
    assert dice.from_counts(dice.counts_runs(encode(a), encode(a))) == 1
    if a.any():
        assert dice.dice(a, ~a) == 0


@given(pairs(), st.sampled_from([np.float16, np.float32, np.float64]), st.floats(-2, 2), st.integers(0, 1000))
def test_logits_against_runs(pair: tuple[np.ndarray, np.ndarray], dtype: Any, threshold: float, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-3, 4, pair[0].shape)
    logits = (pair[0] * 2.0 - 1 + noise).astype(dtype)
    logits[0, 0] = np.nan
    # in the wide type, so that the threshold is not rounded
    mask = logits.astype(np.float64) > threshold
    truth = encode(pair[1])
    assert dice.counts_logits_runs(logits, truth, threshold=threshold) == naive.counts(mask, pair[1])


@pytest.mark.parametrize("length", [1, 254, 255, 256, 510, 511, 70000])
def test_narrow_sums_do_not_overflow(length: int) -> None:
    ones = np.ones((1, length), bool)
    assert dice.counts(ones, ones) == (length, length, length)
    assert dice.counts(ones, ~ones) == (0, length, 0)


def test_empty_masks() -> None:
    empty, full = np.zeros((3, 4), bool), np.ones((3, 4), bool)
    none = encode(empty)
    assert dice.dice(empty, empty) == dice.from_counts(dice.counts_runs(none, none)) == 1
    assert dice.dice(empty, full) == dice.from_counts(dice.counts_runs(none, encode(full))) == 0
    assert dice.counts_logits_runs(np.full((3, 4), -1, np.float32), none) == (0, 0, 0)
    assert dice.counts_logits_runs(np.full((3, 4), 1, np.float32), none) == (0, 12, 0)


def test_touching_runs_count_once() -> None:
    split = np.array([[1, 2], [3, 4], [8, 1]])
    whole = np.array([[1, 6], [8, 1]])
    assert dice.counts_runs(split, whole) == (7, 7, 7)
    assert dice.counts_runs(whole, split) == (7, 7, 7)


def test_bad_arguments_are_refused() -> None:
    two = np.zeros((2, 2), bool)
    with pytest.raises(ValueError, match="cannot be compared"):
        dice.counts(two, np.zeros((2, 3), bool))
    with pytest.raises(ValueError, match="0 and 1 only"):
        dice.counts(two, np.full((2, 2), 255, np.uint8))
    with pytest.raises(ValueError, match="bool"):
        dice.counts(two, np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="shape"):
        dice.from_counts(dice.counts_runs(np.array([1, 2]), np.array([[1, 2]])))
    with pytest.raises(ValueError, match="floats"):
        dice.counts_logits_runs(np.zeros((2, 2), np.int16), encode(two))
    for runs in ([[4, 2]], [[0, 1]]):
        with pytest.raises(ValueError, match="within a frame of 4"):
            dice.counts_logits_runs(np.zeros((2, 2), np.float32), np.array(runs))


def handful() -> None:
    """What is run without the compiler too."""
    rng = np.random.default_rng(0)
    for size in ((1, 1), (4, 5), (3, 200)):
        a, b = rng.random(size) > 0.4, rng.random(size) > 0.5
        expected = naive.counts(a, b)
        assert dice.counts(a, b) == expected
        assert dice.counts_runs(encode(a), encode(b)) == expected
        assert dice.counts_logits_runs(a.astype(np.float32), encode(b)) == expected
        assert encode_text(a) == naive.text(naive.encode(a))


def test_the_loops_are_right_without_the_compiler() -> None:
    handful()
    code = "import numba; assert numba.config.DISABLE_JIT; from tests.test_kernels_dice import handful; handful()"
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
