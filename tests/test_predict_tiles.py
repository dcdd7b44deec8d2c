import itertools

import numpy as np
import pytest

from predict.tiles import predict_in_tiles, tile_starts, tile_weights

SIDES = [(10, 4, 1), (10, 4, 0), (64, 64, 16), (65, 64, 16), (333, 64, 16), (100, 7, 6)]


def channels_first(tiles: np.ndarray) -> np.ndarray:
    return np.moveaxis(tiles, -1, 1).astype(np.float32)


@pytest.mark.parametrize(("length", "tile", "overlap"), SIDES)
def test_tiles_cover_the_side_overlap_and_weigh_one(length: int, tile: int, overlap: int) -> None:
    starts = tile_starts(length, tile, overlap)
    assert (starts[0], starts[-1]) == (0, length - tile)
    assert all(0 < b - a <= tile - overlap for a, b in itertools.pairwise(starts))
    total = np.zeros(length)
    weights = tile_weights(length, tile, overlap)
    assert (weights > 0).all()
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    np.testing.assert_allclose(total, 1, atol=1e-12)


@pytest.mark.parametrize("size", [(64, 96), (65, 96), (200, 301), (30, 400), (300, 20), (5, 7)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_an_identity_network_gives_the_image_back(size: tuple[int, int], overlap: float) -> None:
    image = np.random.default_rng(0).normal(size=(*size, 3)).astype(np.float32)
    seen = []

    def forward(tiles: np.ndarray) -> np.ndarray:
        seen.append(tiles.shape)
        return channels_first(tiles)

    logits = predict_in_tiles(image, (64, 96), forward, overlap=overlap, batch=3)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, np.moveaxis(image, -1, 0), atol=1e-5)
    assert all(shape[1:] == (64, 96, 3) and 1 <= shape[0] <= 3 for shape in seen)


def test_seams_are_smooth() -> None:
    """Two tiles that disagree by 1 leave no step larger than the window's own slope."""
    answers = iter(range(100))

    def forward(tiles: np.ndarray) -> np.ndarray:
        return np.stack([np.full((1, 32, 32), next(answers) % 2, np.float32) for _ in tiles])

    logits = predict_in_tiles(np.zeros((32, 56, 3), np.uint8), (32, 32), forward, overlap=0.25)
    steps = np.abs(np.diff(logits[0, 16]))
    assert logits[0, 16, 0] == 0
    assert logits[0, 16, -1] == 1
    assert steps.max() < 0.35
