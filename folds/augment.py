"""Training-time augmentation by name, with albumentations: the same geometry on image and mask."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

# the library asks its registry for a newer version at import unless told not to
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2

from command_line import UserError

Pair = tuple[np.ndarray, np.ndarray]


def _affine() -> A.BasicTransform:
    return A.Affine(
        translate_percent=(-0.06, 0.06),
        scale=(0.9, 1.1),
        rotate=(-4, 4),
        border_mode=cv2.BORDER_REPLICATE,
        # the mask is coverage, not labels
        mask_interpolation=cv2.INTER_LINEAR,
        p=0.5,
    )


def _hsv() -> A.BasicTransform:
    return A.HueSaturationValue(hue_shift_limit=20, sat_shift_limit=25, val_shift_limit=20, p=0.5)


AUGMENTATIONS: dict[str, Callable[[], list[A.BasicTransform]]] = {
    "none": lambda: [],
    "flip": lambda: [A.HorizontalFlip(p=0.5)],
    "flip-affine-hsv": lambda: [A.HorizontalFlip(p=0.5), _affine(), _hsv()],
}


class Augmentation:
    """A named augmentation whose draw for each image and epoch depends on the seed alone.

    So a run gives the same samples whatever the number of workers, and when it is resumed.

    Raises:
        UserError: the name is unknown; the message lists those there are.
    """

    def __init__(self, name: str, seed: int) -> None:
        if name not in AUGMENTATIONS:
            raise UserError(f"unknown augmentation {name!r}; known: {', '.join(AUGMENTATIONS)}.")
        self._seed = seed
        self._transform = A.Compose(AUGMENTATIONS[name]())

    def __call__(self, image: np.ndarray, mask: np.ndarray, *, epoch: int, position: int) -> Pair:
        """Augment one sample.

        Args:
            image: (h, w, 3) uint8.
            mask: (h, w) uint8 coverage.
            epoch, position: which draw; the same pair gives the same result.

        Returns:
            image and mask of the same shapes and dtypes; the arguments are not modified.
        """
        draw = np.random.SeedSequence((self._seed, epoch, position)).generate_state(1)[0]
        self._transform.set_random_seed(int(draw))
        result = self._transform(image=image, mask=mask)
        return result["image"], result["mask"]
