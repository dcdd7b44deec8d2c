"""Logits become the text of the mask that double precision would make of them, whatever type holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from competition import Order
from kernels.rle import encode_logits_text, encode_text

ORDERS: tuple[Order, ...] = ("row", "column")
FLOATS = (np.float16, np.float32, np.float64)
INTEGERS = (np.int8, np.int16, np.uint8, np.uint16)


def special(dtype: Any) -> list[float]:
    """Values around which thresholds go wrong."""
    if np.issubdtype(dtype, np.integer):
        whole = np.iinfo(dtype)
        return [float(v) for v in (whole.min, whole.min + 1, 0, 1, 5, 6, whole.max - 1, whole.max)]
    info = np.finfo(dtype)
    tiny = [float(info.smallest_subnormal), float(info.tiny)]
    values = [0.0, 0.1, 0.5, 1 / 3, 1.0, float(info.max), *tiny, float(np.nextafter(dtype(0.5), dtype(1)))]
    return [*values, *(-v for v in values), np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_logits_at_every_special_value_and_threshold(dtype: Any) -> None:
    values = special(dtype)
    rng = np.random.default_rng(0)
    logits = rng.permutation(np.array(values * 40)).astype(dtype).reshape(-1, len(values))
    thresholds = [*values, 0.25, 5.5, -1e-300, 1e-300, -1e9, 1e9, 1e300, -1e300, np.inf, -np.inf]
    for threshold in thresholds:
        if np.isnan(threshold):
            continue
        for order in ORDERS:
            with np.errstate(invalid="ignore"):
                # in the wide type, so that the threshold is not rounded
                mask = logits.astype(np.float64) > threshold
            assert encode_logits_text(logits, threshold=threshold, order=order) == encode_text(mask, order=order), (
                threshold
            )


@given(
    hnp.arrays(np.float16, st.tuples(st.integers(1, 20), st.integers(1, 40))),
    st.floats(-70000, 70000, allow_nan=False),
    st.sampled_from(ORDERS),
)
@example(np.array([[-0.0, 0.0, np.nan]], np.float16), -0.0, "row")
def test_half_precision_agrees_with_double(logits: np.ndarray, threshold: float, order: Order) -> None:
    mask = logits.astype(np.float64) > threshold
    assert encode_logits_text(logits, threshold=threshold, order=order) == encode_text(mask, order=order)


def test_every_half_precision_number_against_its_neighbours() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    for threshold in every.astype(np.float64).ravel()[::1021]:
        if not np.isnan(threshold):
            for limit in (threshold, np.nextafter(threshold, np.inf), np.nextafter(threshold, -np.inf)):
                assert encode_logits_text(every, threshold=limit) == encode_text(every.astype(np.float64) > limit)


def test_a_threshold_that_is_no_number_is_refused() -> None:
    for dtype in (np.float16, np.float32, np.int16):
        with pytest.raises(ValueError, match="threshold"):
            encode_logits_text(np.zeros((2, 2), dtype), threshold=np.nan)
