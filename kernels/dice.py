"""Dice and intersection: of masks in one pass, of run lists without decoding, of logits against runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.compiled import compiled
from kernels.scan import rounded_down

Counts = tuple[int, int, int]


@compiled
def _mask_counts(a: np.ndarray, b: np.ndarray) -> Counts:
    both: Any = 0
    first: Any = 0
    second: Any = 0
    for start in range(0, len(a), 255):
        part_a = a[start : start + 255]
        part_b = b[start : start + 255]
        # at most 255 ones: bytes are wide enough, and narrow sums make wide vectors
        in_both: Any = np.uint8(0)
        in_a: Any = np.uint8(0)
        in_b: Any = np.uint8(0)
        for i in range(len(part_a)):
            in_both += part_a[i] & part_b[i]
            in_a += part_a[i]
            in_b += part_b[i]
        both += np.int64(in_both)
        first += np.int64(in_a)
        second += np.int64(in_b)
    return both, first, second


@compiled
def _run_counts(a: np.ndarray, b: np.ndarray) -> Counts:
    first = 0
    for i in range(len(a)):
        first += a[i, 1]
    second = 0
    for j in range(len(b)):
        second += b[j, 1]
    both = 0
    i = 0
    j = 0
    while i < len(a) and j < len(b):
        end_a = a[i, 0] + a[i, 1]
        end_b = b[j, 0] + b[j, 1]
        both += max(0, min(end_a, end_b) - max(a[i, 0], b[j, 0]))
        if end_a < end_b:
            i += 1
        else:
            j += 1
    return both, first, second


@compiled
def _above(flat: np.ndarray, threshold: Any) -> int:
    count = 0
    for i in range(len(flat)):
        count += flat[i] > threshold
    return count


@compiled
def _logits_counts(flat: np.ndarray, runs: np.ndarray, threshold: Any) -> Counts:
    both = 0
    predicted = 0
    true = 0
    at = 0
    for r in range(len(runs)):
        start = runs[r, 0] - 1
        end = start + runs[r, 1]
        predicted += _above(flat[at:start], threshold)
        both += _above(flat[start:end], threshold)
        true += runs[r, 1]
        at = end
    predicted += _above(flat[at:], threshold)
    return both, predicted + both, true


def _bytes_of(mask: np.ndarray) -> np.ndarray:
    if mask.dtype not in (np.bool_, np.uint8):
        raise ValueError(f"a mask must be bool, or uint8 of 0 and 1, not {mask.dtype}")
    if mask.dtype == np.uint8 and mask.size and mask.max() > 1:
        raise ValueError("a mask must hold 0 and 1 only: divide by 255, or compare with a threshold")
    return np.ascontiguousarray(mask).view(np.uint8).reshape(-1)


def _runs_of(runs: np.ndarray) -> np.ndarray:
    if runs.ndim != 2 or runs.shape[1] != 2:
        raise ValueError(f"runs must have the shape (R, 2), not {runs.shape}")
    return np.ascontiguousarray(runs, np.int64)


def from_counts(counts: Counts) -> float:
    """Dice of (intersection_px, a_px, b_px): 0..1; two empty masks score 1.

    >>> from_counts((1, 2, 2)), from_counts((0, 0, 0))
    (0.5, 1.0)
    """
    both, first, second = counts
    return 2 * both / (first + second) if first + second else 1.0


def counts(a: np.ndarray, b: np.ndarray) -> Counts:
    """(intersection_px, a_px, b_px) of two masks, bool or uint8 0/1 of one shape, in one pass.

    Raises:
        ValueError: shapes differ, or a mask is of another dtype or holds other values.
    """
    if a.shape != b.shape:
        raise ValueError(f"masks of shapes {a.shape} and {b.shape} cannot be compared")
    both, first, second = _mask_counts(_bytes_of(a), _bytes_of(b))
    return int(both), int(first), int(second)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two masks, 0..1; two empty masks score 1. Raises ValueError as `counts`.

    >>> dice(np.array([[1, 1, 0]], bool), np.array([[0, 1, 1]], bool))
    0.5
    """
    return from_counts(counts(a, b))


def counts_runs(a: np.ndarray, b: np.ndarray) -> Counts:
    """(intersection_px, a_px, b_px) of two run lists (R, 2), each increasing and not overlapping, without decoding.

    Raises:
        ValueError: not of the shape (R, 2).
    """
    both, first, second = _run_counts(_runs_of(a), _runs_of(b))
    return int(both), int(first), int(second)


def counts_logits_runs(logits: np.ndarray, truth_runs: np.ndarray, *, threshold: float = 0.0) -> Counts:
    """(intersection_px, predicted_px, truth_px) of thresholded logits and a true mask, in one pass, without a mask.

    Args:
        logits: (H, W) floats; predicted is what is strictly above `threshold`. NaN is background.
        truth_runs: (R, 2) integer row-major runs of the true mask, 1-based, increasing, not overlapping.

    Raises:
        ValueError: logits are no floats, or a run leaves the frame.
    """
    if not np.issubdtype(logits.dtype, np.floating):
        raise ValueError(f"logits must be floats, not {logits.dtype}")
    runs = _runs_of(truth_runs)
    if len(runs) and (runs[0, 0] < 1 or runs[-1].sum() - 1 > logits.size):
        raise ValueError(f"the runs do not lie within a frame of {logits.size} pixels")
    if logits.dtype == np.float16:
        # the compiler knows no half precision
        logits = logits.astype(np.float32)
    flat = np.ascontiguousarray(logits).reshape(-1)
    both, predicted, true = _logits_counts(flat, runs, rounded_down(threshold, logits.dtype))
    return int(both), int(predicted), int(true)
