"""Training on crops around the mask's boundary: most of a whole image teaches nothing, and costs the same."""

from __future__ import annotations

import math

import cv2
import numpy as np

from competition import Size
from models.build import divisor
from models.variant import Variant

# tells these draws from those of the augmentation, of the same seed
_STREAM = 1 << 21
# the point of the boundary lies within this share of the crop's side from its centre
_OFF_CENTRE = 0.25


def crop_size(variant: Variant, share: float) -> Size:
    """Height and width of a variant's crops.

    Args:
        variant: whose input they are cropped from.
        share: of its height and of its width, above 0; rounded up to what the network takes.

    >>> from models.variants import VARIANTS
    >>> crop_size(VARIANTS["folded-unet-640x960"], 0.5)
    (320, 512)
    """
    step = divisor(variant)
    height, width = (min(side, math.ceil(side * share / step - 1e-9) * step) for side in variant.size)
    return height, width


def _boundary(mask: np.ndarray) -> np.ndarray:
    """(N,) flat indices of the pixels beside which a mask (h, w) uint8 of coverage changes sides."""
    inside = (mask > 127).astype(np.uint8)
    return np.flatnonzero(cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)))


class BoundaryCrop:
    """A crop of a sample around a random point of its mask's boundary, or anywhere where it has none.

    The draw depends on seed, epoch and position alone.

    Args:
        size: (height, width) of the crop, no larger than the sample.
        seed: of the draws.
        mask_plane: which plane of targets with several is the mask.
    """

    def __init__(self, size: Size, seed: int, mask_plane: int = 0) -> None:
        self._size = size
        self._seed = seed
        self._mask_plane = mask_plane

    def __call__(
        self, image: np.ndarray, target: np.ndarray, *, epoch: int, position: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Crop one sample.

        Args:
            image: (h, w, C) uint8.
            target: (h, w) or (h, w, K) uint8.
            epoch, position: which draw.

        Returns:
            Views of image and target, of the crop's height and width.
        """
        rng = np.random.default_rng((self._seed, _STREAM, epoch, position))
        mask = target if target.ndim == 2 else target[..., self._mask_plane]
        found = _boundary(mask)
        index = found[rng.integers(len(found))] if len(found) else rng.integers(mask.size)
        shifts = rng.uniform(-_OFF_CENTRE, _OFF_CENTRE, 2)
        window = []
        for centre, shift, side, whole in zip(
            np.unravel_index(index, mask.shape), shifts, self._size, mask.shape, strict=True
        ):
            start = int(np.clip(round(centre + (shift - 0.5) * side), 0, whole - side))
            window.append(slice(start, start + side))
        return image[tuple(window)], target[tuple(window)]
