"""What a report counts and draws, against the obvious way."""

from __future__ import annotations

import numpy as np
import pytest

from report import figures as gathered
from report.pictures import error_picture, reduce
from report.scan import Scan, threshold_scores, trusted_networks


def test_threshold_curve_equals_thresholding_anew() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 50)).astype(np.float32)
    logits[0, :3] = (-1.0, 0.5, 1.0)
    truth = rng.random((40, 50)) < 0.4
    thresholds = np.array([-1.0, 0.0, 0.5, 1.0])
    for threshold, dice in zip(thresholds, threshold_scores(logits, truth, thresholds), strict=True):
        mask = logits > threshold
        assert dice == pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    nothing = np.zeros((3, 3), bool)
    assert threshold_scores(np.full((3, 3), -9, np.float32), nothing, thresholds).tolist() == [1] * 4


def test_error_correlation_is_numpys_over_all_pixels() -> None:
    errors = np.random.default_rng(0).random((3, 5000)) < 0.1
    errors[1, :2000] = errors[0, :2000]
    counts = errors.astype(np.int64)
    none = np.empty(0)
    scan = Scan(none, none, none, none, counts @ counts.T, 5000)
    np.testing.assert_allclose(scan.error_correlation(), np.corrcoef(errors), atol=1e-9)


def test_suspects_are_where_networks_agree_against_the_truth() -> None:
    agreement, best = np.array([0.99, 0.99, 0.90, 0.80]), np.array([0.995, 0.80, 0.60, 0.95])
    assert gathered.suspects(agreement, best, 6) == [2, 1]
    assert gathered.suspects(agreement, best, 1) == [2]
    assert trusted_networks(np.array([0.98, 0.97, 0.90])).tolist() == [0, 1]


def test_one_wrong_pixel_stays_visible_in_a_thumbnail() -> None:
    truth = np.zeros((1280, 1918), bool)
    truth[300:900, 400:1500] = True
    wrong = truth.copy()
    wrong[100, 100] = True
    small = reduce(error_picture(wrong, truth), 360)
    assert (small[..., 0].astype(int) - small[..., 1]).max() > 80
