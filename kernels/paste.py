"""The loops that make composites: pasted as Pillow's `paste` does it, whole pixels, alpha in 255ths, rounded to the
nearest level."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.compiled import compiled, inlined
from kernels.composite_grid import drawn_place

Array = np.ndarray

_U16 = np.uint16

# alpha from which a pixel is foreground
OPAQUE = 128


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
def compose_into(
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
    """Make composites `indices` of packed parts (`kernels.composition.Parts`); fills `images`, `covers` and `nears`."""
    foregrounds = len(sizes)
    height, width = covers.shape[1:]
    for n in range(len(indices)):
        index = indices[n]
        direction = index % directions
        foreground = index // directions // positions % foregrounds
        background = index // directions // positions // foregrounds
        h, w = sizes[foreground]
        top, left = drawn_place(seed, index, height - h, width - w)
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
