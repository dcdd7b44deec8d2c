"""One pass over all training images: where networks err together, where they disagree, which labels look wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from ensemble.stored_masks import StoredMasks
from folds.parallel import cut, in_parallel
from folds.truth import Truth
from kernels import rle
from kernels.metrics import DICE, Metric

_CHUNK = 8
# on the logits; wide enough to show where the curve falls off
THRESHOLDS = np.round(np.linspace(-2, 2, 41), 3)


@dataclass(frozen=True)
class Scan:
    """What the pass has found about N images and M networks.

    Attributes:
        disagreement_px: (N,) pixels on which the trusted networks do not all agree.
        agreement: (N,) the score between the pixels that all trusted networks call foreground and those that any does.
        unanimous_wrong_px: (N,) pixels on which all trusted networks agree and the truth says otherwise.
        threshold_scores: (N, T) scores of the blend, without repairs, at each of `THRESHOLDS`; NaN where they were
            not asked for.
        wrong: (M, M) pixels that two networks both get wrong; the diagonal counts each one's own.
        pixels: of all images together.
    """

    disagreement_px: np.ndarray
    agreement: np.ndarray
    unanimous_wrong_px: np.ndarray
    threshold_scores: np.ndarray
    wrong: np.ndarray
    pixels: int

    def error_correlation(self) -> np.ndarray:
        """(M, M) correlation of the networks' errors over all pixels, -1..1; nan for one that never errs."""
        each = np.diag(self.wrong).astype(float)
        covariance = self.wrong - np.outer(each, each) / self.pixels
        deviation = np.sqrt(np.diag(covariance))
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation: np.ndarray = covariance / np.outer(deviation, deviation)
        return correlation


def threshold_scores(
    logits: np.ndarray, truth: np.ndarray, thresholds: np.ndarray, metric: Metric = DICE
) -> np.ndarray:
    """Scores at many thresholds in one pass.

    Args:
        logits: (H, W) float32.
        truth: (H, W) bool.
        thresholds: (T,) increasing.
        metric: the competition's.

    Returns:
        (T,) float64; two empty masks score 1.
    """
    flat, true = logits.ravel(), truth.ravel()
    near = (flat > thresholds[0]) & (flat <= thresholds[-1])
    above = flat > thresholds[-1]
    predicted = np.full(len(thresholds), above.sum(), np.int64)
    both = np.full(len(thresholds), (above & true).sum(), np.int64)
    for counts, values in ((predicted, flat[near]), (both, flat[near & true])):
        counts += len(values) - np.searchsorted(np.sort(values), thresholds, side="right")
    return metric.of_counts(both, predicted, int(true.sum()))


Row = tuple[int, float, int, np.ndarray, np.ndarray]


def _rows(
    reader: StoredMasks, trusted: np.ndarray, metric: Metric, curve: bool, part: Sequence[tuple[str, np.ndarray]]
) -> list[Row]:
    cv2.setNumThreads(1)
    rows = []
    for image, runs in part:
        planes = reader.planes(image)
        truth = rle.decode(runs, reader.full).astype(bool)
        each = reader.each(planes)
        every, some = each[trusted].all(0), each[trusted].any(0)
        inner, outer = int(every.sum()), int(some.sum())
        agreement = metric.of((inner, inner, outer))
        unanimous_wrong = int((every & ~truth).sum() + (truth & ~some).sum())
        errors = each ^ truth
        # few pixels are wrong in any network, so the products are taken there alone
        errors = errors[:, errors.any(0)].astype(np.float64)
        scores = np.full(len(THRESHOLDS), np.nan)
        if curve:
            scores = threshold_scores(reader.combined(image, planes), truth, THRESHOLDS, metric)
        rows.append((outer - inner, agreement, unanimous_wrong, scores, errors @ errors.T))
    return rows


def scan(
    reader: StoredMasks,
    images: Sequence[str],
    truth: Truth,
    trusted: np.ndarray,
    *,
    metric: Metric = DICE,
    curve: bool = True,
    jobs: int = -1,
) -> Scan:
    """Read every image's logits once.

    Args:
        reader: of out-of-fold logits.
        images: training images, in the order of `truth`.
        truth: their masks.
        trusted: positions of the networks whose agreement means something (`trusted_networks`).
        metric: the competition's.
        curve: also score the blend at many thresholds.
        jobs: processes, as joblib counts them.
    """
    # read from the disk when a process is about to need them
    pairs = ([(images[i], np.array(truth.of(i))) for i in part] for part in cut(range(len(images)), _CHUNK))
    read = partial(_rows, reader, trusted, metric, curve)
    found = in_parallel(read, pairs, len(images), label="compare networks", few=0, jobs=jobs)
    rows = [row for part in found for row in part]
    return Scan(
        disagreement_px=np.array([r[0] for r in rows]),
        agreement=np.array([r[1] for r in rows]),
        unanimous_wrong_px=np.array([r[2] for r in rows]),
        threshold_scores=np.array([r[3] for r in rows]),
        wrong=np.rint(np.sum([r[4] for r in rows], axis=0)).astype(np.int64),
        pixels=len(images) * reader.full[0] * reader.full[1],
    )


def trusted_networks(scores: np.ndarray) -> np.ndarray:
    """Positions of the networks with at most twice the best one's error, of (M,) mean scores.

    A poor network disagrees with every other one everywhere, which would hide where the good ones disagree.
    """
    error = 1 - scores
    return np.flatnonzero(error <= 2 * error.min())
