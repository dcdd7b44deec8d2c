"""The band around the boundary of a mask, and the tiles that lie on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from competition import Size


def band_of(mask: np.ndarray, reach_px: float) -> np.ndarray:
    """The pixels within `reach_px` of one of the other class, measured from centre to centre.

    Args:
        mask: (H, W) bool; not modified.
        reach_px: 0 or more.

    Returns:
        (H, W) bool; nowhere true where the mask has one class alone.

    >>> band_of(np.array([[0, 0, 0, 1, 1, 1]], bool), 2).astype(int).tolist()
    [[0, 1, 1, 1, 1, 0]]
    """
    side = int(reach_px)
    y, x = np.ogrid[-side : side + 1, -side : side + 1]
    disk = (y**2 + x**2 <= reach_px**2).astype(np.uint8)
    # what lies beyond the border of the image is of no class
    return cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_GRADIENT, disk) > 0


@dataclass(frozen=True)
class Tile:
    """A part of an image that a network sees, and the part of that which its answer is taken for.

    Attributes:
        seen: rows and columns of the image, which may reach beyond it at the bottom and at the right.
        core: rows and columns of the image, within `seen`; cores of an image's tiles have no pixel in common.
    """

    seen: tuple[slice, slice]
    core: tuple[slice, slice]

    @property
    def core_in_seen(self) -> tuple[slice, slice]:
        """The core's rows and columns, counted from the first that is seen."""
        (rows, columns), (above, left) = self.core, self.seen
        return (
            slice(rows.start - above.start, rows.stop - above.start),
            slice(columns.start - left.start, columns.stop - left.start),
        )


def tile_size(size: Size, side_px: int, divisor: int) -> Size:
    """Height and width of the tiles of images of `size`: `side_px`, or less where an image is smaller than that.

    >>> tile_size((640, 51), 96, 8)
    (96, 56)
    """
    height, width = (min(side_px, -(-side // divisor) * divisor) for side in size)
    return height, width


def tiles_on(band: np.ndarray, tile: Size, margin_px: int) -> Iterator[Tile]:
    """Tiles whose cores hold every pixel of a band; where there is none of it, there is no tile.

    Args:
        band: (h, w) bool.
        tile: (height, width) of a tile, as `tile_size` gives it.
        margin_px: that a tile sees around its core, but at the border of the image; of small tiles at most a quarter.
    """
    rows, columns = (np.flatnonzero(band.any(axis)) for axis in (1, 0))
    if not len(rows):
        return
    margins = [min(margin_px, side // 4) for side in tile]
    step = [side - 2 * margin for side, margin in zip(tile, margins, strict=True)]
    for top in range(int(rows[0]), int(rows[-1]) + 1, step[0]):
        for left in range(int(columns[0]), int(columns[-1]) + 1, step[1]):
            core = (
                slice(top, min(top + step[0], band.shape[0])),
                slice(left, min(left + step[1], band.shape[1])),
            )
            if band[core].any():
                starts = [
                    max(0, min(part.start - margin, whole - side))
                    for part, margin, whole, side in zip(core, margins, band.shape, tile, strict=True)
                ]
                seen = tuple(slice(start, start + side) for start, side in zip(starts, tile, strict=True))
                yield Tile((seen[0], seen[1]), core)


def cut(plane: np.ndarray, tile: Tile) -> np.ndarray:
    """What a tile sees of an array (h, w) or (h, w, C); beyond the image its last row and column go on."""
    rows, columns = tile.seen
    part = plane[rows, columns]
    below, right = rows.stop - rows.start - part.shape[0], columns.stop - columns.start - part.shape[1]
    if not below and not right:
        return part
    return np.pad(part, ((0, below), (0, right), *[(0, 0)] * (plane.ndim - 2)), mode="edge")
