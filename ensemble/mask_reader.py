"""Full-size masks of networks and of their blend, read from logit stores one image at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition import Size
from ensemble.conv_stacker import image_frame
from ensemble.postprocess import apply_kept
from ensemble.voting import Combine, weighted_logits
from folds.store import LogitStore
from models.frame import Frame


@dataclass(frozen=True)
class MaskReader:
    """Networks' stores and how they are blended; pickles to workers.

    Attributes:
        names: of the networks.
        stores, frames, weights: in the order of `names`; a weight of 0 keeps a network out of the blend.
        threshold: on the blended logits.
        repairs: postprocessing steps (name, size in pixels) of the blend.
        full: (H, W) of the full frame.
        combine: how the networks' logits become the blend's.
        folder: where the images are; looked at only where `combine` needs them.
    """

    names: Sequence[str]
    stores: Sequence[LogitStore]
    frames: Sequence[Frame]
    weights: Sequence[float]
    threshold: float
    repairs: Sequence[tuple[str, int]]
    full: Size
    combine: Combine = weighted_logits
    folder: Path = Path()

    def planes(self, image: str) -> list[np.ndarray]:
        """The networks' logits of an image, (h, w) float32 each at its own size."""
        return [store.read(image)[0] for store in self.stores]

    def each(self, planes: Sequence[np.ndarray]) -> np.ndarray:
        """(M, H, W) bool: every network's own full-size mask."""
        return np.stack([frame.invert(plane, self.full) > 0 for frame, plane in zip(self.frames, planes, strict=True)])

    def logits(self, image: str, planes: Sequence[np.ndarray]) -> np.ndarray:
        """(H, W) float32: the blend's full-size logits of an image, from its `planes`."""
        frame = image_frame(self.combine, self.frames)
        picture = None if frame is None else frame.load(self.folder / image, self.full)[0]
        return self.combine(planes, self.frames, self.weights, self.full, picture)

    def blend(self, image: str, planes: Sequence[np.ndarray]) -> np.ndarray:
        """(H, W) bool: the blend's mask of an image, thresholded and repaired."""
        return apply_kept(self.logits(image, planes) > self.threshold, self.repairs)
