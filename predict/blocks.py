"""The list of images cut into what one forward pass takes, and what becomes of images that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from command_line import UserError, plain

# consecutive images of a list, from the first on, that blocks are cut from: a shard of the submission, and what one
# process takes at a time. One number for all that predicts, as logits may differ in their last bits where blocks do.
PART_IMAGES = 500


class UnreadableImagesError(UserError):
    """Images that could not be read, all others being done.

    Attributes:
        names: theirs.
    """

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = list(names)


@dataclass(frozen=True)
class Place:
    """An image's place: `slot` of a block of `length` images."""

    name: str
    slot: int
    length: int


def places(names: Sequence[str], wanted: Sequence[str], batch: int) -> Iterator[list[Place]]:
    """The blocks of `batch` that the whole list of `names` falls into, each with only its `wanted` images, if any."""
    among = set(wanted)
    for start in range(0, len(names), batch):
        block = names[start : start + batch]
        some = [Place(name, slot, len(block)) for slot, name in enumerate(block) if name in among]
        if some:
            yield some


def names_by_slot(block: Sequence[Place]) -> list[str]:
    """The names of a block's images, each at its slot; "" where an image is not among them."""
    names = [""] * block[0].length
    for place in block:
        names[place.slot] = place.name
    return names


def stacked(images: Sequence[tuple[Place, np.ndarray]]) -> np.ndarray:
    """A block as an array (length, h, w, C) uint8; the places of images that are not among `images` are black."""
    array = np.zeros((images[0][0].length, *images[0][1].shape), np.uint8)
    for place, image in images:
        array[place.slot] = image
    return array


def raise_unreadable(faults: Sequence[tuple[str, UserError]], total: int, what: str) -> None:
    """Print the first 20 faults and raise `UnreadableImagesError`, if there are any.

    Args:
        faults: names of images and what is wrong with them.
        total: images there were.
        what: has been done with the others.
    """
    if not faults:
        return
    for _, fault in faults[:20]:
        print(plain(str(fault)))
    first = " (first 20 above)" if len(faults) > 20 else ""
    raise UnreadableImagesError(
        f"{len(faults)} of {total} images could not be read{first}; the others are {what}: mend these and run the "
        "same command again.",
        [name for name, _ in faults],
    )
