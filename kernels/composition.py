"""Composites of a foreground on a background, with mask and depth: item i of N is a pure function of (seed, i).

Everything is pasted as Pillow's `paste` does it: whole pixels, alpha in 255ths, rounded to the nearest level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.compiled import compiled, inlined

Array = np.ndarray

_U16 = np.uint16

# alpha from which a pixel is foreground
OPAQUE = 128


@dataclass(frozen=True)
class Item:
    """One of the N composites, by what it is made of.

    Attributes:
        background, foreground, position: indices, each from 0 on.
        mirrored: the foreground is mirrored left and right.
    """

    background: int
    foreground: int
    position: int
    mirrored: bool


@dataclass(frozen=True)
class Grid:
    """All composites of some parts: each background with each foreground, as it is and mirrored, at several positions.

    Attributes:
        backgrounds, foregrounds, positions: how many there are of each.
        mirrored: each foreground also mirrored.
    """

    backgrounds: int
    foregrounds: int
    positions: int = 20
    mirrored: bool = True

    def __len__(self) -> int:
        return self.backgrounds * self.foregrounds * self.positions * (1 + self.mirrored)

    def item(self, index: int) -> Item:
        """What item `index` is made of.

        >>> len(Grid(100, 100)), Grid(100, 100).item(399_999)
        (400000, Item(background=99, foreground=99, position=19, mirrored=True))
        """
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        index, mirrored = divmod(index, 1 + self.mirrored)
        index, position = divmod(index, self.positions)
        background, foreground = divmod(index, self.foregrounds)
        return Item(background, foreground, position, bool(mirrored))

    def index(self, item: Item) -> int:
        """The opposite of `item`."""
        pair = item.background * self.foregrounds + item.foreground
        return (pair * self.positions + item.position) * (1 + self.mirrored) + item.mirrored


@compiled
def _mixed(seed: int, index: int) -> Any:
    """64 bits that depend on seed and index alone, and on every bit of both (two rounds of splitmix64)."""
    word = np.uint64(0)
    for value in (seed, index):
        word += np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        word ^= word >> np.uint64(31)
    return word


@compiled
def _place(seed: int, index: int, vertical: int, horizontal: int) -> Any:
    word = _mixed(seed, index)
    low = np.uint64(0xFFFFFFFF)
    # 32 bits scaled to the room: every place is as likely as another, to one in 2^32
    top = ((word >> np.uint64(32)) * np.uint64(vertical + 1)) >> np.uint64(32)
    left = ((word & low) * np.uint64(horizontal + 1)) >> np.uint64(32)
    return np.int64(top), np.int64(left)


def place(seed: int, index: int, room: tuple[int, int]) -> tuple[int, int]:
    """Where the foreground of an item lies: (top, left) in pixels.

    Args:
        seed: of the whole set, at least 0.
        index: of the item.
        room: (vertical, horizontal) pixels that the background exceeds the foreground by, each at least 0.

    >>> place(0, 17, (96, 0)), place(0, 18, (96, 0)), place(1, 18, (96, 0))
    ((17, 0), (92, 0), (87, 0))
    """
    top, left = _place(seed, index, *room)
    return int(top), int(left)


@inlined
def _blended(under: Any, over: Any, alpha: Any) -> Any:
    """(under * (255 - alpha) + over * alpha) / 255 of levels 0 .. 255, rounded exactly."""
    # in 16 bits, which the sum just fits: twice as many at a time as in 32
    below = _U16(_U16(under) * _U16(_U16(255) - _U16(alpha)))
    level = _U16(_U16(below + _U16(_U16(over) * _U16(alpha))) + _U16(128))
    return np.uint8(_U16(_U16(level >> _U16(8)) + level) >> _U16(8))


@compiled
def _paste(over: Array, alpha: Array, top: int, left: int, out: Array) -> None:
    """Blend `over` (h, w), with its alpha, into `out` (H, W) at (top, left)."""
    height, width = over.shape
    for y in range(height):
        # slices of one length: the compiler then takes many bytes at a time
        row, above, share = out[top + y, left : left + width], over[y], alpha[y]
        for x in range(width):
            row[x] = _blended(row[x], above[x], share[x])


@compiled
def _paste_nearer(over: Array, alpha: Array, top: int, left: int, out: Array) -> None:
    """As `_paste`, `over` first raised, as a whole, until it is nowhere below `out` where it is opaque, but not above
    255."""
    height, width = over.shape
    lift = np.uint8(0)
    for y in range(height):
        row, above, share = out[top + y, left : left + width], over[y], alpha[y]
        for x in range(width):
            gap = np.uint8(max(row[x], above[x]) - above[x])
            lift = max(lift, gap if share[x] >= OPAQUE else np.uint8(0))
    for y in range(height):
        row, above, share = out[top + y, left : left + width], over[y], alpha[y]
        for x in range(width):
            room = np.uint8(255 - above[x])
            raised = np.uint8(above[x] + (lift if lift < room else room))
            row[x] = _blended(row[x], raised, share[x])


@compiled
def _copy(source: Array, out: Array) -> None:
    for x in range(len(source)):
        out[x] = source[x]


@compiled
def _compose(
    packed: Array,
    offsets: Array,
    sizes: Array,
    rows: Array,
    far: Array,
    positions: int,
    directions: int,
    seed: int,
    indices: Array,
    images: Array,
    covers: Array,
    nears: Array,
) -> None:
    foregrounds = len(sizes)
    height, width = covers.shape[1:]
    for n in range(len(indices)):
        index = indices[n]
        direction = index % directions
        foreground = index // directions // positions % foregrounds
        background = index // directions // positions // foregrounds
        h, w = sizes[foreground]
        top, left = _place(seed, index, height - h, width - w)
        # as `_pack` laid them out
        start, area = offsets[2 * foreground + direction], h * w
        planes = packed[start : start + 8 * area]
        colour = planes[: 3 * area].reshape(h, 3 * w)
        alpha3 = planes[3 * area : 6 * area].reshape(h, 3 * w)
        alpha = planes[6 * area : 7 * area].reshape(h, w)
        near = planes[7 * area :].reshape(h, w)
        _copy(rows[background].reshape(-1), images[n].reshape(-1))
        _paste(colour, alpha3, top, 3 * left, images[n])
        covers[n] = 0
        for y in range(h):
            _copy(alpha[y], covers[n, top + y, left : left + w])
        if len(far):
            _copy(far[background].reshape(-1), nears[n].reshape(-1))
            _paste_nearer(near, alpha, top, left, nears[n])


def _pack(picture: Array, near: Array | None) -> Array:
    """A foreground as the loop reads it, 8 h w bytes: colour and its alpha, a byte for a byte; alpha; nearness."""
    alpha = picture[..., 3]
    near = np.zeros_like(alpha) if near is None else near
    each = picture[..., :3], np.repeat(alpha[..., None], 3, axis=2), alpha, near
    return np.concatenate([plane.ravel() for plane in each])


@dataclass(frozen=True)
class Composites:
    """Some composites.

    Attributes:
        images: (n, H, W, 3) uint8 RGB.
        alphas: (n, H, W) uint8, how much of each pixel is foreground, 255 for all.
        nears: (n, H, W) uint8 nearness, 0 far .. 255 near; None where there is no depth. The foreground keeps its
            relief and is raised, as a whole, until it hides nothing that is nearer than it: on ground that comes
            nearer downwards it stands where its foot is.
    """

    images: np.ndarray
    alphas: np.ndarray
    nears: np.ndarray | None


class Parts:
    """Backgrounds and foregrounds, checked once and laid out for pasting.

    Args:
        backgrounds: (B, H, W, 3) uint8 RGB; kept, not copied.
        foregrounds: each (h, w, 4) uint8 RGB and alpha, h <= H and w <= W.
        background_near, foreground_near: (B, H, W) and each (h, w) uint8 nearness, 0 far .. 255 near; None where
            there is no depth.

    Raises:
        ValueError: shapes or types do not fit.
    """

    def __init__(
        self,
        backgrounds: np.ndarray,
        foregrounds: Sequence[np.ndarray],
        background_near: np.ndarray | None = None,
        foreground_near: Sequence[np.ndarray] | None = None,
    ) -> None:
        if backgrounds.ndim != 4 or backgrounds.shape[3] != 3 or backgrounds.dtype != np.uint8:
            raise ValueError(f"backgrounds are (B, H, W, 3) uint8, not {backgrounds.shape} {backgrounds.dtype}")
        count, height, width = backgrounds.shape[:3]
        if not count or not foregrounds:
            raise ValueError("there is no background, or no foreground")
        for picture in foregrounds:
            if picture.ndim != 3 or picture.shape[2] != 4 or picture.dtype != np.uint8:
                raise ValueError(f"a foreground is (h, w, 4) uint8, not {picture.shape} {picture.dtype}")
            if picture.shape[0] > height or picture.shape[1] > width:
                raise ValueError(f"a foreground of {picture.shape[:2]} exceeds backgrounds of {height, width}")
        if (background_near is None) != (foreground_near is None):
            raise ValueError("depth is of backgrounds and foregrounds, or of neither")
        near: Sequence[np.ndarray | None] = [None] * len(foregrounds)
        far = np.empty((0, height, width), np.uint8)
        if background_near is not None and foreground_near is not None:
            near, far = foreground_near, background_near
            if far.shape != backgrounds.shape[:3] or len(near) != len(foregrounds):
                raise ValueError("there is one depth map a background and one a foreground")
            for picture, own in zip(foregrounds, foreground_near, strict=True):
                if own.shape != picture.shape[:2]:
                    raise ValueError(f"a depth map of {own.shape} does not fit a foreground of {picture.shape[:2]}")
            if any(maps.dtype != np.uint8 for maps in (far, *foreground_near)):
                raise ValueError("depth maps are uint8")
        self.size: tuple[int, int] = (height, width)
        self.backgrounds = np.ascontiguousarray(backgrounds)
        self.foregrounds = foregrounds
        self.background_near: np.ndarray | None = np.ascontiguousarray(far) if len(far) else None
        self.foreground_near = foreground_near
        self._far = np.ascontiguousarray(far)
        # bytes in rows: a loop over them needs no third index
        self._rows = self.backgrounds.reshape(count, height, 3 * width)
        # each as it is, and mirrored
        packed = [
            _pack(picture[:, ::step], None if own is None else own[:, ::step])
            for picture, own in zip(foregrounds, near, strict=True)
            for step in (1, -1)
        ]
        self._packed = np.concatenate(packed)
        self._offsets = np.cumsum([0, *(len(each) for each in packed)])
        self._sizes = np.array([picture.shape[:2] for picture in foregrounds], np.int64)

    @property
    def has_depth(self) -> bool:
        """Whether depth maps were given."""
        return self.background_near is not None

    def grid(self, *, positions: int = 20, mirrored: bool = True) -> Grid:
        """All composites of these parts."""
        return Grid(len(self.backgrounds), len(self.foregrounds), positions, mirrored)

    def compose(
        self, grid: Grid, seed: int, indices: Sequence[int] | np.ndarray, out: Composites | None = None
    ) -> Composites:
        """Some of the composites of a grid, in the order of `indices`.

        Args:
            grid: of these parts.
            seed: of the places, at least 0.
            indices: (n,) items of `grid`.
            out: is filled and returned, if given: the result of a call for as many.

        Raises:
            IndexError: an item that the grid does not have.
        """
        wanted = np.asarray(indices, np.int64)
        count = len(wanted)
        if count and not (wanted.min() >= 0 and wanted.max() < len(grid)):
            raise IndexError(f"items {wanted.min()} .. {wanted.max()} of {len(grid)}")
        if out is None:
            out = Composites(
                np.empty((count, *self.size, 3), np.uint8),
                np.empty((count, *self.size), np.uint8),
                np.empty((count, *self.size), np.uint8) if len(self._far) else None,
            )
        _compose(
            self._packed,
            self._offsets,
            self._sizes,
            self._rows,
            self._far,
            grid.positions,
            1 + grid.mirrored,
            seed,
            wanted,
            out.images.reshape(count, self.size[0], -1),
            out.alphas,
            self._far if out.nears is None else out.nears,
        )
        return out
