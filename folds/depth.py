"""How depth is scored: nearness 0..1, predicted as the sigmoid of a head's logits, at the full size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from competition import Size
from models.frame import Frame

# of the ratio of two depths: depth is the reciprocal of nearness, and what is farther than this counts as this far
FARTHEST = 1 / 255
WITHIN = 1.25


def nearness(logits: np.ndarray, frame: Frame, full: Size) -> np.ndarray:
    """(H, W) float32 in 0..1 from a depth head's logits (h, w) float32 in a network's frame."""
    return 1 / (1 + np.exp(-frame.invert(logits, full)))


def rmse_of(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Root of the mean squared error. Both (H, W) float32 in 0..1, as in all that follow."""
    return float(np.sqrt(np.mean(np.square(predicted - truth))))


def ssim_of(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity, 0..1: in an 11x11 Gaussian window, as scikit-image has it with Gaussian weights."""
    # late, so that programs which only read what is stored of depth need no torch
    import torch

    from models.losses import ssim

    with torch.inference_mode():
        each = [torch.from_numpy(np.ascontiguousarray(a, np.float32))[None, None] for a in (predicted, truth)]
        return float(ssim(*each))


def within_of(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Share of the pixels whose depth is off by a factor below 1.25, either way.

    Depth is the reciprocal of nearness, so the factor is the same for both; nearness below 1/255 counts as 1/255.
    """
    ours, theirs = np.maximum(predicted, FARTHEST), np.maximum(truth, FARTHEST)
    return float((np.maximum(ours / theirs, theirs / ours) < WITHIN).mean())


DEPTH_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "ssim": ssim_of,
    "rmse": rmse_of,
    "within_1.25": within_of,
}


def full_size_rmse(logits: np.ndarray, frame: Frame, truth: np.ndarray, full: Size) -> float:
    """RMSE of a depth head's logits (h, w) float32 against nearness (H, W) uint8 at the full size."""
    return rmse_of(nearness(logits, frame, full), truth.astype(np.float32) / 255)
