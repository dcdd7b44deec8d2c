"""Tiles of a frame on which a network's logits surely have one sign at full size, found at the network's own size.

Bilinear interpolation never leaves the range of the logits around a pixel. So most of a frame, where all networks are
sure of the same, is decided without a look at its pixels; and only the tiles that are left are brought to full size.
"""

from __future__ import annotations

import functools

import numpy as np

from competition import Size
from kernels.compiled import compiled, fused

Array = np.ndarray

TILE_PX = 16
# beyond what interpolation in float32 rounds by, and more pixels than its coordinates do
_SLACK = np.float32(1e-3)
_MARGIN_PX = 2


@compiled
def _tile_ranges(plane: Array, height: int, width: int, tile: int) -> tuple[Array, Array]:
    h, w = plane.shape
    rows = (height + tile - 1) // tile
    columns = (width + tile - 1) // tile
    least = np.empty((rows, columns), np.float32)
    most = np.empty((rows, columns), np.float32)
    lowest = np.empty(w, np.float32)
    highest = np.empty(w, np.float32)
    for i in range(rows):
        first = max(0, i * tile * h // height - _MARGIN_PX)
        last = min(h, -(-min(height, (i + 1) * tile) * h // height) + _MARGIN_PX)
        lowest[:] = plane[first]
        highest[:] = plane[first]
        for y in range(first + 1, last):
            row = plane[y]
            for x in range(w):
                lowest[x] = row[x] if row[x] < lowest[x] else lowest[x]
                highest[x] = row[x] if row[x] > highest[x] else highest[x]
        for j in range(columns):
            left = max(0, j * tile * w // width - _MARGIN_PX)
            right = min(w, -(-min(width, (j + 1) * tile) * w // width) + _MARGIN_PX)
            low = lowest[left]
            high = highest[left]
            for x in range(left + 1, right):
                low = lowest[x] if lowest[x] < low else low
                high = highest[x] if highest[x] > high else high
            least[i, j] = low
            most[i, j] = high
    return least, most


def tile_ranges(plane: np.ndarray, full: Size) -> tuple[np.ndarray, np.ndarray]:
    """What the pixels of every tile of the full frame lie between, but for rounding.

    Args:
        plane: (h, w) float32 logits that cover the frame, to be brought to its size by bilinear interpolation.
        full: (H, W) of the frame, at least the plane's size.

    Returns:
        (ceil(H / TILE_PX), ceil(W / TILE_PX)) float32 each: at most the lowest and at least the highest.
    """
    least, most = _tile_ranges(plane, *full, TILE_PX)
    return least, most


def tile_signs(plane: np.ndarray, full: Size, *, low: float, high: float) -> np.ndarray:
    """Which tiles of the full frame are surely above or below a band.

    Args:
        plane, full: as `tile_ranges`.
        low, high: the band.

    Returns:
        (ceil(H / TILE_PX), ceil(W / TILE_PX)) int8: 1 where every pixel is above `high`, -1 where every one is at most
        `low`, 0 elsewhere, and where that is not sure.
    """
    least, most = tile_ranges(plane, full)
    above = least > np.float32(high) + _SLACK
    return above.view(np.int8) - (~above & (most <= np.float32(low) - _SLACK)).view(np.int8)


@compiled
def _gather(plane: Array, chosen: Array, tile: int, out: Array) -> None:
    height, width = plane.shape
    at = 0
    for y in range(height):
        for j in range(chosen.shape[1]):
            if chosen[y // tile, j]:
                for x in range(j * tile, min(width, (j + 1) * tile)):
                    out[at] = plane[y, x]
                    at += 1


def tile_areas(full: Size) -> np.ndarray:
    """Pixels of every tile, int64; those at the right and the bottom may be smaller."""
    rows = np.diff(np.append(np.arange(0, full[0], TILE_PX), full[0]))
    columns = np.diff(np.append(np.arange(0, full[1], TILE_PX), full[1]))
    return np.outer(rows, columns)


def gather(plane: np.ndarray, chosen: np.ndarray, out: np.ndarray) -> None:
    """The pixels of some tiles, in row-major order of the whole frame.

    Args:
        plane: (H, W).
        chosen: bool, as `tile_areas` has tiles.
        out: (P,) of the plane's dtype, for all pixels of these tiles; written.
    """
    _gather(plane, chosen, TILE_PX, out)


@compiled
def _spread(filled: Array, chosen: Array, values: Array, tile: int, out: Array) -> None:
    height, width = out.shape
    at = 0
    for y in range(height):
        row = out[y]
        for j in range(chosen.shape[1]):
            first = j * tile
            stop = min(width, first + tile)
            if chosen[y // tile, j]:
                row[first:stop] = values[at : at + stop - first]
                at += stop - first
            else:
                row[first:stop] = filled[y // tile, j]


def spread(filled: np.ndarray, chosen: np.ndarray, values: np.ndarray, full: Size) -> np.ndarray:
    """A mask from what is known of its tiles: the opposite of `gather`.

    Args:
        filled: bool, as `tile_areas` has tiles: what all pixels of a tile are.
        chosen: bool, of which tiles `values` has the pixels instead.
        values: (P,) bool, in row-major order of the whole frame.
        full: (H, W) of the frame.

    Returns:
        (H, W) bool.
    """
    out = np.empty(full, bool)
    _spread(filled, chosen, values, TILE_PX, out)
    return out


@functools.cache
def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each of `target` pixels in a line lies between: (target,) int64 the two, and float32 share of the second."""
    centre = (np.arange(target) + 0.5) * (source / target) - 0.5
    first = np.floor(centre).astype(np.int64)
    share = (centre - first).astype(np.float32)
    share[(first < 0) | (first >= source - 1)] = 0
    first = np.clip(first, 0, source - 1)
    return first, np.minimum(first + 1, source - 1), share


@fused
def _enlarged_tiles(
    plane: Array,
    chosen: Array,
    tile: int,
    upper: Array,
    lower: Array,
    down: Array,
    left: Array,
    right: Array,
    across: Array,
    out: Array,
) -> None:
    height, width = len(upper), len(left)
    # rows of the plane, each at the width of the frame, that the pixels of a row of tiles lie between
    lines = np.empty((tile + 2, width), np.float32)
    columns = np.empty(width, np.int64)
    at = 0
    for i in range(chosen.shape[0]):
        count = 0
        for j in range(chosen.shape[1]):
            if chosen[i, j]:
                for x in range(j * tile, min(width, (j + 1) * tile)):
                    columns[count] = x
                    count += 1
        if count == 0:
            continue
        top = i * tile
        bottom = min(height, top + tile)
        first = upper[top]
        for y in range(first, lower[bottom - 1] + 1):
            row = plane[y]
            line = lines[y - first]
            for k in range(count):
                x = columns[k]
                value = row[left[x]]
                line[k] = value + across[x] * (row[right[x]] - value)
        for y in range(top, bottom):
            above = lines[upper[y] - first]
            below = lines[lower[y] - first]
            share = down[y]
            part = out[at : at + count]
            for k in range(count):
                part[k] = above[k] + share * (below[k] - above[k])
            at += count


@fused
def _enlarged_at(
    plane: Array,
    pixels: Array,
    upper: Array,
    lower: Array,
    down: Array,
    left: Array,
    right: Array,
    across: Array,
    out: Array,
) -> None:
    width = len(left)
    for k in range(len(pixels)):
        y = pixels[k] // width
        x = pixels[k] % width
        share = across[x]
        above = plane[upper[y], left[x]]
        above = above + share * (plane[upper[y], right[x]] - above)
        below = plane[lower[y], left[x]]
        below = below + share * (plane[lower[y], right[x]] - below)
        out[k] = above + down[y] * (below - above)


def enlarged_tiles(plane: np.ndarray, full: Size, chosen: np.ndarray, out: np.ndarray) -> None:
    """The pixels of some tiles of the full frame, as `gather` has them, by bilinear interpolation.

    Args:
        plane: (h, w) float32, C-contiguous.
        full: (H, W) of the frame, at least the plane's size.
        chosen: bool, as `tile_areas` has tiles.
        out: (P,) float32 for all pixels of these tiles; written.
    """
    _enlarged_tiles(plane, chosen, TILE_PX, *_taps(plane.shape[0], full[0]), *_taps(plane.shape[1], full[1]), out)


def enlarged_at(plane: np.ndarray, full: Size, pixels: np.ndarray) -> np.ndarray:
    """Single pixels of the full frame, by bilinear interpolation.

    Args:
        plane, full: as `enlarged_tiles`.
        pixels: (K,) int64 positions in row-major order.

    Returns:
        (K,) float32.
    """
    out = np.empty(len(pixels), np.float32)
    _enlarged_at(plane, pixels, *_taps(plane.shape[0], full[0]), *_taps(plane.shape[1], full[1]), out)
    return out


@compiled
def _tile_truth(mask: Array, tile: int) -> Array:
    height, width = mask.shape
    out = np.zeros(((height + tile - 1) // tile, (width + tile - 1) // tile), np.int64)
    for y in range(height):
        for j in range(out.shape[1]):
            count = 0
            for x in range(j * tile, min(width, (j + 1) * tile)):
                count += mask[y, x]
            out[y // tile, j] += count
    return out


def tile_truth(mask: np.ndarray) -> np.ndarray:
    """Pixels of every tile that are true in (H, W) uint8 0/1, int64."""
    return _tile_truth(mask, TILE_PX)


@compiled
def _selected(logits: Array, truth: Array) -> tuple[int, int]:
    both = 0
    predicted = 0
    for x in range(len(logits)):
        inside = logits[x] > 0
        predicted += inside
        both += inside & truth[x]
    return both, predicted


def selected(logits: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """Of pixels (P,) float32 above 0: those that are true (P,) uint8, and all."""
    both, predicted = _selected(logits, truth)
    return int(both), int(predicted)
