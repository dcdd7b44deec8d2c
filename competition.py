"""The facts of each competition, and nothing else: the one place that knows a competition's numbers.

Imports only the standard library and `command_line`, so that every package may import it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from command_line import UserError

Order = Literal["row", "column"]
Size = tuple[int, int]


@dataclass(frozen=True)
class Competition:
    """What a binary-mask competition fixes.

    An image's *name* is the name of its file (`00087a6bd4dc_01.jpg`), as the submission spells it.

    Attributes:
        name: our own name for it, the value of `C=` and of `--competition`.
        title: for people.
        slug: Kaggle's name for it; None where Kaggle does not hold it.
        size: (height, width) of every image, in pixels.
        order: run-length numbering of the pixels; "row" counts left to right, then down.
        name_pattern: regular expression of a whole image name, with the named groups `group` (images that
            share it must stay in one fold: the car) and `view`.
        mask_suffix: what replaces the image's suffix in the name of its mask.
        header: the two columns of the submission, image name and run-length text.
        train_count, test_count: images in the full competition; None where that is not fixed.
        metric: key of `kernels.metrics.METRICS`; the competition's score is its mean over images.
        channels: of an image; 3 is RGB.
        targets: heads (folds/heads.py) that there is truth for.
        test_masks_dir: folder of the test images' true masks; None where nobody but the organiser has them.
    """

    name: str
    title: str
    slug: str | None
    size: Size
    order: Order
    name_pattern: str
    mask_suffix: str
    header: tuple[str, str]
    train_count: int | None
    test_count: int | None
    image_suffix: str = ".jpg"
    train_dir: str = "train"
    masks_dir: str = "train_masks"
    test_dir: str = "test"
    metric: str = "dice"
    channels: int = 3
    targets: tuple[str, ...] = ("mask",)
    test_masks_dir: str | None = None
    metadata_file: str = "metadata.csv"
    metadata_key: str = "id"
    sample_file: str = "sample_submission.csv"

    def _match(self, name: str) -> re.Match[str]:
        match = re.fullmatch(self.name_pattern, name)
        if match is None:
            expected = re.sub(r"\?P<\w+>", "", self.name_pattern)
            raise UserError(
                f"{name!r} is not an image name of the {self.name} competition (expected {expected}): "
                "rename the file or take it out of the folder."
            )
        return match

    def group(self, name: str) -> str:
        """The key that ties images together (the car).

        Raises:
            UserError: `name` does not follow the competition's file-name grammar.

        >>> COMPETITIONS["carvana"].group("00087a6bd4dc_01.jpg")
        '00087a6bd4dc'
        """
        return self._match(name)["group"]

    def view(self, name: str) -> str:
        """The view within the group (the turntable angle), as the file name spells it.

        >>> COMPETITIONS["carvana"].view("00087a6bd4dc_01.jpg")
        '01'
        """
        return self._match(name)["view"]

    def mask_name(self, name: str) -> str:
        """The file name of an image's mask.

        >>> COMPETITIONS["carvana"].mask_name("00087a6bd4dc_01.jpg")
        '00087a6bd4dc_01_mask.gif'
        """
        return name.removesuffix(self.image_suffix) + self.mask_suffix

    def default_data(self) -> Path:
        """Where the competition's files are unless `DATA=` says otherwise, relative to the repository root."""
        return Path("data") / self.name


_CAR_VIEW = r"(?P<group>[0-9a-f]{12})_(?P<view>\d\d)\.jpg"

COMPETITIONS = {
    c.name: c
    for c in (
        Competition(
            name="carvana",
            title="Carvana Image Masking Challenge",
            slug="carvana-image-masking-challenge",
            size=(1280, 1918),
            order="row",
            name_pattern=_CAR_VIEW,
            mask_suffix="_mask.gif",
            header=("img", "rle_mask"),
            train_count=5_088,
            test_count=100_064,
        ),
        Competition(
            name="studio",
            title="Studio, the embedded competition",
            slug=None,
            size=(1280, 1918),
            order="row",
            name_pattern=_CAR_VIEW,
            mask_suffix="_mask.gif",
            header=("img", "rle_mask"),
            train_count=None,
            test_count=None,
            test_masks_dir="test_masks",
        ),
    )
}


def find_competition(name: str) -> Competition:
    """The competition of that name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    try:
        return COMPETITIONS[name]
    except KeyError:
        raise UserError(
            f"unknown competition {name!r}; known: {', '.join(COMPETITIONS)} (add one in competition.py)."
        ) from None
