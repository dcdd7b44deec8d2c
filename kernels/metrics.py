"""How a mask is scored against the true one: every metric follows from three counts of pixels an image.

Those are the pixels in both masks, in the predicted one and in the true one, and whoever has them (kernels/dice.py of
masks, runs and logits; kernels/blend.py of any weighting of networks) has the score by every metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.compiled import compiled

One = Callable[[int, int, int], float]
Loop = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]


@compiled
def _dice(both: int, predicted: int, true: int) -> float:
    total = predicted + true
    return 2 * both / total if total else 1.0


@compiled
def _iou(both: int, predicted: int, true: int) -> float:
    union = predicted + true - both
    return both / union if union else 1.0


@compiled
def _mean_precision(both: int, predicted: int, true: int) -> float:
    union = predicted + true - both
    hits = 0
    # thresholds 10/20 .. 19/20, in whole numbers: no IoU is rounded across one
    for twentieths in range(10, 20):
        hits += 20 * both > twentieths * union
    return hits / 10 if union else 1.0


@compiled
def _dice_loop(both: np.ndarray, predicted: np.ndarray, true: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(out)):
        out[i] = _dice(both[i], predicted[i], true[i])


@compiled
def _iou_loop(both: np.ndarray, predicted: np.ndarray, true: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(out)):
        out[i] = _iou(both[i], predicted[i], true[i])


@compiled
def _mean_precision_loop(both: np.ndarray, predicted: np.ndarray, true: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(out)):
        out[i] = _mean_precision(both[i], predicted[i], true[i])


def _flat(counts: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if counts.shape == shape:
        return counts.reshape(-1)
    whole = np.empty(shape, np.int64)
    whole[...] = counts
    return whole.reshape(-1)


@dataclass(frozen=True)
class Metric:
    """A score of one image's mask, 0..1, higher is better; a competition's score is its mean over images.

    Attributes:
        name: key of `METRICS`; in files the score stands under it.
        label: for people.
        one: compiled; from numbers of pixels in both, in the predicted and in the true mask to the score.
        loop: compiled; the same from (n,) int64 counts each to (n,) float64 scores, which are written into the last.
    """

    name: str
    label: str
    one: One
    loop: Loop

    def __reduce__(self) -> tuple[Any, ...]:
        # compiled code does not travel between processes
        return find_metric, (self.name,)

    def of_counts(self, both: Any, predicted: Any, true: Any) -> np.ndarray:
        """Scores of many images, or of many masks of an image.

        Args:
            both, predicted, true: whole numbers of pixels, in shapes that broadcast.

        Returns:
            float64 in their common shape; two empty masks score 1.

        >>> METRICS["mean_precision"].of_counts([30, 0, 0], [40, 1, 0], [50, 0, 9]).tolist()
        [0.0, 0.0, 0.0]
        >>> METRICS["mean_precision"].of_counts([45, 0], [50, 0], [50, 0]).tolist()
        [0.7, 1.0]
        """
        first, second, third = np.asarray(both, np.int64), np.asarray(predicted, np.int64), np.asarray(true, np.int64)
        # past numpy's own helpers, which would cost small calls more than the scores do
        shape = np.broadcast(first, second, third).shape
        out = np.empty(shape)
        self.loop(_flat(first, shape), _flat(second, shape), _flat(third, shape), out.reshape(-1))
        return out

    @property
    def logged(self) -> str:
        """What validation logs the mask's score as, and the column of metrics.csv.

        >>> DICE.logged
        'val_dice'
        """
        return f"val_{self.name}"

    def of(self, counts: tuple[int, int, int]) -> float:
        """The score of one mask, of (intersection_px, predicted_px, true_px).

        >>> METRICS["iou"].of((1, 2, 2)) == 1 / 3, METRICS["dice"].of((0, 0, 0))
        (True, 1.0)
        """
        return self.one(*counts)


METRICS = {
    m.name: m
    for m in (
        Metric("dice", "Dice", _dice, _dice_loop),
        Metric("iou", "IoU", _iou, _iou_loop),
        # the share of the ten thresholds on IoU, 0.5 to 0.95, that a mask is above; where nothing is true any pixel
        # is wrong, and no mask at all is right
        Metric("mean_precision", "mean precision", _mean_precision, _mean_precision_loop),
    )
}

DICE = METRICS["dice"]


def metric_in(figures: Mapping[str, Any]) -> Metric:
    """The metric of figures that were read from a file: the score stands there under the metric's name.

    Raises:
        ValueError: they hold no score.

    >>> metric_in({"interval": [0.7, 0.9], "iou": 0.8}).label
    'IoU'
    """
    for metric in METRICS.values():
        if metric.name in figures:
            return metric
    raise ValueError(f"no score among {', '.join(map(str, figures))}; known metrics: {', '.join(METRICS)}")


def score_in(figures: Mapping[str, Any]) -> float:
    """The score among figures that were read from a file; ValueError where there is none."""
    return float(figures[metric_in(figures).name])


def check_scores(figures: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse figures from a file with a score, under `prefix` and its metric's name, that none can be.

    Raises:
        ValueError: one is no number from 0 to 1.

    >>> check_scores({"worst": 7, "cv_dice": 0.9}, "cv_")
    """
    for name in METRICS:
        score = figures.get(prefix + name, 0.0)
        number = isinstance(score, int | float) and not isinstance(score, bool)
        if not number or not 0 <= score <= 1:
            raise ValueError(f"{prefix}{name} is {score!r}, expected a number from 0 to 1")


def find_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    try:
        return METRICS[name]
    except KeyError:
        raise ValueError(
            f"unknown metric {name!r}; known: {', '.join(METRICS)} (add one in kernels/metrics.py)"
        ) from None
