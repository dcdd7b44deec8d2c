"""The boundary refiner: untrained it changes nothing, trained or not nothing far from the boundary."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from competition import Size
from ensemble.band import band_of, cut, tile_size, tiles_on
from ensemble.boundary import Boundary, BoundaryRefiner, boundary_for, check_boundary, inputs_of
from models.build import build

# (H, W) that divide nothing, smaller and larger than a tile
SIZES = ((79, 121), (131, 61), (17, 23), (5, 7))


def blobs(size: Size, seed: int) -> np.ndarray:
    """(H, W) float32 smooth logits of both signs."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(scale=4, size=(4, 5)).astype(np.float32)
    coarse -= np.median(coarse)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def distance_to_other_class(mask: np.ndarray) -> np.ndarray:
    """(H, W) in pixels; infinite where there is one class alone."""
    if mask.all() or not mask.any():
        return np.full(mask.shape, np.inf)
    return np.where(mask, ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask))


def random_state(boundary: Boundary, seed: int, *, trained: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    state = build(boundary.variant(), pretrained=False).state_dict()
    if trained:
        state["logits.weight"] = torch.randn_like(state["logits.weight"]) * 5
        state["logits.bias"] = torch.randn_like(state["logits.bias"]) * 5
    return state


def refiner_for(size: Size, *, trained: bool, folds: int = 2, **more: object) -> BoundaryRefiner:
    boundary = boundary_for(size, **{"tile_px": 32, "widths": (4, 4, 8), "margin_px": 4, **more})  # type: ignore[arg-type]
    check_boundary(boundary)
    return BoundaryRefiner(boundary, [random_state(boundary, k, trained=trained) for k in range(folds)], "abc")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reach_px", [1, 3, 4.5, 8])
def test_the_band_is_all_within_reach_of_the_other_class(size: Size, reach_px: float) -> None:
    for seed in range(3):
        mask = blobs(size, seed) > 0
        np.testing.assert_array_equal(band_of(mask, reach_px), distance_to_other_class(mask) <= reach_px)
    for value in (False, True):
        assert not band_of(np.full(size, value), reach_px).any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side_px", [8, 32, 96])
@pytest.mark.parametrize("margin_px", [0, 5, 40])
def test_every_pixel_of_the_band_is_the_core_of_one_tile(size: Size, side_px: int, margin_px: int) -> None:
    band = band_of(blobs(size, 1) > 0, 2)
    plane = np.arange(size[0] * size[1]).reshape(size)
    side = tile_size(size, side_px, 8)
    times = np.zeros(size, int)
    tiles = list(tiles_on(band, side, margin_px))
    for tile in tiles:
        times[tile.core] += 1
        assert band[tile.core].any()
        seen = cut(plane, tile)
        assert seen.shape == side
        np.testing.assert_array_equal(seen[tile.core_in_seen], plane[tile.core])
    assert times.max() == 1 and times[band].min() == 1
    assert list(tiles_on(np.zeros(size, bool), side, margin_px)) == []


@pytest.mark.parametrize("size", SIZES)
def test_untrained_it_changes_no_bit_of_a_mask(size: Size) -> None:
    refiner = refiner_for(size, trained=False)
    image = np.random.default_rng(0).integers(0, 256, (*refiner.boundary.size, 3), np.uint8)
    for seed in range(3):
        logits = blobs(size, seed)
        np.testing.assert_array_equal(refiner(logits, image), logits)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reach_px", [2, 8])
@pytest.mark.parametrize("reduction", [1, 2.3])
def test_whatever_its_weights_nothing_changes_beyond_its_reach(size: Size, reach_px: float, reduction: float) -> None:
    refiner = refiner_for(size, trained=True, reach_px=reach_px, reduction=reduction)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*refiner.boundary.size, 3), np.uint8)
    for full in (size, (2 * size[0] + 1, 2 * size[1] + 3)):
        logits = blobs(full, 2)
        before = logits.copy()
        refined = refiner(logits, image)
        np.testing.assert_array_equal(logits, before)
        assert refined.dtype == np.float32 and refined.shape == full
        scale = min(full[0] / size[0], full[1] / size[1])
        near = distance_to_other_class(logits > 0) <= reach_px * scale
        np.testing.assert_array_equal(refined[~near], logits[~near])
        assert (refined[near] != logits[near]).mean() > 0.9
    # where there is no boundary there is nothing to mend
    empty = np.full(size, -3, np.float32)
    assert refiner(empty, image) is empty


def test_its_answer_is_the_mean_of_its_networks_and_survives_a_pickle() -> None:
    size = (79, 121)
    both = refiner_for(size, trained=True)
    image = np.random.default_rng(0).integers(0, 256, (*both.boundary.size, 3), np.uint8)
    logits = blobs(size, 0)
    alone = [BoundaryRefiner(both.boundary, [state], "x")(logits, image) for state in both.states]
    np.testing.assert_allclose(both(logits, image), np.mean(alone, 0), atol=0.02)
    again = pickle.loads(pickle.dumps(both))
    np.testing.assert_array_equal(again(logits, image), both(logits, image))
    assert again.label == both.label == "boundary abc"
    with pytest.raises(ValueError, match="needs the image"):
        both(logits, None)


def test_a_tile_sees_the_image_and_the_clipped_logits() -> None:
    boundary = boundary_for((20, 30), limit=6.0)
    image = np.full((10, 15, 3), 255, np.uint8)
    planes = inputs_of(boundary, image, np.linspace(-20, 20, 150, dtype=np.float32).reshape(10, 15))
    assert planes.shape == (4, 10, 15) and planes.dtype == np.float32
    white = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(planes[:3].mean((1, 2)), white, rtol=1e-5)
    assert planes[3].min() == -1.5 and planes[3].max() == 1.5


@pytest.mark.parametrize("fault", [{"tile_px": 20}, {"tile_px": 4}, {"widths": ()}, {"reach_px": 0.5}, {"limit": 0.0}])
def test_what_cannot_be_is_refused(fault: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        check_boundary(boundary_for((79, 121), **fault))  # type: ignore[arg-type]
