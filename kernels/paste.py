"""The loops that make composites: pasted as Pillow's `paste` does it, whole pixels, alpha in 255ths, rounded to the
nearest level.

They walk over flat bytes by unsigned places: a slice a row takes a fifth of the time, and a signed place, which may
count from the end, keeps the compiler from taking many bytes at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.compiled import compiled, inlined
from kernels.composite_grid import drawn_place

Array = np.ndarray

_U16, _U64 = np.uint16, np.uint64

# alpha from which a pixel is foreground
OPAQUE = 128
# bytes of a pixel of a picture
_RGB = np.uint64(3)
# of a packed foreground, in pixels: where alpha begins after colour and its alpha, and nearness after that
_ALPHA, _NEAR = np.uint64(6), np.uint64(7)


@inlined
def _blended(under: Any, over: Any, alpha: Any) -> Any:
    """(under * (255 - alpha) + over * alpha) / 255 of levels 0 .. 255, rounded exactly."""
    # in 16 bits, which the sum just fits: twice as many at a time as in 32
    below = _U16(_U16(under) * _U16(_U16(255) - _U16(alpha)))
    level = _U16(_U16(below + _U16(_U16(over) * _U16(alpha))) + _U16(128))
    return np.uint8(_U16(_U16(level >> _U16(8)) + level) >> _U16(8))


@inlined
def _copy(source: Array, at: Any, out: Array, to: Any, count: Any) -> None:
    for x in range(count):
        out[to + x] = source[at + x]


@compiled
def _blend(under: Array, at: Any, packed: Array, over: Any, alpha: Any, count: Any, out: Array) -> None:
    """`count` bytes of `under` from `at` on, and of `packed` from `over` on with the alpha there, into `out`."""
    for x in range(count):
        out[at + x] = _blended(under[at + x], packed[over + x], packed[alpha + x])


@compiled
def _paste(under: Array, packed: Array, start: Any, height: Any, width: Any, at: Any, stride: Any, out: Array) -> None:
    """A whole picture of `under`, rows of `stride` bytes, with a foreground's colour from byte `at` on, into `out`."""
    done, alpha = _U64(0), start + height * width
    for y in range(height):
        row = at + y * stride
        # what lies between the foreground's rows, around the picture's edge
        _copy(under, done, out, done, row - done)
        _blend(under, row, packed, start + y * width, alpha + y * width, width, out)
        done = row + width
    _copy(under, done, out, done, _U64(len(under)) - done)


@compiled
def _lift(under: Array, packed: Array, start: Any, height: Any, width: Any, at: Any, stride: Any) -> Any:
    """By how much a foreground's nearness must be raised, as a whole, until it is nowhere below `under` where it is
    opaque."""
    lift, area = np.uint8(0), height * width
    for y in range(height):
        row, alpha, near = at + y * stride, start + _ALPHA * area + y * width, start + _NEAR * area + y * width
        for x in range(width):
            own = packed[near + x]
            gap = np.uint8(max(under[row + x], own) - own)
            lift = max(lift, gap if packed[alpha + x] >= OPAQUE else np.uint8(0))
    return lift


@compiled
def _paste_raised(
    under: Array, packed: Array, start: Any, height: Any, width: Any, at: Any, stride: Any, lift: Any, out: Array
) -> None:
    """As `_paste`, of nearness, the foreground's raised by `lift`, but not above 255."""
    done, area = _U64(0), height * width
    for y in range(height):
        row, alpha, near = at + y * stride, start + _ALPHA * area + y * width, start + _NEAR * area + y * width
        _copy(under, done, out, done, row - done)
        for x in range(width):
            room = np.uint8(255 - packed[near + x])
            raised = np.uint8(packed[near + x] + (lift if lift < room else room))
            out[row + x] = _blended(under[row + x], raised, packed[alpha + x])
        done = row + width
    _copy(under, done, out, done, _U64(len(under)) - done)


@compiled
def compose_into(
    packed: Array,
    offsets: Array,
    sizes: Array,
    pictures: Array,
    far: Array,
    width: int,
    positions: int,
    directions: int,
    seed: int,
    indices: Array,
    images: Array,
    covers: Array,
    nears: Array,
) -> int:
    """Make composites `indices` of packed parts (`kernels.composition.Parts`), each of flat bytes; fills `images`,
    `covers` and `nears`.

    Returns:
        -1, or the position of the first index that the parts do not have: then nothing is made.
    """
    foregrounds = len(sizes)
    limit = len(pictures) * foregrounds * positions * directions
    for n in range(len(indices)):
        if not 0 <= indices[n] < limit:
            return n
    height = covers.shape[1] // width
    for n in range(len(indices)):
        index = indices[n]
        direction = index % directions
        foreground = index // directions // positions % foregrounds
        background = index // directions // positions // foregrounds
        rows, columns = sizes[foreground]
        top, left = drawn_place(seed, index, height - rows, width - columns)
        start = _U64(offsets[2 * foreground + direction])
        h, w, at, stride = _U64(rows), _U64(columns), _U64(top * width + left), _U64(width)
        _paste(pictures[background], packed, start, h, _RGB * w, _RGB * at, _RGB * stride, images[n])
        alpha, cover = start + _ALPHA * h * w, covers[n]
        cover[:] = 0
        for y in range(h):
            _copy(packed, alpha + y * w, cover, at + y * stride, w)
        if len(far):
            lift = _lift(far[background], packed, start, h, w, at, stride)
            _paste_raised(far[background], packed, start, h, w, at, stride, lift, nears[n])
    return -1
