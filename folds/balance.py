"""Folds of groups that differ in size: balanced in images first, then in mask area and in number of groups."""

from __future__ import annotations

from itertools import combinations

import numpy as np

# folds whose numbers of images have at most this standard deviation, relative to their mean, count as equal
SLACK = 0.01
# orders in which groups are packed into folds, beside the assignment that is given
_PACKINGS = 8
# groups of a fold that one step looks at: all of them, except in splits of many hundreds
_MOST = 128
# of squared relative differences; less is no gain
_EPSILON = 1e-8


class _Assignment:
    """Groups assigned to folds, to be improved by exchanges between two folds.

    Args:
        fold: (G,) int64 fold of every group; changed in place.
        worth: (G, 3) float64: images, mask area and 1 of every group.
        folds: their number.
        limit: sum over folds of squared differences from the mean in images that is as good as 0.
    """

    def __init__(self, fold: np.ndarray, worth: np.ndarray, folds: int, limit: float) -> None:
        self.fold = fold
        self._worth = worth
        self._limit = limit * folds**2
        self._totals = np.stack([np.bincount(fold, column, folds) for column in worth.T], axis=1)
        self._images, area, groups = worth.sum(0)
        self._mean_area = area / self._images or 1.0
        self._groups = groups / folds

    def _squares(self, totals: np.ndarray) -> np.ndarray:
        # whole numbers, so no rounding: a difference that is none must never look like a gain
        return (totals[..., 0] * len(self._totals) - self._images) ** 2

    def _unevenness(self, totals: np.ndarray) -> np.ndarray:
        images, area, groups = np.moveaxis(totals, -1, 0)
        filled = groups > 0.5
        mean = np.divide(area, images, out=np.zeros_like(area), where=filled)
        uneven = (mean / self._mean_area - 1) ** 2 + (groups / self._groups - 1) ** 2
        return np.where(filled, uneven, np.inf)

    def cost(self) -> tuple[float, float]:
        """Squares in images above the limit; then unevenness in area and groups. Smaller is better, in this order."""
        squares = float(self._squares(self._totals).sum())
        return max(0.0, squares - self._limit), float(self._unevenness(self._totals).sum())

    def _exchange(self, a: int, b: int, rng: np.random.Generator) -> bool:
        """Make the best exchange between two folds, of a group each or of one against none; False if none is better."""
        pair = [a, b]
        sides = [np.flatnonzero(self.fold == k) for k in pair]
        sides = [np.sort(rng.choice(side, _MOST, replace=False)) if len(side) > _MOST else side for side in sides]
        # the last one of each side is no group
        given, taken = (np.vstack([self._worth[side], np.zeros(3)]) for side in sides)
        moved = given[:, None] - taken[None]
        first, second = self._totals[a] - moved, self._totals[b] + moved
        others = float(self._squares(self._totals).sum() - self._squares(self._totals[pair]).sum())
        excess = np.maximum(0, others + self._squares(first) + self._squares(second) - self._limit)
        uneven = self._unevenness(first) + self._unevenness(second)
        uneven[excess > excess[np.isfinite(uneven)].min()] = np.inf
        i, j = np.unravel_index(int(uneven.argmin()), uneven.shape)
        # no group against no group
        now = excess[-1, -1], float(self._unevenness(self._totals[pair]).sum())
        if not (excess[i, j] < now[0] or (excess[i, j] == now[0] and uneven[i, j] < now[1] - _EPSILON)):
            return False
        self.fold[sides[0][i : i + 1]] = b
        self.fold[sides[1][j : j + 1]] = a
        self._totals[a], self._totals[b] = first[i, j], second[i, j]
        return True

    def improve(self, rng: np.random.Generator) -> None:
        """Exchange groups until no exchange between any two folds is better."""
        pairs = list(combinations(range(len(self._totals)), 2))
        while sum(self._exchange(a, b, rng) for a, b in pairs):
            pass


def _packed(images: np.ndarray, order: np.ndarray, folds: int) -> np.ndarray:
    """Groups in some order, each into the fold with the fewest images so far, then the fewest groups."""
    fold = np.empty(len(order), np.int64)
    totals = np.zeros((folds, 2))
    for group in order:
        emptiest = int(np.lexsort((totals[:, 1], totals[:, 0]))[0])
        fold[group] = emptiest
        totals[emptiest] += (images[group], 1)
    return fold


def balance(fold: np.ndarray, images: np.ndarray, areas_px: np.ndarray, *, folds: int, seed: int) -> np.ndarray:
    """Assign groups of different sizes to folds: as equal in images as is found, and never less than as given.

    Folds whose numbers of images have a standard deviation of at most `SLACK` of their mean count as equal. Among
    assignments that are equal in this, the best is the one with the smallest sum, over folds, of squared relative
    differences from the mean in mask area an image and in number of groups.

    Several assignments are improved by exchanges of groups between two folds: the one that is given, and those that
    result from packing groups, largest first and in other orders, into the emptiest fold. So no exchange of two groups,
    and no move of one, improves the result further (where a fold has more than 128 groups, none of many that were
    tried); an exchange of several at once might.

    Args:
        fold: (G,) int64 fold of every group, every fold occurring; not modified.
        images: (G,) number of images of every group, at least 1.
        areas_px: (G,) mask area of every group, summed over its images, in pixels.
        folds: their number.
        seed: of the orders.

    Returns:
        (G,) int64 fold of every group, every fold occurring. The standard deviation of the folds' numbers of images is
        at most that of the assignment that is given.

    >>> images = np.array([400, 300, 200, 100, 40, 40, 40, 40])
    >>> fold = balance(np.arange(8) % 5, images, 1000 * images, folds=5, seed=0)
    >>> sorted(int(total) for total in np.bincount(fold, images))
    [120, 140, 200, 300, 400]
    """
    rng = np.random.default_rng(seed)
    worth = np.stack([images, areas_px, np.ones(len(images))], axis=1).astype(np.float64)
    mean = images.sum() / folds
    given = float(((np.bincount(fold, images, folds) - mean) ** 2).sum())
    limit = min(given, folds * (SLACK * mean) ** 2)
    starts = [fold.copy()]
    for k in range(_PACKINGS):
        order = rng.permutation(len(images))
        # exactly by size at first, then more and more loosely
        noise = np.exp(rng.normal(0, 0.1 * k, len(images)))
        starts.append(_packed(images, order[np.argsort(-(images * noise)[order], kind="stable")], folds))
    assignments = [_Assignment(start, worth, folds, limit) for start in starts]
    for assignment in assignments:
        assignment.improve(rng)
    return min(assignments, key=_Assignment.cost).fold
