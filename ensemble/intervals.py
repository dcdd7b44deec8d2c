"""95 % intervals of means over groups of images, scores or their differences: of the mean itself, and of a test set's.

Images of a group (a car) resemble each other, so a group counts as one draw. What an interval holds is the spread from
group to group, and no other: not that of another seed, of another training or of another choice of epoch.

Dice is skewed, most groups near the top and a few far below, and groups are few. With 12 to 20 of them a bootstrap's
percentiles cover 0.87 to 0.92 where they say 0.95, and Student's interval from 0.90. Hall's correction for skewness
mends that, but is short where tails are long on both sides, as those of paired differences are. So each limit is the
farther one of Student's and Hall's (P. Hall 1992, "On the removal of skewness by transformation"). Measured
(`tests/test_ensemble_intervals.py`), it covers

- 0.94 to 0.96 from 12 groups on, where groups' errors vary by up to 0.8 of their mean;
- 0.57, 0.91 and 0.98 with 12, 50 and 254 groups, of which 5 % err ten times as much as the others;
- 0.21, 0.64 and 0.99 with as many, of a small gain that 2 % of the groups lose a hundred times over: what was not seen,
  no interval of what was seen can hold.

So where a change of masks could lose much and seldom, as a repair can, its interval alone is no proof, and `is_kept`
asks for more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from kernels.metrics import DICE, Metric

# of each tail
_QUANTILE = 0.975
# without a skewness worth the name the correction is none, and its formula 0 / 0
_NO_SKEWNESS = 1e-8


@dataclass(frozen=True)
class _Spread:
    """What a mean over images says of groups.

    Attributes:
        mean: of all images.
        groups: their number.
        deviation: standard deviation of a group's pseudo-value, inf for a single group.
        skewness: of the pseudo-values, 0 for fewer than three groups.
        quantile: Student's, for so many groups as those of unequal sizes are worth.
    """

    mean: float
    groups: int
    deviation: float
    skewness: float
    quantile: float

    @staticmethod
    def of(values: np.ndarray, groups: np.ndarray) -> _Spread:
        _, member = np.unique(groups, return_inverse=True)
        sums, sizes = np.bincount(member, weights=values), np.bincount(member)
        count, mean = len(sizes), float(values.mean())
        if count == 1:
            return _Spread(mean, 1, np.inf, 0.0, np.inf)
        # the jackknife's pseudo-values: with groups of one size, the groups' own means
        away = (count - 1) * (sums - mean * sizes) / (sizes.sum() - sizes)
        away -= away.mean()
        deviation = float(np.sqrt((away**2).sum() / (count - 1)))
        skewness = 0.0
        if count > 2 and deviation > 0:
            skewness = float(count / ((count - 1) * (count - 2)) * ((away / deviation) ** 3).sum())
        # Kish's effective number: a few large groups among many small ones are worth few
        worth = float(sizes.sum() ** 2 / (sizes**2).sum())
        return _Spread(mean, count, deviation, skewness, float(special.stdtrit(max(worth - 1, 0.1), _QUANTILE)))

    @property
    def error(self) -> float:
        """The mean's standard error."""
        return float(self.deviation / np.sqrt(self.groups))

    def reaches(self) -> tuple[float, float]:
        """How far the interval of the mean reaches below and above it."""
        student = self.quantile / np.sqrt(self.groups)
        below, above = student, student
        if abs(self.skewness) > _NO_SKEWNESS:
            third, shift = self.skewness / 3, self.skewness / (6 * self.groups)
            # Hall's transformation makes the studentised mean symmetric; this is its inverse at both quantiles
            low, high = ((np.cbrt(1 + 3 * third * (q - shift)) - 1) / third for q in (-student, student))
            below, above = max(student, high), max(student, -low)
        return float(self.deviation * below), float(self.deviation * above)

    def within(self, below: float, above: float, bounds: tuple[float, float]) -> tuple[float, float]:
        if not np.isfinite(self.deviation):
            return bounds
        return max(self.mean - below, bounds[0]), min(self.mean + above, bounds[1])


def standard_error(values: np.ndarray, groups: np.ndarray) -> float:
    """Of the mean of `values` (N,) over draws of whole `groups` (N,); inf for a single group."""
    return _Spread.of(values, groups).error


def mean_interval(
    values: np.ndarray, groups: np.ndarray, *, bounds: tuple[float, float] = (-1.0, 1.0)
) -> tuple[float, float]:
    """95 % interval of the mean over all groups there could be.

    Args:
        values: (N,) scores of images, or differences of two.
        groups: (N,) their groups, of any sizes.
        bounds: what the mean cannot be beyond; a single group, which tells nothing of the spread, gives these.

    >>> low, high = mean_interval(np.array([0.8, 0.8, 0.9, 0.9, 0.7, 0.7]), np.array([0, 0, 1, 1, 2, 2]))
    >>> round(low, 3), round(high, 3)
    (0.552, 1.0)
    """
    spread = _Spread.of(values, groups)
    return spread.within(*spread.reaches(), bounds)


def least_with_rare_losses(values: np.ndarray, groups: np.ndarray, worst_loss: float) -> float:
    """What a mean gain still is if losses so rare that no group happened to have one were there, as often as they may.

    What befalls a share p of all groups is missed by n of them with a probability of (1 - p) ** n. The largest share
    that is missed with one of 0.025 is what unseen losses are taken to have: 3.7 / n of many groups.

    Args:
        values: (N,) differences of images' scores.
        groups: (N,) their groups.
        worst_loss: what an image loses at worst, at least 0.

    >>> gain, cars = np.full(100, 0.001), np.arange(100)
    >>> [round(least_with_rare_losses(gain, cars, loss), 6) for loss in (0.0, 0.01, 0.1)]
    [0.001, 0.000602, -0.002658]
    """
    _, sizes = np.unique(groups, return_counts=True)
    worth = float(sizes.sum() ** 2 / (sizes**2).sum())
    unseen = 1 - (1 - _QUANTILE) ** (1 / worth)
    mean = float(values.mean())
    return mean if worst_loss == 0 else (1 - unseen) * mean - unseen * worst_loss


def is_kept(values: np.ndarray, groups: np.ndarray, worst_loss: float = 0.0) -> bool:
    """Whether a change surely gains: its interval is above 0, and so is the mean with rare losses.

    Args: as `least_with_rare_losses`; no `worst_loss` for what cannot lose much and seldom.
    """
    return mean_interval(values, groups)[0] > 0 and least_with_rare_losses(values, groups, worst_loss) > 0


def expected_interval(values: np.ndarray, groups: np.ndarray, count: int) -> tuple[float, float]:
    """95 % interval of the mean score over `count` groups that nobody has seen.

    Wider than `mean_interval`, which is about the mean of all groups there could be: a test set is a draw of its own.
    The two spreads are independent of each other, so what each reaches to a side is added in squares.

    Args:
        values: (N,) scores of the images at hand, out of fold.
        groups: (N,) their groups.
        count: groups of the test set, at least 1.
    """
    spread = _Spread.of(values, groups)
    below, above = spread.reaches()
    plain = spread.quantile / np.sqrt(count)
    lean = spread.skewness / (6 * count) * (spread.quantile**2 - 1)
    return spread.within(
        float(np.hypot(below, spread.deviation * (plain + max(-lean, 0.0)))),
        float(np.hypot(above, spread.deviation * (plain + max(lean, 0.0)))),
        (0.0, 1.0),
    )


def figures(values: np.ndarray, groups: np.ndarray, metric: Metric = DICE) -> dict[str, Any]:
    """Mean (under the metric's name), interval and lowest of images' scores `values` (N,), JSON-able."""
    return {
        metric.name: float(values.mean()),
        "interval": list(mean_interval(values, groups, bounds=(0.0, 1.0))),
        "worst": float(values.min()),
    }
