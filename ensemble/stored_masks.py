"""Full-size masks of networks and of their blend, read from logit stores one image at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition import Size
from ensemble.blend import Blend
from folds.store import LogitStore
from models.frame import Frame, load_for
from predict.presence import said_of


@dataclass(frozen=True)
class StoredMasks:
    """A blend and the stores of its members' logits; pickles to workers.

    Attributes:
        blend: its members may have weight 0.
        stores: in the order of the members.
        full: (H, W) of the full frame.
        folder: where the images are; looked at only where the blend needs them.
    """

    blend: Blend
    stores: Sequence[LogitStore]
    full: Size
    folder: Path

    @property
    def names(self) -> list[str]:
        """Of the networks."""
        return [member.name for member in self.blend.members]

    def planes(self, image: str) -> list[np.ndarray]:
        """The networks' logits of an image, (h, w) float32 each at its own size."""
        return [store.head(image) for store in self.stores]

    def each(self, planes: Sequence[np.ndarray]) -> np.ndarray:
        """(M, H, W) bool: every network's own full-size mask."""
        frames = self.blend.frames
        return np.stack([frame.invert(plane, self.full) > 0 for frame, plane in zip(frames, planes, strict=True)])

    def _images(self, image: str) -> dict[Frame, np.ndarray]:
        frames = self.blend.image_frames(self.full)
        return load_for(frames, self.folder / image, self.full)[0] if frames else {}

    def _said(self, image: str) -> list[float | None]:
        return said_of(self.stores, image) if self.blend.gate is not None else []

    def combined(self, image: str, planes: Sequence[np.ndarray]) -> np.ndarray:
        """(H, W) float32: the networks' logits of an image as one, from its `planes`, before threshold and repairs."""
        return self.blend.combined(planes, self.full, self._images(image))

    def logits(self, image: str, planes: Sequence[np.ndarray]) -> np.ndarray:
        """(H, W) float32: the blend's logits of an image, from its `planes`, above 0 exactly where its mask is."""
        return self.blend.logits(planes, self.full, self._images(image), self._said(image))

    def mask(self, image: str, planes: Sequence[np.ndarray]) -> np.ndarray:
        """(H, W) bool: the blend's mask of an image, from its `planes`."""
        return self.blend.mask(planes, self.full, self._images(image), self._said(image))
