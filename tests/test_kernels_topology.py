"""Pieces and holes counted on runs, against flood fill."""

import numpy as np
import pytest

from kernels.rle import encode
from kernels.topology import pieces_and_holes
from tests import naive_ensemble as naive


def expected(mask: np.ndarray) -> tuple[int, int]:
    height, width = mask.shape
    holes = [
        piece
        for piece in naive.components(~mask, diagonal=False)
        if all(0 < y < height - 1 and 0 < x < width - 1 for y, x in piece)
    ]
    return len(naive.components(mask, diagonal=True)), len(holes)


@pytest.mark.parametrize("size", [(13, 17), (1, 9), (9, 1), (24, 3)])
@pytest.mark.parametrize("share", [0.1, 0.45, 0.6, 0.9])
def test_as_flood_fill_counts(size: tuple[int, int], share: float) -> None:
    for seed in range(12):
        mask = np.random.default_rng(seed).random(size) < share
        assert pieces_and_holes(encode(mask), size) == expected(mask), mask.astype(int)


def test_nothing_everything_and_rings() -> None:
    size = (7, 9)
    assert pieces_and_holes(encode(np.zeros(size, bool)), size) == (0, 0)
    assert pieces_and_holes(encode(np.ones(size, bool)), size) == (1, 0)
    rings = np.zeros(size, bool)
    rings[0], rings[-1], rings[:, 0], rings[:, -1] = True, True, True, True
    rings[2:5, 2:7] = True
    rings[3, 3:6] = False
    # two rings, and a hole in each: between them, and inside
    assert pieces_and_holes(encode(rings), size) == expected(rings) == (2, 2)
