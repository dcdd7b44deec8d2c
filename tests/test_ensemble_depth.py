"""The weighted mean of depth against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from ensemble.depth import Moments


def some(count: int = 12) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Three networks: two with errors of their own, a bad one."""
    rng = np.random.default_rng(1)
    truths = [rng.random((9, 7)) for _ in range(count)]
    scales = np.array([0.1, 0.15, 0.6])[:, None, None]
    return [t + scales * rng.normal(size=(3, 9, 7)) for t in truths], truths


def test_the_rmse_of_any_weights_is_that_of_the_maps() -> None:
    maps, truths = some()
    moments = Moments.of(maps, truths)
    for weights in ([1, 0, 0], [0.2, 0.5, 0.3], [1 / 3] * 3):
        mixed = [np.tensordot(weights, m, 1) for m in maps]
        expected = [np.sqrt(np.mean((m - t) ** 2)) for m, t in zip(mixed, truths, strict=True)]
        np.testing.assert_allclose(moments.rmse(np.array(weights)), expected)


def test_the_fit_is_the_best_of_the_simplex() -> None:
    moments = Moments.of(*some())
    weights = moments.fit()
    assert weights.sum() == pytest.approx(1) and weights.min() >= 0
    steps = np.linspace(0, 1, 41)
    brute = min(moments.rmse(np.array([a, b, 1 - a - b])).mean() for a in steps for b in steps if a + b <= 1)
    assert moments.rmse(weights).mean() <= brute + 1e-9
    # inverse to the variances, as errors are independent
    np.testing.assert_allclose(weights[:2], [0.68, 0.30], atol=0.05)


def test_no_image_has_a_say_in_its_own_weights() -> None:
    maps, truths = some()
    fold = np.arange(12) % 3
    moments = Moments.of(maps, truths)
    nested = moments.nested(fold)
    # images of one fold spoiled: the weights that they are scored with stay
    spoiled = [m[::-1] if f == 0 else m for m, f in zip(maps, fold, strict=True)]
    weights = moments.at(fold != 0).fit()
    np.testing.assert_allclose(
        Moments.of(spoiled, truths).nested(fold)[fold == 0],
        Moments.of(
            [m for m, f in zip(spoiled, fold, strict=True) if f == 0],
            [t for t, f in zip(truths, fold, strict=True) if f == 0],
        ).rmse(weights),
        atol=1e-6,
    )
    np.testing.assert_allclose(nested[fold == 0], moments.at(fold == 0).rmse(weights))
