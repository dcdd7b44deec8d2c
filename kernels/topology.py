"""How many pieces and holes a mask has, counted on its runs."""

from __future__ import annotations

import numpy as np

from competition import Size
from kernels.compiled import compiled

Array = np.ndarray


@compiled
def _segments(runs: Array, width: int) -> Array:
    """(S, 3) int64 row, first column, column behind the last: runs cut where a row ends."""
    count = 0
    for start, length in runs:
        count += (start + length - 2) // width - (start - 1) // width + 1
    segments = np.empty((count, 3), np.int64)
    at = 0
    for start, length in runs:
        first, stop = start - 1, start + length - 1
        while first < stop:
            row = first // width
            end = min(stop, (row + 1) * width)
            segments[at] = row, first - row * width, end - row * width
            at += 1
            first = end
    return segments


@compiled
def _root(parents: Array, at: int) -> int:
    while parents[at] != at:
        parents[at] = parents[parents[at]]
        at = parents[at]
    return at


@compiled
def _survey(segments: Array) -> tuple[int, int]:
    """Pieces, and pairs of segments that touch, diagonally too, from one row to the next."""
    count = len(segments)
    parents = np.arange(count)
    pieces = count
    touching = 0
    above = 0
    for at in range(count):
        row, first, stop = segments[at]
        # a segment above that ends before this one begins ends before all later ones of the row
        while above < at and (
            segments[above, 0] < row - 1 or (segments[above, 0] == row - 1 and segments[above, 2] < first)
        ):
            above += 1
        other = above
        while other < at and segments[other, 0] == row - 1 and segments[other, 1] <= stop:
            touching += 1
            one, two = _root(parents, at), _root(parents, other)
            if one != two:
                parents[one] = two
                pieces -= 1
            other += 1
    return pieces, touching


def pieces_and_holes(runs: np.ndarray, size: Size) -> tuple[int, int]:
    """Count a mask's pieces and holes.

    A piece is 8-connected foreground; a hole is 4-connected background that does not touch the frame's border.

    Args:
        runs: (R, 2) int64 row-major runs (start_px, length_px), 1-based, in order and apart; a run may go on from one
            row's end into the next row's start.
        size: (H, W).

    >>> from kernels.rle import encode
    >>> pieces_and_holes(encode(np.array([[1, 1, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0]], bool)), (3, 5))
    (2, 1)
    """
    segments = _segments(runs, size[1])
    pieces, touching = _survey(segments)
    # Euler's number, pieces less holes, is segments less contacts: no three of them meet
    return int(pieces), int(pieces - len(segments) + touching)
