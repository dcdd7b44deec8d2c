"""How many pixels, and how many wrong ones, lie within each width of a band around the boundary."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.compiled import compiled

Array = np.ndarray


@compiled
def _count(logits: Array, truth: Array, per_unit: Any, out: Array) -> None:
    last = len(out) - 1
    for i in range(len(logits)):
        size = abs(logits[i]) * per_unit
        band = last if size >= last else int(size)
        out[band, 0] += 1
        if (logits[i] > 0) != truth[i]:
            out[band, 1] += 1


def in_bands(logits: np.ndarray, truth: np.ndarray, *, per_unit: int, bands: int) -> np.ndarray:
    """Pixels by how near their logits are to 0.

    Args:
        logits: (H, W) float32, foreground above 0; not modified.
        truth: (H, W) bool; not modified.
        per_unit: widths a logit.
        bands: number of widths: 1, 2, ... bands, each divided by `per_unit`.

    Returns:
        (bands + 1, 2) int64: for each width, pixels below it in absolute value, and those of them on the wrong side;
        last, all pixels.

    >>> logits, truth = np.float32([[-0.3, 0.1, 5]]), np.array([[True, True, True]])
    >>> in_bands(logits, truth, per_unit=4, bands=2).tolist()
    [[1, 0], [2, 1], [3, 1]]
    """
    out = np.zeros((bands + 1, 2), np.int64)
    _count(logits.ravel(), truth.ravel(), np.float32(per_unit), out)
    return out.cumsum(0)
