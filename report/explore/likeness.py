"""Images that are nearly the same though nothing says so: between train and test, and between groups of the training
set, where a split by group would not keep them together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# of 256 bits; what differs in more is not looked at
_NEAR_BITS = 20
# grey levels, the mean over a small picture less its own mean; what differs by more is another picture
_NEAR_LEVELS = 3.0
_ROWS = 256
_MOST_PAIRS = 200_000


@dataclass(frozen=True)
class Likeness:
    """Which images of two sets are nearly the same.

    Attributes:
        pairs: (first, second, bits, levels) of each, the likest first; first and second are positions.
        nearest_bits: (N,) bits in which each image of the first set differs from the nearest of the second.
    """

    pairs: list[tuple[int, int, int, float]]
    nearest_bits: np.ndarray


def _distances(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(start, (n, M) uint16 bits) for a few rows at a time."""
    a, b = (np.ascontiguousarray(each).view(np.uint64) for each in (first, second))
    for start in range(0, len(a), _ROWS):
        bits = np.zeros((len(a[start : start + _ROWS]), len(b)), np.uint16)
        for word in range(a.shape[1]):
            bits += np.bitwise_count(a[start : start + _ROWS, word, None] ^ b[None, :, word])
        yield start, bits


def _levels(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference of two small grey pictures, each less its own mean."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    return float(np.abs((a - a.mean()) - (b - b.mean())).mean())


def near_duplicates(
    hashes: np.ndarray,
    thumbnails: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    groups: np.ndarray | None = None,
) -> Likeness:
    """Pairs of images, one of each set, that differ in next to nothing.

    Args:
        hashes: (N, 32) uint8 of all images; see `dhash`.
        thumbnails: (N, h, w) uint8 grey of all images.
        first, second: positions of the sets' images; the same for pairs within one set.
        groups: (N,) of all images; pairs within a group are left out. None to leave out none but an image with itself.
    """
    pairs: list[tuple[int, int, int, float]] = []
    nearest = np.full(len(first), hashes.shape[1] * 8 if len(hashes) else 0, np.uint16)
    within = first is second
    for start, bits in _distances(hashes[first], hashes[second]):
        rows = first[start : start + len(bits)]
        same = rows[:, None] == second if groups is None else groups[rows][:, None] == groups[second]
        bits[same] = np.iinfo(np.uint16).max
        nearest[start : start + len(bits)] = np.minimum(nearest[start : start + len(bits)], bits.min(1, initial=65535))
        for i, j in zip(*np.nonzero(bits <= _NEAR_BITS), strict=True):
            one, other = int(rows[i]), int(second[j])
            if (within and one >= other) or len(pairs) >= _MOST_PAIRS:
                continue
            levels = _levels(thumbnails[one], thumbnails[other])
            if levels <= _NEAR_LEVELS:
                pairs.append((one, other, int(bits[i, j]), levels))
    return Likeness(sorted(pairs, key=lambda pair: (pair[2], pair[3], pair[0], pair[1])), nearest)
