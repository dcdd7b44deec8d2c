"""The unchecked compiled loops between numbers and the decimal digits of a submission, behind `kernels.rle`."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.compiled import compiled

Array = np.ndarray

TOO_LARGE = -2
_MOST_DIGITS = 18


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
