"""The unchecked compiled transpositions behind run lengths in column order (`kernels.rle`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.compiled import compiled

Array = np.ndarray

_ONES = np.uint64(0x0101010101010101)


@compiled
def turn(array: Array) -> Array:
    """C-contiguous transposed copy of a 2-D array, tile by tile so that reads and writes both stay in the cache."""
    height, width = array.shape
    result = np.empty((width, height), array.dtype)
    tile = 32
    for top in range(0, height, tile):
        bottom = min(top + tile, height)
        for left in range(0, width, tile):
            right = min(left + tile, width)
            for x in range(left, right):
                for y in range(top, bottom):
                    result[x, y] = array[y, x]
    return result


# byte k of entry b is bit k of b
SPREAD = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(np.uint8).view(np.uint64).reshape(-1)


@compiled
def turn_mask(mask: Array, spread: Array) -> tuple[Array, Any]:
    """`turn` for a C-contiguous mask of bytes 0 and 1 whose height is a multiple of 8, four times as fast.

    Eight rows become one, a bit each; then eight bits, which are a piece of a column, become eight bytes. Also returns
    whether the mask holds 0 and 1 only.
    """
    height, width = mask.shape
    count = (width + 7) // 8
    strip = np.zeros((8, 8 * count), np.uint8)
    words = strip.view(np.uint64)
    result = np.empty((width, height), np.uint8)
    columns = result.view(np.uint64)
    seen = np.uint64(0)
    for top in range(0, height, 8):
        for k in range(8):
            strip[k, :width] = mask[top + k]
        for j in range(count):
            packed = np.uint64(0)
            for k in range(8):
                word = words[k, j]
                seen |= word
                packed |= word << np.uint64(k)
            for c in range(min(8, width - 8 * j)):
                columns[8 * j + c, top // 8] = spread[np.int64((packed >> np.uint64(8 * c)) & np.uint64(255))]
    return result, (seen & ~_ONES) == 0
