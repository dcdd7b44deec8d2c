"""Features of single pixels: those that the slow oracle finds, at borders and corners too, of any image."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from kernels.boundary_pixels import feature_names, pixel_features
from kernels.smoothing import smoothed
from tests.naive_pixels import naive_features


def scene(height: int, width: int, channels: int, members: int, dtype: type, seed: int) -> tuple[np.ndarray, ...]:
    """Smooth logits, those of single networks, and a noisy picture."""
    rng = np.random.default_rng(seed)
    spots = rng.normal(scale=5, size=(1 + members, 3, 4)).astype(np.float32)
    smooth = np.stack([cv2.resize(each, (width, height), interpolation=cv2.INTER_CUBIC) for each in spots])
    image: np.ndarray = rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)
    return np.ascontiguousarray(smooth[0]), smooth[1:], image


@pytest.mark.parametrize(
    ("size", "channels", "members", "dtype", "step", "unit"),
    [
        ((37, 53), 3, 0, np.uint8, 1.0, 1.0),
        ((37, 53), 3, 2, np.uint8, 3.75, 1.0),
        ((29, 131), 1, 1, np.uint8, 2.4, 0.53),
        ((61, 47), 3, 3, np.uint16, 1.37, 2.13),
        ((5, 3), 3, 0, np.uint8, 4.0, 1.0),
        ((1, 1), 1, 0, np.uint8, 1.0, 1.0),
    ],
)
def test_features_are_those_of_the_slow_oracle(
    size: tuple[int, int], channels: int, members: int, dtype: type, step: float, unit: float
) -> None:
    logits, planes, image = scene(*size, channels, members, dtype, seed=size[0])
    before = logits.copy(), planes.copy(), image.copy()
    rng = np.random.default_rng(1)
    corners = [(0, 0), (0, size[1] - 1), (size[0] - 1, 0), (size[0] - 1, size[1] - 1)]
    drawn = np.stack([rng.integers(0, side, 40) for side in size], 1)
    rows, columns = np.concatenate([corners, drawn]).T
    found = pixel_features(logits, planes, image, rows, columns, step_px=step, unit_px=unit)
    assert found.shape == (44, len(feature_names(members, channels))) and found.dtype == np.float32
    assert len(set(feature_names(members, channels))) == found.shape[1]
    expected = np.array(
        [naive_features(logits, planes, image, y, x, step, unit) for y, x in zip(rows, columns, strict=True)]
    )
    close = np.isclose(found, expected, rtol=1e-3, atol=2e-3)
    # a spot on the border of two pixels may be rounded to either in float32
    assert close.all(1).mean() > 0.85 and close.mean() > 0.995, np.flatnonzero(~close.all(0))
    for now, then in zip((logits, planes, image), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_pixels_features_do_not_depend_on_which_others_are_asked_for() -> None:
    logits, planes, image = scene(41, 67, 3, 2, np.uint8, 7)
    flat = np.arange(logits.size)
    rows, columns = np.divmod(flat, 67)
    whole = pixel_features(logits, planes, image, rows, columns, step_px=2.2)
    some = np.random.default_rng(0).permutation(flat)[:101]
    np.testing.assert_array_equal(
        pixel_features(logits, planes, image, rows[some], columns[some], step_px=2.2), whole[some]
    )
    assert np.isfinite(whole).all()
    assert len(pixel_features(logits, planes, image, rows[:0], columns[:0], step_px=2.2)) == 0


def test_constant_logits_and_pictures_give_finite_features() -> None:
    flat = np.zeros((23, 31), np.float32)
    rows, columns = np.divmod(np.arange(flat.size), 31)
    for level in (-16.0, 0.0, 16.0):
        found = pixel_features(
            flat + np.float32(level), flat[None][:0], np.full((23, 31, 3), 9, np.uint8), rows, columns, step_px=4
        )
        assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image": np.zeros((4, 5, 3), np.uint8)}, "do not fit"),
        ({"image": np.zeros((5, 5, 3), np.float32)}, "expected uint8 or uint16"),
        ({"logits": np.zeros((5, 5))}, "do not fit"),
        ({"planes": np.zeros((1, 4, 5), np.float32)}, "do not fit"),
        ({"rows": np.array([5])}, "outside"),
        ({"columns": np.array([-1])}, "outside"),
        ({"rows": np.array([1, 2])}, "do not fit"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, np.ndarray], sentence: str) -> None:
    arguments: dict[str, Any] = {
        "logits": np.zeros((5, 5), np.float32),
        "planes": np.zeros((1, 5, 5), np.float32),
        "image": np.zeros((5, 5, 3), np.uint8),
        "rows": np.array([1]),
        "columns": np.array([1]),
    }
    with pytest.raises(ValueError, match=sentence):
        pixel_features(**{**arguments, **change}, step_px=1)


def test_smoothing_is_the_mean_of_the_neighbours_that_have_a_value() -> None:
    rng = np.random.default_rng(3)
    size = (19, 31)
    band = rng.random(size) < 0.4
    values = np.where(band, rng.normal(size=size), 0).astype(np.float32)
    rows, columns = np.nonzero(band)
    weights = np.outer((1, 2, 1), (1, 2, 1)).astype(np.float64)

    def around(array: np.ndarray) -> np.ndarray:
        return cv2.filter2D(array.astype(np.float64), -1, weights, borderType=cv2.BORDER_CONSTANT)

    found = smoothed(values[band], rows, columns, size)
    np.testing.assert_allclose(found, (around(values) / np.maximum(around(band), 1))[band], rtol=1e-5, atol=1e-6)
    order = rng.permutation(len(rows))
    np.testing.assert_array_equal(smoothed(values[band][order], rows[order], columns[order], size), found[order])
    assert len(smoothed(values[:0, 0], rows[:0], columns[:0], size)) == 0
