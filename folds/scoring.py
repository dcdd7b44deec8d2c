"""A mask as the competition scores it: one image's thresholded logits at full size against its true runs."""

from __future__ import annotations

import numpy as np

from competition import Size
from kernels.dice import counts_logits_runs
from kernels.metrics import DICE, Metric
from models.frame import Frame


def score_of(logits: np.ndarray, truth_runs: np.ndarray, metric: Metric = DICE) -> float:
    """The score of full-size logits.

    Args:
        logits: (H, W) float32; the mask is where they are above 0.
        truth_runs: (R, 2) int64 row-major runs of the true mask.
        metric: the competition's.

    Returns:
        0..1; two empty masks score 1.
    """
    return metric.of(counts_logits_runs(logits, truth_runs))


def full_size_score(
    logits: np.ndarray, frame: Frame, truth_runs: np.ndarray, full: Size, metric: Metric = DICE
) -> float:
    """The score of logits (h, w) float32 at a network's size, brought to the full frame (H, W) first; else as
    `score_of`."""
    return score_of(frame.invert(logits, full), truth_runs, metric)
