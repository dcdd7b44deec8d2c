"""Prediction in tiles: an image larger than the network, in overlapping tiles whose logits are blended smoothly."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from competition import Size

# share of a tile's side that neighbours have in common at least
OVERLAP = 0.25


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where the tiles along one side begin: evenly spread, the first at 0, the last ending at `length`.

    Args:
        length: of the side, at least `tile`.
        tile: length of a tile.
        overlap: that neighbours share at least, below `tile`.

    >>> tile_starts(10, 4, 1)
    [0, 3, 6]
    """
    count = 1 + math.ceil((length - tile) / (tile - overlap))
    if count == 1:
        return [0]
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]


def tile_weights(length: int, tile: int, overlap: int) -> np.ndarray:
    """How much each tile counts at each of its pixels along one side.

    A raised cosine that falls towards the tile's ends, where a network sees the least context, divided by the sum
    over all tiles, so that at every pixel of the side the weights sum to 1.

    Args:
        length, tile, overlap: as `tile_starts` takes them.

    Returns:
        (tiles, tile) float64, above 0.
    """
    window = np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2
    starts = tile_starts(length, tile, overlap)
    total = np.zeros(length)
    for start in starts:
        total[start : start + tile] += window
    return np.stack([window / total[start : start + tile] for start in starts])


def predict_in_tiles(
    image: np.ndarray,
    tile: Size,
    forward: Callable[[np.ndarray], np.ndarray],
    *,
    overlap: float = OVERLAP,
    batch: int = 4,
) -> np.ndarray:
    """Logits of an image that may be larger than the network.

    Args:
        image: (H, W, C); not modified. A side shorter than the tile's is padded with its border pixels, and the
            logits there are cut away again.
        tile: (height, width) of the network's input.
        forward: maps (N, h, w, C) tiles to (N, K, h, w) logits.
        overlap: share of a tile's side that neighbours have in common at least; 0 to below 1.
        batch: tiles a call.

    Returns:
        (K, H, W) float32.
    """
    height, width = image.shape[:2]
    below, right = max(0, tile[0] - height), max(0, tile[1] - width)
    if below or right:
        image = np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")
    sides = list(zip(image.shape[:2], tile, (int(overlap * side) for side in tile), strict=True))
    rows, columns = (tile_starts(*side) for side in sides)
    row_weights, column_weights = (tile_weights(*side).astype(np.float32) for side in sides)
    places = [(i, j) for i in range(len(rows)) for j in range(len(columns))]
    total: np.ndarray | None = None
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        tiles = [image[rows[i] : rows[i] + tile[0], columns[j] : columns[j] + tile[1]] for i, j in some]
        logits = forward(np.stack(tiles))
        if total is None:
            total = np.zeros((logits.shape[1], *image.shape[:2]), np.float32)
        for (i, j), planes in zip(some, logits, strict=True):
            part = total[:, rows[i] : rows[i] + tile[0], columns[j] : columns[j] + tile[1]]
            part += planes * row_weights[i][:, None] * column_weights[j]
    assert total is not None
    return total[:, :height, :width]
