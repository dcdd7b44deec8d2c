"""Which composite has which number, and where its foreground lies: item i of N is a pure function of (seed, i)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.compiled import compiled


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
def drawn_place(seed: int, index: int, vertical: int, horizontal: int) -> Any:
    """`place`, for compiled loops."""
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
    top, left = drawn_place(seed, index, *room)
    return int(top), int(left)
