"""Weightings around a common one select what they select when each is summed alone; 8 bits keep every sign."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.blend import open_counts
from kernels.near import Near
from kernels.pixel_code import decode, encode


def around(
    rng: np.random.Generator, members: int, steps: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A sparse weighting, and many of the kinds that searches try around it, with their factors."""
    base = rng.dirichlet(np.ones(members)) * (rng.random(members) < 0.6)
    base = np.eye(members)[0] if not base.any() else base / base.sum()
    weights, factors = [], []
    for step in steps:
        for j in range(members):
            weights.append((1 - step) * base + step * np.eye(members)[j])
            factors.append(1 - step)
            giver = int(rng.choice(np.flatnonzero(base)))
            mass = min(step, base[giver])
            weights.append(base + mass * (np.eye(members)[j] - np.eye(members)[giver]))
            factors.append(1.0)
            if base[giver] < 1:
                weights.append(np.maximum(base - mass * np.eye(members)[giver], 0) / (1 - mass))
                factors.append(1 / (1 - mass))
    return base, np.array(factors), np.array(weights)


@given(
    seed=st.integers(0, 10**6), members=st.integers(2, 9), pixels=st.sampled_from([0, 1, 37, 2048, 4999]),
    halves=st.booleans(), steps=st.sampled_from([(0.5, 0.2, 0.0125), (0.05, 0.0125)]),
    threshold=st.sampled_from([0.0, 0.25, -0.5]), coded=st.booleans(),
)  # fmt: skip
def test_counts_are_those_of_each_weighting_alone(
    seed: int, members: int, pixels: int, halves: bool, steps: tuple[float, ...], threshold: float, coded: bool
) -> None:
    rng = np.random.default_rng(seed)
    logits = (2 * rng.normal(size=(members, pixels))).astype(np.float32)
    if halves:
        # sums that lie on the threshold, where rounding decides
        logits = (np.rint(2 * logits) / 2).astype(np.float32)
    truths = (rng.random(pixels) < 0.5).astype(np.uint8)
    base, factors, weights = around(rng, members, steps)
    scales = None
    if coded:
        logits, scales = encode(logits)
    alone = open_counts(logits, truths, weights, np.full(len(weights), threshold, np.float32), scales)
    found = Near.around(base, factors, weights).counts(logits, truths, threshold, scales)
    np.testing.assert_array_equal(found, alone)
    if coded:
        ranges = np.stack([logits.min(0), logits.max(0)])
        found = Near.around(base, factors, weights).counts(logits, truths, threshold, scales, ranges)
        np.testing.assert_array_equal(found, alone)


def test_weightings_that_are_not_near_are_refused() -> None:
    base = np.full(4, 0.25)
    for row in ([0.5, 0.5, 0, 0], [0.1, 0.4, 0.35, 0.15]):
        with pytest.raises(ValueError, match="one weight more and one less"):
            Near.around(base, np.ones(1), np.array([row]))


@given(seed=st.integers(0, 10**6), members=st.integers(1, 7), size=st.sampled_from([1e-4, 0.01, 3.0, 100.0]))
def test_codes_keep_signs_and_are_within_half_a_step(seed: int, members: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    logits = (size * rng.normal(size=(members, 101)).clip(-2, 2) * (rng.random((members, 101)) < 0.9)).astype(
        np.float32
    )
    codes, scales = encode(logits)
    decoded = decode(codes, scales)
    np.testing.assert_array_equal(decoded > 0, logits > 0)
    # the scale is at most 2 ** (1 / 16) of the largest, and no finer than 2 ** -8
    scale = np.maximum(np.abs(logits).max(0) * 2 ** (1 / 16), 2.0**-8)
    assert (np.abs(decoded - logits) <= scale / 256 * 1.01).all()


def test_a_network_alone_selects_the_same_in_eight_bits() -> None:
    rng = np.random.default_rng(0)
    logits, truths = rng.normal(size=(5, 3001)).astype(np.float32), (rng.random(3001) < 0.5).astype(np.uint8)
    codes, scales = encode(logits)
    alone, zero = np.eye(5, dtype=np.float32), np.zeros(5, np.float32)
    np.testing.assert_array_equal(
        open_counts(codes, truths, alone, zero, scales), open_counts(logits, truths, alone, zero)
    )


def test_eight_bits_make_masks_neither_larger_nor_smaller() -> None:
    """Ties of codes, which are frequent with few networks, are taken as above and as below in turn."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 200_001)).astype(np.float32)
    truths = (logits.sum(0) + rng.normal(size=200_001) > 0).astype(np.uint8)
    codes, scales = encode(logits)
    for weights in ([0.5, 0.5], [0.25, 0.75]):
        row, zero = np.array([weights], np.float32), np.zeros(1, np.float32)
        apart = open_counts(codes, truths, row, zero, scales)[0] - open_counts(logits, truths, row, zero)[0]
        # some 1,000 pixels lie within a code's step of the threshold
        assert np.abs(apart).max() < 100
