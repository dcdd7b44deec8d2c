"""Pixel loops of blending: where networks disagree, and what any weighting of them scores there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kernels import pixel_code
from kernels.compiled import compiled

Array = np.ndarray

# pixels weighted at a time: two such rows of float32 stay in the first-level cache
_BLOCK_PX = 2048


@compiled
def _survey(planes: Array, truth: Array, low: Any, high: Any) -> tuple[int, int, int, Array]:
    """Count the agreed pixels; returns their (intersection, predicted), all truth, and the open pixels a row."""
    members, height, width = planes.shape
    open_px = np.zeros(height, np.int64)
    intersection = 0
    predicted = 0
    true = 0
    lowest = np.empty(width, np.float32)
    highest = np.empty(width, np.float32)
    for y in range(height):
        lowest[:] = planes[0, y]
        highest[:] = planes[0, y]
        for m in range(1, members):
            row = planes[m, y]
            for x in range(width):
                lowest[x] = min(lowest[x], row[x])
                highest[x] = max(highest[x], row[x])
        row_truth = truth[y]
        inside = 0
        common = 0
        foreground = 0
        undecided = 0
        for x in range(width):
            t = row_truth[x]
            above = lowest[x] > high
            below = highest[x] <= low
            foreground += t
            inside += above
            common += above & t
            undecided += not (above | below)
        true += foreground
        predicted += inside
        intersection += common
        open_px[y] = undecided
    return intersection, predicted, true, open_px


@compiled
def _collect(planes: Array, truth: Array, low: Any, high: Any, open_px: Array) -> tuple[Array, Array]:
    """The logits (members, D) and truths (D,) of the open pixels, in row-major order."""
    members, height, width = planes.shape
    total = open_px.sum()
    logits = np.empty((members, total), np.float32)
    truths = np.empty(total, np.uint8)
    at = 0
    for y in range(height):
        if open_px[y] == 0:
            continue
        for x in range(width):
            lowest = planes[0, y, x]
            highest = lowest
            for m in range(1, members):
                lowest = min(lowest, planes[m, y, x])
                highest = max(highest, planes[m, y, x])
            if not (lowest > high or highest <= low):
                for m in range(members):
                    logits[m, at] = planes[m, y, x]
                truths[at] = truth[y, x]
                at += 1
    return logits, truths


@compiled
def _open_counts(logits: Array, truths: Array, weights: Array, thresholds: Array, out: Array) -> None:
    members, count = logits.shape
    total = np.empty(_BLOCK_PX, np.float32)
    for start in range(0, count, _BLOCK_PX):
        stop = min(start + _BLOCK_PX, count)
        length = stop - start
        for w in range(len(weights)):
            # many thresholds of one weighting are tried one after the other
            if w == 0 or (weights[w] != weights[w - 1]).any():
                total[:length] = 0
                for m in range(members):
                    weight = weights[w, m]
                    if weight != 0:
                        row = logits[m, start:stop]
                        for x in range(length):
                            total[x] += weight * row[x]
            threshold = thresholds[w]
            common = 0
            predicted = 0
            for x in range(length):
                inside = total[x] > threshold
                predicted += inside
                common += inside & truths[start + x]
            out[w, 0] += common
            out[w, 1] += predicted


@compiled
def _weighted_sums(planes: Array, weights: Array, out: Array) -> None:
    members, count = planes.shape
    for start in range(0, count, _BLOCK_PX):
        stop = min(start + _BLOCK_PX, count)
        for w in range(len(weights)):
            total = out[w, start:stop]
            total[:] = 0
            for m in range(members):
                weight = weights[w, m]
                if weight != 0:
                    row = planes[m, start:stop]
                    for x in range(len(total)):
                        total[x] += weight * row[x]


def weighted_sums(planes: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Several weighted sums of planes, each product and each sum rounded in float32, in the planes' order.

    Args:
        planes: M of (h, w) float32.
        weights: (W, M) float32.

    Returns:
        (W, h, w) float32.
    """
    stack = np.stack(planes)
    out = np.empty((len(weights), *stack.shape[1:]), np.float32)
    _weighted_sums(stack.reshape(len(stack), -1), weights, out.reshape(len(out), -1))
    return out


def disagreement(
    planes: np.ndarray, truth: np.ndarray, *, low: float = 0.0, high: float = 0.0
) -> tuple[tuple[int, int, int], np.ndarray, np.ndarray]:
    """Split a frame into pixels that every convex blend decides alike and those that depend on the weights.

    Where all networks' logits are above `high`, so is every convex combination of them; where all are at most `low`,
    likewise. So for any threshold from `low` to `high` only the remaining, open pixels matter.

    Args:
        planes: (M, H, W) float32, C-contiguous: each network's logits at full size; not modified.
        truth: (H, W) bool.
        low, high: the range of thresholds that the result serves.

    Returns:
        (intersection_px, predicted_px, truth_px): of the agreed pixels, those in prediction and truth, those in the
        prediction; and the truth's whole area. Then the open pixels' logits (M, D) float32 and truth (D,) uint8.

    Raises:
        ValueError: shapes do not fit, or `low` is above `high`.
    """
    if planes.ndim != 3 or planes.dtype != np.float32 or truth.shape != planes.shape[1:] or truth.dtype != bool:
        raise ValueError(f"planes {planes.shape} {planes.dtype} and truth {truth.shape} {truth.dtype} do not fit")
    if low > high:
        raise ValueError(f"low {low} is above high {high}")
    planes, ones = np.ascontiguousarray(planes), np.ascontiguousarray(truth).view(np.uint8)
    intersection, predicted, true, open_px = _survey(planes, ones, np.float32(low), np.float32(high))
    logits, truths = _collect(planes, ones, np.float32(low), np.float32(high), open_px)
    return (int(intersection), int(predicted), int(true)), logits, truths


def open_counts(
    logits: np.ndarray,
    truths: np.ndarray,
    weights: np.ndarray,
    thresholds: np.ndarray,
    scales: np.ndarray | None = None,
) -> np.ndarray:
    """What weightings select among open pixels.

    Args:
        logits: (M, D) float32 and truths (D,) uint8 0/1, from `disagreement`; or int8 codes of the logits.
        weights: (W, M) float32, one weighting a row.
        thresholds: (W,) float32; selected is what is strictly above.
        scales: (D,) uint8, those of the codes (`kernels.pixel_code.encode`); None where `logits` are logits.

    Returns:
        (W, 2) int64: selected pixels that are true, selected pixels.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    if (
        logits.ndim != 2
        or truths.shape != logits.shape[1:]
        or weights.ndim != 2
        or weights.shape[1] != logits.shape[0]
        or thresholds.shape != weights.shape[:1]
    ):
        raise ValueError(
            f"logits {logits.shape}, truths {truths.shape}, weights {weights.shape} and thresholds "
            f"{thresholds.shape} do not fit"
        )
    if logits.dtype != (np.float32 if scales is None else np.int8) or truths.dtype != np.uint8:
        raise ValueError(f"logits {logits.dtype} and truths {truths.dtype} must be float32, or int8 codes, and uint8")
    out = np.zeros((len(weights), 2), np.int64)
    if scales is None:
        _open_counts(logits, truths, weights.astype(np.float32), thresholds.astype(np.float32), out)
        return out
    pixel_code.code_counts(logits, scales, truths, weights.astype(np.float32), thresholds.astype(np.float32), out)
    return out
