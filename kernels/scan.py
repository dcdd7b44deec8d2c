"""The unchecked compiled loops behind `kernels.rle`: arguments must be what the wrappers there make of them.

*Edges* are the 0-based positions where a flat mask changes: starts and ends of runs in turn, the end exclusive.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.compiled import compiled

Array = np.ndarray

# Pixels compared in one go. The inner loops have no branch, so the compiler turns them into vector instructions; a
# block that holds no edge, as nearly all do, costs no more than reading it.
_BLOCK = 512
# within a block that holds an edge, the same again in small
_PART = 64
_FIRST_CAPACITY = 8192
TOO_LARGE = -2
_MOST_DIGITS = 18


@compiled
def _grown(edges: Array, needed: int) -> Array:
    if needed <= len(edges):
        return edges
    larger = np.empty(max(2 * len(edges), needed), np.int64)
    larger[: len(edges)] = edges
    return larger


@compiled
def mask_edges(flat: Array) -> tuple[Array, Any]:
    """Edges of a flat uint8 mask, and whether it holds 0 and 1 only."""
    edges = np.empty(_FIRST_CAPACITY, np.int64)
    count = 0
    state = np.uint8(0)
    seen = np.uint8(0)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        change = np.uint8(0)
        for i in range(len(block)):
            change |= block[i] ^ state
        if change == 0:
            continue
        edges = _grown(edges, count + len(block) + 1)
        for first in range(0, len(block), _PART):
            part = block[first : first + _PART]
            change = np.uint8(0)
            for i in range(len(part)):
                change |= part[i] ^ state
            if change == 0:
                continue
            seen |= change
            for i in range(len(part)):
                # written always, kept only where the mask changes: cheaper than a branch nobody can foresee
                edges[count] = start + first + i
                count += part[i] != state
                state = part[i]
    if state != 0:
        edges[count] = len(flat)
        count += 1
    return edges[:count], seen <= 1


@compiled
def edges_above(flat: Array, threshold: Any) -> Array:
    """Edges of `flat > threshold`, both of the same dtype."""
    edges = np.empty(_FIRST_CAPACITY, np.int64)
    count = 0
    state = False
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        change = False
        for i in range(len(block)):
            change |= (block[i] > threshold) ^ state
        if not change:
            continue
        edges = _grown(edges, count + len(block) + 1)
        for first in range(0, len(block), _PART):
            part = block[first : first + _PART]
            change = False
            for i in range(len(part)):
                change |= (part[i] > threshold) ^ state
            if not change:
                continue
            for i in range(len(part)):
                edges[count] = start + first + i
                inside = part[i] > threshold
                count += inside != state
                state = inside
    if state:
        edges[count] = len(flat)
        count += 1
    return edges[:count]


def rounded_down(threshold: float, dtype: np.dtype[Any]) -> Any:
    """The largest number of a floating type that is not above `threshold`: above both lie the same numbers."""
    with np.errstate(over="ignore"):
        limit = dtype.type(threshold)
        # float(): numpy would round the threshold to the narrow type before it compares
        return np.nextafter(limit, dtype.type(-np.inf)) if float(limit) > threshold else limit


def half_interval(threshold: float) -> tuple[np.uint16, np.uint16]:
    """The sortable keys (`half_edges`) of the largest float16 not above `threshold`, and of infinity."""
    limit = rounded_down(threshold, np.dtype(np.float16))
    # -0 sorts below +0, yet neither is above the other
    limit = np.float16(0) if limit == 0 else limit
    bits = int(limit.view(np.uint16))
    key = bits ^ (0xFFFF if bits & 0x8000 else 0x8000)
    return np.uint16(key), np.uint16(0x7C00 ^ 0x8000)


@compiled
def _half_inside(bits: Any, low: Any, high: Any) -> Any:
    key = np.uint16(bits ^ (np.uint16(0x8000) | np.uint16(np.int16(bits) >> 15)))
    return (key > low) & (key <= high)


@compiled
def half_edges(bits: Array, low: np.uint16, high: np.uint16) -> Array:
    """Edges of float16 numbers, given as their bits, whose sortable key is above `low` and at most `high`.

    The key of a half-precision number is its bits with the sign turned (all bits turned for negative ones): keys are
    in the order of the numbers. NaNs lie beyond infinity and count as background.
    """
    edges = np.empty(_FIRST_CAPACITY, np.int64)
    count = 0
    state = False
    for start in range(0, len(bits), _BLOCK):
        block = bits[start : start + _BLOCK]
        change = False
        for i in range(len(block)):
            change |= _half_inside(block[i], low, high) ^ state
        if not change:
            continue
        edges = _grown(edges, count + len(block) + 1)
        for first in range(0, len(block), _PART):
            part = block[first : first + _PART]
            change = False
            for i in range(len(part)):
                change |= _half_inside(part[i], low, high) ^ state
            if not change:
                continue
            for i in range(len(part)):
                inside = _half_inside(part[i], low, high)
                edges[count] = start + first + i
                count += inside != state
                state = inside
    if state:
        edges[count] = len(bits)
        count += 1
    return edges[:count]


@compiled
def runs(edges: Array) -> Array:
    """(R, 2) int64 runs, 1-based, of edges."""
    result = np.empty((len(edges) // 2, 2), np.int64)
    for r in range(len(result)):
        result[r, 0] = edges[2 * r] + 1
        result[r, 1] = edges[2 * r + 1] - edges[2 * r]
    return result


@compiled
def _write(buffer: Array, at: int, number: Any) -> int:
    """Write the digits of a positive number and a space at `at`; returns the place after them."""
    digits = 1
    limit = 10
    while number >= limit:
        digits += 1
        limit *= 10
    place = at + digits - 1
    rest = np.uint32(number) if number < 4294967296 else number
    for _ in range(digits):
        tenth = rest // 10
        buffer[place] = 48 + (rest - tenth * 10)
        rest = tenth
        place -= 1
    buffer[at + digits] = 32
    return at + digits + 1


@compiled
def text(edges: Array) -> Array:
    """uint8 characters `start length start length ...` of edges."""
    if len(edges) == 0:
        return np.empty(0, np.uint8)
    widest = 1
    limit = 10
    while edges[-1] + 1 >= limit:
        widest += 1
        limit *= 10
    buffer = np.empty(len(edges) * (widest + 1), np.uint8)
    at = 0
    for r in range(0, len(edges), 2):
        at = _write(buffer, at, edges[r] + 1)
        at = _write(buffer, at, edges[r + 1] - edges[r])
    return buffer[: at - 1]


@compiled
def fill(run_list: Array, total_px: int) -> Array:
    """uint8 flat mask of runs (R, 2)."""
    flat = np.zeros(total_px, np.uint8)
    for r in range(len(run_list)):
        start = run_list[r, 0] - 1
        flat[start : start + run_list[r, 1]] = 1
    return flat


@compiled
def numbers(characters: Array) -> tuple[Array, int]:
    """int64 numbers of a text of digits and spaces, and -1; else what there was, and the place of the first other
    character, or TOO_LARGE."""
    found = np.empty((len(characters) + 1) // 2, np.int64)
    count = 0
    value: Any = 0
    digits = 0
    for i in range(len(characters)):
        c = characters[i]
        if 48 <= c <= 57:
            digits += 1
            if digits > _MOST_DIGITS:
                return found[:count], TOO_LARGE
            value = value * 10 + np.int64(c - 48)
        elif c == 32:
            if digits:
                found[count] = value
                count += 1
                value = 0
                digits = 0
        else:
            return found[:count], i
    if digits:
        found[count] = value
        count += 1
    return found[:count], -1


@compiled
def transpose(array: Array) -> Array:
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
