"""Combining several networks' logits at full size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from competition import Size
from models.frame import Frame


def weighted_logits(
    logits: Sequence[np.ndarray], frames: Sequence[Frame], weights: Sequence[float], full: Size
) -> np.ndarray:
    """Weighted sum of several networks' logits at full size.

    Going to full size is linear, so networks that share a frame are summed first, at their own size: the cost grows
    with the number of distinct frames and not with the number of networks.

    Args:
        logits: one (h, w) float32 array a network; not modified.
        frames: the networks' frames, in the same order.
        weights: in the same order; networks of weight 0 are left out.
        full: (H, W) of the full frame.

    Returns:
        (H, W) float32.

    Raises:
        ValueError: no network has a weight other than 0.
    """
    sums: dict[Frame, np.ndarray] = {}
    for plane, frame, weight in zip(logits, frames, weights, strict=True):
        if weight == 0:
            continue
        part = plane * np.float32(weight)
        sums[frame] = sums[frame] + part if frame in sums else part
    if not sums:
        raise ValueError("no network with a weight other than 0")
    planes = [frame.invert(total, full) for frame, total in sums.items()]
    result = planes[0]
    for plane in planes[1:]:
        result = result + plane
    return result
