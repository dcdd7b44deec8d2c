import numpy as np
import pytest

from ensemble.voting import (
    LINEAR,
    VOTES,
    combination_of,
    geometric_mean_probability,
    majority_vote,
    mean_probability,
    vote_mask,
)
from models.frame import Frame
from tests import naive_ensemble as naive

FULL = (64, 95)


def planes(frames: list[Frame]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=frame.size).astype(np.float32) for frame in frames]


def test_summing_before_going_to_full_size_equals_summing_after() -> None:
    frames = [Frame((16, 24)), Frame((16, 24)), Frame((32, 48)), Frame((64, 96), "pad")]
    logits, weights = planes(frames), [0.1, 0.2, 0.3, 0.4]
    each = sum(w * f.invert(p, FULL) for w, f, p in zip(weights, frames, logits, strict=True))
    np.testing.assert_allclose(LINEAR(logits, frames, weights, FULL), each, atol=1e-5)


def test_weight_zero_leaves_a_network_out_and_arguments_alone() -> None:
    frames = [Frame((16, 24)), Frame((16, 24))]
    logits = planes(frames)
    before = [p.copy() for p in logits]
    alone = LINEAR(logits[:1], frames[:1], [1.0], FULL)
    np.testing.assert_array_equal(LINEAR([logits[0], logits[1] * np.nan], frames, [1.0, 0.0], FULL), alone)
    np.testing.assert_array_equal(logits, before)
    with pytest.raises(ValueError, match="no network"):
        LINEAR(logits, frames, [0.0, 0.0], FULL)


@pytest.mark.parametrize("name", VOTES)
def test_votes_equal_the_naive_ones_pixel_by_pixel(name: str) -> None:
    rng = np.random.default_rng(1)
    same = [rng.normal(scale=3, size=(9, 14)).astype(np.float32) for _ in range(4)]
    weights = [0.5, 1.5, 0.0, 1.0]
    found, expected = VOTES[name](same, weights), naive.VOTES[name](same, weights)
    assert (found.dtype == bool) == (expected.dtype == bool)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_normalised_geometric_mean_is_the_mean_of_the_logits() -> None:
    frames = [Frame((8, 8))] * 3
    logits, weights = planes(frames), [0.2, 0.3, 0.5]
    foreground = geometric_mean_probability(logits, weights)
    background = geometric_mean_probability([-plane for plane in logits], weights)
    mean = LINEAR(logits, frames, weights, (8, 8))
    np.testing.assert_allclose(foreground / (foreground + background), 1 / (1 + np.exp(-mean)), atol=1e-6)


@pytest.mark.parametrize("name", [LINEAR.label, *VOTES])
def test_a_vote_of_one_network_is_its_own_full_size_mask(name: str) -> None:
    frames = [Frame((16, 24)), Frame((32, 48))]
    logits = planes(frames)
    for i, weights in enumerate(([2.0, 0.0], [0.0, 0.5])):
        alone = frames[i].invert(logits[i], FULL) > 0
        np.testing.assert_array_equal(combination_of(name)(logits, frames, weights, FULL) > 0, alone)


def test_full_size_votes_bring_every_network_to_full_size_first() -> None:
    frames = [Frame((16, 24)), Frame((16, 24)), Frame((64, 96), "pad")]
    logits, weights = planes(frames), [0.3, 0.3, 0.4]
    full = [frame.invert(plane, FULL) for frame, plane in zip(frames, logits, strict=True)]
    for name in VOTES:
        reference = naive.combined(name, full, weights) > 0
        assert ((combination_of(name)(logits, frames, weights, FULL) > 0) != reference).mean() < 1e-3, name


def test_ties_are_background_whatever_the_rounding_and_extremes_do_not_overflow() -> None:
    up, down = np.array([[1.0]], np.float32), np.array([[-1.0]], np.float32)
    assert not majority_vote([up, up, down], [0.1, 0.2, 0.3])[0, 0]
    assert majority_vote([up, up, down], [0.1, 0.21, 0.3])[0, 0]
    with np.errstate(over="raise", invalid="raise"):
        far = [np.array([[-500.0]], np.float32), np.array([[500.0]], np.float32)]
        assert mean_probability(far, [1, 1])[0, 0] == pytest.approx(0.5)
        assert geometric_mean_probability(far, [1, 1])[0, 0] == pytest.approx(0)
    for vote in VOTES.values():
        with pytest.raises(ValueError, match="at least 0"):
            vote([up, down], [1.0, -1.0])
        with pytest.raises(ValueError, match="no network"):
            vote([up], [0.0])


@pytest.mark.parametrize("vote", VOTES)
def test_the_logits_of_a_vote_have_the_sign_of_its_mask_and_the_size_of_its_probability(vote: str) -> None:
    rng = np.random.default_rng(3)
    frames = [Frame((60, 80))] * 4
    logits = [rng.normal(scale=6, size=(60, 80)).astype(np.float32) for _ in frames]
    logits[1][0] = -logits[0][0]
    weights = [0.25] * 4
    found = combination_of(vote)(logits, frames, weights, (60, 80))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found > 0, vote_mask(vote, logits, weights))
    assert np.isfinite(found).all()
    if vote == "probability":
        np.testing.assert_allclose(1 / (1 + np.exp(-found)), naive.mean_probability(logits, weights), atol=1e-5)
