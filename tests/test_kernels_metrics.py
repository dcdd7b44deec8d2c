"""Every metric of the registry: of masks, of runs, of logits and of counts it is what the slow oracle says."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from competition import COMPETITIONS
from folds.scoring import full_size_score, score_of
from kernels import dice
from kernels.metrics import DICE, METRICS, find_metric, metric_in
from kernels.rle import encode
from models.frame import frame_of
from tests import naive
from tests.tiny_folds import TINY


@pytest.fixture(params=METRICS)
def metric(request: pytest.FixtureRequest):
    return METRICS[request.param]


def masks(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Two masks that agree on most pixels, or have none."""
    rng = np.random.default_rng(seed)
    truth = rng.random((height, width)) < rng.choice([0, 0.3, 1])
    flipped = rng.random((height, width)) < rng.choice([0, 0.05, 0.2, 0.5])
    return (truth ^ flipped) & bool(rng.random() > 0.1), truth


@pytest.mark.parametrize("name", METRICS)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 11), width=st.integers(1, 13))
def test_every_metric_of_masks_runs_and_logits_is_the_oracles(name: str, seed: int, height: int, width: int) -> None:
    metric, (predicted, truth) = METRICS[name], masks(seed, height, width)
    expected = naive.METRICS[name](predicted, truth)
    assert metric.of(dice.counts(predicted, truth)) == pytest.approx(expected, abs=1e-12)
    assert metric.of(dice.counts_runs(encode(predicted), encode(truth))) == pytest.approx(expected, abs=1e-12)
    logits = np.where(predicted, 3, -2).astype(np.float32)
    assert score_of(logits, encode(truth), metric) == pytest.approx(expected, abs=1e-12)


def test_an_overlap_that_is_just_a_threshold_is_no_hit(metric) -> None:
    """0.55 and 0.95 of IoU are no binary fractions; 20 pixels hit each threshold of mean precision exactly."""
    truth = np.ones(20, bool)
    for pixels in range(21):
        predicted = np.arange(20) < pixels
        assert metric.of(dice.counts(predicted, truth)) == pytest.approx(
            naive.METRICS[metric.name](predicted, truth), abs=1e-12
        )


def test_empty_masks(metric) -> None:
    empty, full = np.zeros((3, 4), bool), np.ones((3, 4), bool)
    assert metric.of(dice.counts(empty, empty)) == metric.of(dice.counts(full, full)) == 1
    assert metric.of(dice.counts(empty, full)) == metric.of(dice.counts(full, empty)) == 0


def test_counts_of_many_images_are_scored_as_each_alone(metric) -> None:
    rng = np.random.default_rng(0)
    both = rng.integers(0, 50, (7, 5))
    predicted, true = both + rng.integers(0, 9, (7, 5)), 50 + rng.integers(0, 9, (7, 1))
    scores = metric.of_counts(both.T.copy().T, predicted, true)
    assert scores.shape == (7, 5) and scores.dtype == np.float64
    for i in range(7):
        for j in range(5):
            assert scores[i, j] == metric.of((int(both[i, j]), int(predicted[i, j]), int(true[i, 0])))
    assert metric.of_counts([], [], []).shape == (0,)


def test_dice_is_to_the_bit_what_it_was() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        both, more, other = (int(n) for n in rng.integers(0, 3_000_000, 3))
        counts = both, both + more, both + other
        assert DICE.of(counts) == dice.from_counts(counts)


def test_logits_at_a_networks_size_are_scored_at_full_size(metric) -> None:
    rng = np.random.default_rng(1)
    frame, full = frame_of(TINY), (101, 67)
    logits = rng.normal(size=TINY.size).astype(np.float32)
    truth = frame.invert(logits, full) > 0.3
    found = full_size_score(logits, frame, encode(truth), full, metric)
    assert found == pytest.approx(naive.METRICS[metric.name](frame.invert(logits, full) > 0, truth), abs=1e-12)


def test_metrics_travel_and_are_found_by_name_and_in_figures(metric) -> None:
    assert pickle.loads(pickle.dumps(metric)) is metric is find_metric(metric.name)
    assert metric_in({"worst": 0.1, metric.name: 0.3}) is metric
    with pytest.raises(ValueError, match="unknown metric 'accuracy'; known: dice, "):
        find_metric("accuracy")
    with pytest.raises(ValueError, match="no score among worst"):
        metric_in({"worst": 0.1})


@pytest.mark.parametrize("name", COMPETITIONS)
def test_every_competition_has_a_metric_of_the_registry(name: str) -> None:
    assert find_metric(COMPETITIONS[name].metric).name in naive.METRICS
