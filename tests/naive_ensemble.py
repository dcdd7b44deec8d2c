"""Slow, obvious versions of what the ensemble computes; tests compare with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def _sum(parts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    return np.sum([part.astype(np.float64) * weight for part, weight in zip(parts, weights, strict=True)], axis=0)


def mean_probability(planes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Weighted mean of sigmoids."""
    return _sum([1 / (1 + np.exp(-plane.astype(np.float64))) for plane in planes], weights) / sum(weights)


def geometric_mean_probability(planes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Weighted geometric mean of sigmoids."""
    sigmoids = [1 / (1 + np.exp(-plane.astype(np.float64))) for plane in planes]
    powers = [sigmoid**weight for sigmoid, weight in zip(sigmoids, weights, strict=True)]
    return np.prod(powers, axis=0) ** (1 / sum(weights))


def majority_vote(planes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Foreground where the weight for it is larger than the weight against it."""
    return _sum([plane > 0 for plane in planes], weights) > _sum([~(plane > 0) for plane in planes], weights)


# by the names of ensemble.voting.VOTES
VOTES = {"probability": mean_probability, "geometric": geometric_mean_probability, "majority": majority_vote}


def combined(vote: str, planes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Logits of one size as one plane of logits, float64; those of a vote that gives a mask are infinite."""
    if vote == "logits":
        return _sum(planes, weights)
    found = VOTES[vote](planes, weights)
    return np.where(found, np.inf, -np.inf) if found.dtype == bool else np.log(found / (1 - found))


def fill_holes(mask: np.ndarray, under_px: int) -> np.ndarray:
    """With the 4-connected pieces of background that are smaller and do not touch the border."""
    labels, count = ndimage.label(~mask)
    at_border = {*labels[0], *labels[-1], *labels[:, 0], *labels[:, -1]}
    areas = np.bincount(labels.ravel())
    return mask | np.isin(labels, [k for k in range(1, count + 1) if areas[k] < under_px and k not in at_border])


def drop_islands(mask: np.ndarray, under_px: int) -> np.ndarray:
    """Without the 8-connected pieces that are smaller; the largest stays."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    limit = min(under_px, areas[1:].max(initial=0))
    return mask & ~np.isin(labels, [k for k in range(1, count + 1) if areas[k] < limit])


def repaired(mask: np.ndarray, repairs: Sequence[tuple[str, int]]) -> np.ndarray:
    """One repair after the other, each (name, size in pixels)."""
    for name, under_px in repairs:
        mask = {"fill-holes": fill_holes, "drop-islands": drop_islands}[name](mask, under_px)
    return mask


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
