"""Dice as the competition scores it: one image's thresholded logits at full size against its true runs."""

from __future__ import annotations

import numpy as np

from competition import Size
from kernels.dice import counts_logits_runs, from_counts
from models.frame import Frame


def dice_of(logits: np.ndarray, truth_runs: np.ndarray) -> float:
    """Dice of full-size logits.

    Args:
        logits: (H, W) float32; the mask is where they are above 0.
        truth_runs: (R, 2) int64 row-major runs of the true mask.

    Returns:
        0..1; two empty masks score 1.
    """
    return from_counts(counts_logits_runs(logits, truth_runs))


def full_size_dice(logits: np.ndarray, frame: Frame, truth_runs: np.ndarray, full: Size) -> float:
    """Dice of logits (h, w) float32 at a network's size, brought to the full frame (H, W) first; else as `dice_of`."""
    return dice_of(frame.invert(logits, full), truth_runs)
