"""Values of single pixels, averaged with those of their neighbours that have one too."""

from __future__ import annotations

import numpy as np

from kernels.compiled import compiled

Array = np.ndarray


@compiled
def _smooth(places: Array, values: Array, rows: Array, columns: Array, out: Array) -> None:
    height, width = places.shape
    for p in range(len(values)):
        total, much = np.float32(0), np.float32(0)
        for dy in range(-1, 2):
            y = rows[p] + dy
            if y < 0 or y >= height:
                continue
            for dx in range(-1, 2):
                x = columns[p] + dx
                if x < 0 or x >= width or places[y, x] < 0:
                    continue
                weight = np.float32((2 - abs(dy)) * (2 - abs(dx)))
                total += weight * values[places[y, x]]
                much += weight
        out[p] = total / much


def smoothed(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mean over each pixel's eight neighbours and itself, as far as they have a value, by the weights 1, 2, 1.

    Args:
        values: (P,) float32.
        rows, columns: (P,) int64: the pixel that each belongs to, none twice.
        size: (H, W) of the frame.

    Returns:
        (P,) float32.

    >>> smoothed(np.float32([0, 3]), np.array([1, 1]), np.array([0, 1]), (2, 3)).tolist()
    [1.0, 2.0]
    """
    places = np.full(size, -1, np.int32)
    places[rows, columns] = np.arange(len(values), dtype=np.int32)
    out = np.empty(len(values), np.float32)
    _smooth(places, np.ascontiguousarray(values, np.float32), rows, columns, out)
    return out
