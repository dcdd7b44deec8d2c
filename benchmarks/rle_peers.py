"""How others encode run lengths: our own equivalents of the usual kernels, and pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco

from kernels.compiled import compiled
from kernels.digits import text as text_of_edges

Array = np.ndarray


@compiled
def _sum_words(words: Array) -> Any:
    total = np.uint64(0)
    for i in range(len(words)):
        total += words[i]
    return total


def read(array: Array) -> int:
    """Read every byte once, as a vectorised sum of 64-bit words: the floor of anything that looks at all pixels."""
    return int(_sum_words(array.reshape(-1).view(np.uint64)))


def diff_and_join(mask: Array) -> bytes:
    """Pad with zeros, compare neighbours, join the numbers: the most copied kernel."""
    pixels = np.concatenate([[0], mask.flatten(), [0]])
    places = np.where(pixels[1:] != pixels[:-1])[0] + 1
    places[1::2] -= places[::2]
    return " ".join(str(number) for number in places).encode()


def strided_diff(mask: Array) -> bytes:
    """Compare the mask with itself shifted by one, no copy. It takes the first and last pixel for background."""
    pixels = mask.reshape(-1)
    places = np.flatnonzero(pixels[1:] != pixels[:-1]) + 2
    places[1::2] -= places[::2]
    return " ".join(map(str, places.tolist())).encode()


@compiled
def _edges_by_pixel(flat: Array, threshold: Any) -> Array:
    edges = np.empty(len(flat) + 1, np.int64)
    count = 0
    inside = False
    for i in range(len(flat)):
        if (flat[i] > threshold) != inside:
            inside = not inside
            edges[count] = i
            count += 1
    if inside:
        edges[count] = len(flat)
        count += 1
    return edges[:count]


def numba_by_pixel(array: Array) -> bytes:
    """A compiled loop, a pixel at a time, with our digits."""
    flat = array.reshape(-1)
    flat = flat.view(np.uint8) if flat.dtype == bool else flat
    return text_of_edges(_edges_by_pixel(flat, flat.dtype.type(0))).tobytes()


def pycocotools_columns(mask: Array) -> bytes:
    """pycocotools, which counts down the columns and wants Fortran order. Its own compressed counts, no text."""
    counts: bytes = coco.encode(np.asfortranarray(mask.view(np.uint8)))["counts"]
    return counts


def pycocotools_rows(mask: Array) -> bytes:
    """pycocotools for row order: a C-contiguous mask transposed is in Fortran order already. Counts, no text."""
    counts: bytes = coco.encode(mask.view(np.uint8).T)["counts"]
    return counts


def text_of_counts(counts: bytes) -> bytes:
    """The submission's text of pycocotools' compressed counts: groups of five bits, differences to the last but one."""
    lengths: list[int] = []
    at = 0
    while at < len(counts):
        value = shift = 0
        more = True
        while more:
            group = counts[at] - 48
            value |= (group & 31) << shift
            more = bool(group & 32)
            at += 1
            shift += 5
            if not more and group & 16:
                value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
    ends = np.cumsum(lengths)
    return b" ".join(b"%d %d" % (ends[k - 1] + 1, lengths[k]) for k in range(1, len(lengths), 2) if lengths[k])


def fill_slices(runs: Array, size: tuple[int, int]) -> Array:
    """The usual decoder: parse with split, fill a slice a run."""
    flat = np.zeros(size[0] * size[1], np.uint8)
    for start, length in runs:
        flat[start - 1 : start - 1 + length] = 1
    return flat.reshape(size)


def parse_by_split(text: bytes) -> Array:
    """The usual parser."""
    return np.array(text.split(), dtype=np.int64).reshape(-1, 2)
