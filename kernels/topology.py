"""Pieces and holes of a mask, found on its runs."""

from __future__ import annotations

from dataclasses import dataclass

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


@compiled
def _parts(segments: Array, diagonal: int) -> Array:
    """(S,) int64: of every segment the number of one that stands for all it is connected with."""
    count = len(segments)
    parents = np.arange(count)
    above = 0
    for at in range(count):
        row, first, stop = segments[at]
        while above < at and (
            segments[above, 0] < row - 1 or (segments[above, 0] == row - 1 and segments[above, 2] + diagonal <= first)
        ):
            above += 1
        other = above
        while other < at and segments[other, 0] == row - 1 and segments[other, 1] < stop + diagonal:
            one, two = _root(parents, at), _root(parents, other)
            if one != two:
                parents[one] = two
            other += 1
    for at in range(count):
        parents[at] = _root(parents, at)
    return parents


@compiled
def _any_near(segments: Array, part: Array, reach: int) -> bool:
    count = len(segments)
    start = 0
    for at in range(count):
        row, first, stop = segments[at]
        while segments[start, 0] < row - reach:
            start += 1
        for other in range(start, at):
            if part[other] != part[at] and segments[other, 1] - stop < reach and first - segments[other, 2] < reach:
                return True
    return False


@dataclass(frozen=True)
class Parts:
    """Connected parts of a mask, or of what is left of the frame.

    Attributes:
        areas: (P,) pixels of each part.
        at_border: (P,) bool: it touches the border of the frame.
    """

    areas: np.ndarray
    at_border: np.ndarray
    _segments: np.ndarray
    _part: np.ndarray
    _width: int

    @staticmethod
    def of(runs: np.ndarray, size: Size, *, diagonal: bool) -> Parts:
        """The parts of a mask.

        Args:
            runs: (R, 2) as `pieces_and_holes` takes them.
            size: (H, W).
            diagonal: pixels that touch at a corner are connected: parts are 8-connected, otherwise 4-connected.
        """
        segments = _segments(np.asarray(runs, np.int64), size[1])
        roots = _parts(segments, int(diagonal))
        kept, part = np.unique(roots, return_inverse=True)
        areas = np.zeros(len(kept), np.int64)
        np.add.at(areas, part, segments[:, 2] - segments[:, 1])
        row, first, stop = segments.T
        outer = (row == 0) | (row == size[0] - 1) | (first == 0) | (stop == size[1])
        at_border = np.zeros(len(kept), bool)
        at_border[part[outer]] = True
        return Parts(areas, at_border, segments, part, size[1])

    def flat(self, which: np.ndarray) -> np.ndarray:
        """(n, 2) int64 first pixel and the one behind the last, of each line of pixels of some parts, (P,) bool."""
        row, first, stop = self._segments[which[self._part]].T
        return np.stack([row * self._width + first, row * self._width + stop], axis=1)

    def any_near(self, reach_px: int) -> bool:
        """Whether two of them are so near each other that fewer than `reach_px` rows and columns lie between."""
        return len(self.areas) > 1 and bool(_any_near(self._segments, self._part, reach_px))


def runs_of_lines(lines: np.ndarray) -> np.ndarray:
    """(R, 2) int64 runs of lines of pixels as `Parts.flat` has them, which do not overlap, in any order."""
    lines = lines[np.argsort(lines[:, 0], kind="stable")]
    begins = np.ones(len(lines), bool)
    begins[1:] = lines[1:, 0] != lines[:-1, 1]
    ends = np.ones(len(lines), bool)
    ends[:-1] = begins[1:]
    starts = lines[begins, 0]
    return np.stack([starts + 1, lines[ends, 1] - starts], axis=1)


def background(runs: np.ndarray, size: Size) -> np.ndarray:
    """(R, 2) int64 runs of what a mask's runs leave of the frame.

    >>> background(np.array([[2, 3]]), (1, 6)).tolist()
    [[1, 1], [5, 2]]
    """
    starts, lengths = np.asarray(runs, np.int64).T
    edges = np.concatenate([[1], np.stack([starts, starts + lengths], axis=1).reshape(-1), [size[0] * size[1] + 1]])
    others = np.stack([edges[::2], edges[1::2] - edges[::2]], axis=1)
    return others[others[:, 1] > 0]
