import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.blend import disagreement, open_counts


def case(seed: int, members: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    # few distinct values, so that ties with the threshold happen
    planes = rng.integers(-3, 4, (members, height, width)).astype(np.float32) / 2
    return planes, rng.random((height, width)) > 0.5


@given(
    seed=st.integers(0, 10**6),
    members=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    band=st.sampled_from([(0.0, 0.0), (-0.5, 0.5), (0.5, 0.5), (-1.0, 0.0)]),
)
def test_counts_of_any_convex_blend_are_those_of_brute_force(
    seed: int, members: int, height: int, width: int, band: tuple[float, float]
) -> None:
    planes, truth = case(seed, members, height, width)
    rng = np.random.default_rng(seed)
    # halves and quarters: sums are exact in float32 in any order
    weights = rng.multinomial(4, np.ones(members) / members, size=6).astype(np.float32) / 4
    thresholds = rng.uniform(*band, 6).astype(np.float32)
    (intersection, predicted, true), logits, truths = disagreement(planes, truth, low=band[0], high=band[1])
    counts = open_counts(logits, truths, weights, thresholds)
    assert true == truth.sum()
    for w, threshold, (more_common, more) in zip(weights, thresholds, counts, strict=True):
        mask = np.tensordot(w, planes, 1) > threshold
        assert predicted + more == mask.sum()
        assert intersection + more_common == (mask & truth).sum()


def test_networks_that_agree_everywhere_leave_nothing_open() -> None:
    planes = np.stack([np.full((4, 5), 2.0, np.float32), np.full((4, 5), 7.0, np.float32)])
    agreed, logits, truths = disagreement(planes, np.ones((4, 5), bool))
    assert agreed == (20, 20, 20)
    assert logits.shape == (2, 0)
    assert truths.shape == (0,)


def test_more_open_pixels_than_a_block() -> None:
    planes, truth = case(0, 3, 97, 61)
    _, logits, truths = disagreement(planes, truth)
    assert logits.shape[1] > 2048
    weights = np.full((1, 3), 0.25, np.float32)
    expected = logits.sum(0) / 4 > 0.125
    counts = open_counts(logits, truths, weights, np.array([0.125], np.float32))
    assert counts.tolist() == [[int((expected & (truths == 1)).sum()), int(expected.sum())]]


def test_bad_arguments_are_refused() -> None:
    planes, truth = case(0, 2, 4, 5)
    for bad in ((planes[:, :3], truth), (planes.astype(np.float64), truth), (planes, truth.astype(np.uint8))):
        with pytest.raises(ValueError, match="do not fit"):
            disagreement(*bad)
    with pytest.raises(ValueError, match="above"):
        disagreement(planes, truth, low=1, high=0)
    _, logits, truths = disagreement(planes, truth)
    with pytest.raises(ValueError, match="do not fit"):
        open_counts(logits, truths, np.ones((1, 3), np.float32), np.zeros(1, np.float32))
    with pytest.raises(ValueError, match="float32"):
        open_counts(logits.astype(np.float64), truths, np.ones((1, 2), np.float32), np.zeros(1, np.float32))
