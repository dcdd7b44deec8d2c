"""The unchecked compiled loops behind `kernels.rle`: arguments must be what the wrappers there make of them.

*Edges* are the 0-based positions where a flat mask changes: starts and ends of runs in turn, the end exclusive.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.compiled import compiled, inlined

Array = np.ndarray

# Pixels compared in one go. The loop over a block has no branch, so the compiler turns it into vector instructions; a
# block that holds no edge, as nearly all do, costs little more than reading it. Of 64 to 1024 the fastest.
_BLOCK = 128
_WORDS = _BLOCK // 8
# eight pixels of a mask, a byte each
_ALL_INSIDE = np.uint64(0x0101010101010101)
_EIGHT = np.uint64(8)
_LAST_BYTE = np.uint64(56)
_ONE = np.uint64(1)
_FIRST_CAPACITY = 8192


# Every scan below works into a given buffer and stops when that is full, so that its loop neither allocates nor counts
# references; its caller enlarges the buffer and lets it go on: from the first pixel not seen, the state before it, and
# the number of edges so far.
Progress = tuple[int, Any, int]


@compiled
def _larger(edges: Array) -> Array:
    result = np.empty(4 * len(edges), np.int64)
    result[: len(edges)] = edges
    return result


@inlined
def _edges_within(words: Array, first: int, inside: Any, edges: Array, count: Any) -> Any:
    """Append the edges of a block of mask bytes, eight in a (little-endian) word; returns how many there are now.

    `first` is the block's first pixel, and `inside` (0 or 1) the pixel before it.
    """
    state = np.uint64(inside) * _ALL_INSIDE
    for i in range(len(words)):
        word = words[i]
        if word == state:
            continue
        turned = word ^ ((word << _EIGHT) | (state & _ONE))
        at = first + 8 * i
        for k in range(8):
            # written always, kept only where the mask changes: cheaper than a branch nobody can foresee
            edges[count] = at + k
            count += np.int64((turned >> np.uint64(8 * k)) & _ONE)
        state = (word >> _LAST_BYTE) * _ALL_INSIDE
    return count


@compiled
def _closed(edges: Array, count: int, inside: Any, length: int) -> Array:
    """The edges, with the end of a run that goes on to the last pixel. A scan always leaves room for it."""
    if inside:
        edges[count] = length
        count += 1
    return edges[:count]


@compiled
def _scan_mask(words: Array, start: int, state: Any, edges: Array, count: int) -> Progress:
    for at in range(start, len(words), _WORDS):
        block = words[at : at + _WORDS]
        change = np.uint64(0)
        for i in range(len(block)):
            change |= block[i] ^ state
        if change == 0:
            continue
        if change & ~_ALL_INSIDE:
            return at, state, -1
        if count + _BLOCK >= len(edges):
            return at, state, count
        count = _edges_within(block, 8 * at, state & _ONE, edges, count)
        state = (block[len(block) - 1] >> _LAST_BYTE) * _ALL_INSIDE
    return len(words), state, count


@compiled
def mask_edges(words: Array, rest: Array) -> tuple[Array, Any]:
    """Edges of a flat mask of bytes 0 and 1, and whether it holds nothing else.

    Args:
        words: uint64, the mask's bytes, eight in a word.
        rest: uint8, the up to seven bytes after them.
    """
    edges = np.empty(_FIRST_CAPACITY, np.int64)
    start, state, count = _scan_mask(words, 0, np.uint64(0), edges, 0)
    while count >= 0 and (start < len(words) or count + _BLOCK >= len(edges)):
        edges = _larger(edges)
        start, state, count = _scan_mask(words, start, state, edges, count)
    if count < 0:
        return edges[:0], False
    inside: Any = np.uint8(state & _ONE)
    for i in range(len(rest)):
        if rest[i] > 1:
            return edges[:0], False
        edges[count] = 8 * len(words) + i
        count += rest[i] != inside
        inside = rest[i]
    return _closed(edges, count, inside, 8 * len(words) + len(rest)), True


# `one` is a 1 as wide as the pixels' own type: flags of that width stay in the lanes that the comparison filled
_LANES = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@compiled
def _scan_above(
    flat: Array, threshold: Any, one: Any, pixels: Array, start: int, inside: Any, edges: Array, count: int
) -> Progress:
    words = pixels.view(np.uint64)
    zero = one ^ one
    for at in range(start, len(flat), _BLOCK):
        block = flat[at : at + _BLOCK]
        state = one if inside else zero
        change = zero
        for i in range(len(block)):
            change |= (one if block[i] > threshold else zero) ^ state
        if change == 0:
            continue
        if count + _BLOCK >= len(edges):
            return at, inside, count
        for i in range(len(block)):
            pixels[i] = block[i] > threshold
        # a last, short block has no edge after its end
        pixels[len(block) :] = pixels[len(block) - 1]
        count = _edges_within(words, at, inside, edges, count)
        inside = pixels[_BLOCK - 1] != 0
    return len(flat), inside, count


def edges_above(flat: Array, threshold: Any) -> Array:
    """Edges of `flat > threshold`, both of the same dtype."""
    edges = np.empty(_FIRST_CAPACITY, np.int64)
    pixels = np.empty(_BLOCK, np.uint8)
    one = _LANES[flat.dtype.itemsize](1)
    start, inside, count = _scan_above(flat, threshold, one, pixels, 0, False, edges, 0)
    while start < len(flat):
        edges = _larger(edges)
        start, inside, count = _scan_above(flat, threshold, one, pixels, start, inside, edges, count)
    return _closed(edges, count, inside, len(flat))


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


@inlined
def _half_inside(bits: Any, low: Any, high: Any) -> Any:
    key = np.uint16(bits ^ (np.uint16(0x8000) | np.uint16(np.int16(bits) >> 15)))
    return (key > low) & (key <= high)


@compiled
def _scan_half(
    bits: Array, low: Any, high: Any, pixels: Array, start: int, inside: Any, edges: Array, count: int
) -> Progress:
    words = pixels.view(np.uint64)
    for at in range(start, len(bits), _BLOCK):
        block = bits[at : at + _BLOCK]
        # flags of one bit: here the fastest, where for single comparisons lanes of the pixels' width are
        change = False
        for i in range(len(block)):
            change |= _half_inside(block[i], low, high) ^ inside
        if not change:
            continue
        if count + _BLOCK >= len(edges):
            return at, inside, count
        for i in range(len(block)):
            pixels[i] = _half_inside(block[i], low, high)
        pixels[len(block) :] = pixels[len(block) - 1]
        count = _edges_within(words, at, inside, edges, count)
        inside = pixels[_BLOCK - 1] != 0
    return len(bits), inside, count


def half_edges(bits: Array, low: np.uint16, high: np.uint16) -> Array:
    """Edges of float16 numbers, given as their bits, whose sortable key is above `low` and at most `high`.

    The key of a half-precision number is its bits with the sign turned (all bits turned for negative ones): keys are
    in the order of the numbers. NaNs lie beyond infinity and count as background.
    """
    edges = np.empty(_FIRST_CAPACITY, np.int64)
    pixels = np.empty(_BLOCK, np.uint8)
    start, inside, count = _scan_half(bits, low, high, pixels, 0, False, edges, 0)
    while start < len(bits):
        edges = _larger(edges)
        start, inside, count = _scan_half(bits, low, high, pixels, start, inside, edges, count)
    return _closed(edges, count, inside, len(bits))


@compiled
def runs(edges: Array) -> Array:
    """(R, 2) int64 runs, 1-based, of edges."""
    result = np.empty((len(edges) // 2, 2), np.int64)
    for r in range(len(result)):
        result[r, 0] = edges[2 * r] + 1
        result[r, 1] = edges[2 * r + 1] - edges[2 * r]
    return result


@compiled
def fill(run_list: Array, total_px: int) -> Array:
    """uint8 flat mask of runs (R, 2)."""
    flat = np.zeros(total_px, np.uint8)
    for r in range(len(run_list)):
        start = run_list[r, 0] - 1
        flat[start : start + run_list[r, 1]] = 1
    return flat


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
