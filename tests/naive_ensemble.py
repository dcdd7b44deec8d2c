"""Slow, obvious versions of what the ensemble computes; tests compare with them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def mean_probability(planes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Weighted mean of sigmoids, pixel by pixel."""
    result = np.zeros(planes[0].shape)
    for at in np.ndindex(*result.shape):
        result[at] = sum(w / (1 + math.exp(-p[at])) for p, w in zip(planes, weights, strict=True)) / sum(weights)
    return result


def geometric_mean_probability(planes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Weighted geometric mean of sigmoids, pixel by pixel."""
    result = np.zeros(planes[0].shape)
    for at in np.ndindex(*result.shape):
        product = math.prod((1 / (1 + math.exp(-p[at]))) ** w for p, w in zip(planes, weights, strict=True))
        result[at] = product ** (1 / sum(weights))
    return result


def majority_vote(planes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Foreground where the weight for it is larger than the weight against it."""
    result = np.zeros(planes[0].shape, bool)
    for at in np.ndindex(*result.shape):
        ayes = sum(w for p, w in zip(planes, weights, strict=True) if p[at] > 0)
        noes = sum(w for p, w in zip(planes, weights, strict=True) if not p[at] > 0)
        result[at] = ayes > noes
    return result


def components(mask: np.ndarray, *, diagonal: bool) -> list[set[tuple[int, int]]]:
    """The connected components of a mask as sets of (row, column), by flood fill."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)] + ([(1, 1), (1, -1), (-1, 1), (-1, -1)] if diagonal else [])
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while left:
        waiting = [left.pop()]
        component = set(waiting)
        while waiting:
            y, x = waiting.pop()
            for dy, dx in steps:
                if (y + dy, x + dx) in left:
                    left.remove((y + dy, x + dx))
                    component.add((y + dy, x + dx))
                    waiting.append((y + dy, x + dx))
        found.append(component)
    return found
