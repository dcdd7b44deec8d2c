"""Training-time augmentation by name, with albumentations: the same geometry on image and mask.

`python -m folds.augment --show RECIPE --data DIR --out picture.png` shows sixteen augmented samples of a recipe.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

# the library asks its registry for a newer version at import unless told not to
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import tyro

import atomic
from command_line import UserError, program
from competition import Size
from folds.images import find_training_set, read_mask
from folds.recipes import find_recipe
from models.frame import Frame
from program_flags import CompetitionName, DataFolder, Seed, files_of

Pair = tuple[np.ndarray, np.ndarray]


def _flip() -> A.BasicTransform:
    return A.HorizontalFlip(p=0.5)


def _affine(p: float = 0.5, **ranges: object) -> A.BasicTransform:
    # the mask is coverage, not labels; what comes into view repeats the border, as padding does
    return A.Affine(**ranges, border_mode=cv2.BORDER_REPLICATE, mask_interpolation=cv2.INTER_LINEAR, p=p)


def _hsv(hue: int, saturation: int, value: int, p: float = 0.5) -> A.BasicTransform:
    return A.HueSaturationValue(hue_shift_limit=hue, sat_shift_limit=saturation, val_shift_limit=value, p=p)


# degrees, shares of the side, and factors; the documents of A and B name what is varied and not by how much
AUGMENTATIONS: dict[str, Callable[[], list[A.BasicTransform]]] = {
    "none": lambda: [],
    "flip": lambda: [_flip()],
    # all hues; on every second image it costs those of common colours more than it gives the others
    "flip-hsv": lambda: [_flip(), _hsv(90, 30, 20, 0.25)],
    "flip-affine-hsv": lambda: [
        _flip(),
        _affine(translate_percent=(-0.06, 0.06), scale=(0.9, 1.1), rotate=(-4, 4)),
        _hsv(20, 25, 20),
    ],
    # for grey images
    "flip-affine-light": lambda: [
        _flip(),
        _affine(translate_percent=(-0.08, 0.08), scale=(0.85, 1.15), rotate=(-8, 8)),
        A.RandomBrightnessContrast(brightness_limit=0.15, contrast_limit=0.15, p=0.5),
    ],
    # system A
    "hsv-shift-scale-rotate-flip": lambda: [
        _hsv(25, 15, 25),
        _affine(translate_percent=(-0.0625, 0.0625), scale=(0.9, 1.1), rotate=(-5, 5)),
        _flip(),
    ],
    # system B
    "scale-shear-rotate-shift-flip": lambda: [
        _affine(
            0.9,
            scale=(0.9, 1.1),
            shear={"x": (-6, 6), "y": (-3, 3)},
            rotate=(-6, 6),
            translate_percent={"x": (-0.08, 0.08), "y": (-0.08, 0.08)},
        ),
        _flip(),
    ],
    # system D: a square of a quarter of the side is blacked out, and what lies there must still be told
    "cutout": lambda: [A.CoarseDropout((1, 1), (0.25, 0.25), (0.25, 0.25), fill=0, p=0.5)],
    # system C, with its own range
    "flip-rotate": lambda: [_flip(), _affine(0.9, rotate=(-8, 8))],
}


def find_augmentation(name: str) -> Callable[[], list[A.BasicTransform]]:
    """The augmentation of that name: makes its transforms anew at each call.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    try:
        return AUGMENTATIONS[name]
    except KeyError:
        raise UserError(f"unknown augmentation {name!r}; known: {', '.join(AUGMENTATIONS)}.") from None


class Augmentation:
    """A named augmentation whose draw for each image and epoch depends on the seed alone.

    So a run gives the same samples whatever the number of workers, and when it is resumed.

    Raises:
        UserError: the name is unknown; the message lists those there are.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._seed = seed
        self._transform = A.Compose(find_augmentation(name)())

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


# of one sample in the picture; 3 : 2, as the first competition's frames nearly are
_SHOWN: Size = (256, 384)
_SIDE = 4


def contact_sheet(pairs: list[Pair], columns: int = _SIDE) -> np.ndarray:
    """Samples side by side, each with its mask's outline.

    Args:
        pairs: images (h, w, 3) uint8 RGB and masks (h, w) uint8 coverage, all of one size; not modified.
        columns: samples a row.

    Returns:
        (rows * h, columns * w, 3) uint8 RGB; black where there are too few samples for a whole row.
    """
    height, width = pairs[0][1].shape
    rows = -(-len(pairs) // columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for i, (image, mask) in enumerate(pairs):
        tile = np.ascontiguousarray(image)
        outline = cv2.findContours((mask > 127).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
        row, column = divmod(i, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = cv2.drawContours(
            tile.copy(), outline, -1, (255, 0, 80), 1
        )
    return sheet


@program
def main(
    show: str,
    competition: CompetitionName = "carvana",
    data: DataFolder = None,
    out: Path = Path("augmented.png"),
    seed: Seed = 0,
) -> None:
    """Draw sixteen augmented samples of a recipe, each with its mask's outline.

    Args:
        show: name of a recipe (folds/recipes.py).
        out: the picture, PNG or JPEG.
        seed: which draws.
    """
    augment = Augmentation(find_recipe(show).augment, seed)
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"{out} is no PNG or JPEG: give --out a name that ends in .png.")
    facts, data = files_of(competition, data)
    training = find_training_set(facts, data)
    frame = Frame(_SHOWN)
    # four images spread over the set, a row of four epochs each
    positions = np.linspace(0, len(training.names) - 1, _SIDE).round().astype(int)
    pairs = []
    for position in positions:
        name = training.names[position]
        image = frame.load(training.image_path(name), facts.size)[0]
        mask = frame.apply_mask(read_mask(training.mask_path(name), facts.size))
        pairs += [augment(image, mask, epoch=epoch, position=int(position)) for epoch in range(_SIDE)]
    # in memory first: OpenCV does not say that a disk is full
    _, content = cv2.imencode(out.suffix, cv2.cvtColor(contact_sheet(pairs), cv2.COLOR_RGB2BGR))
    with atomic.replacing(out, needed_bytes=len(content)) as temporary:
        temporary.write_bytes(content.tobytes())
    print(f"{len(pairs)} samples of recipe {show} in {out}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
