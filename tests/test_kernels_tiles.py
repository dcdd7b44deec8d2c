"""Tiles: what is sure of them, and their pixels at full size without those of all others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from competition import Size
from kernels.tiles import TILE_PX, enlarged_at, enlarged_tiles, gather, spread, tile_areas, tile_ranges
from models.frame import Frame

SIDES = st.integers(1, 75)


def bilinear(plane: np.ndarray, full: Size) -> np.ndarray:
    """In float64, as the definition has it."""
    for axis, target in enumerate(full):
        source = plane.shape[axis]
        at = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
        first = np.floor(at).astype(int)
        share = (at - first).reshape((-1, 1) if axis == 0 else (1, -1))
        second = np.minimum(first + 1, source - 1)
        plane = plane.take(first, axis) * (1 - share) + plane.take(second, axis) * share
    return plane


def tiles_of(rng: np.random.Generator, full: Size) -> np.ndarray:
    return rng.random(tile_areas(full).shape) < rng.choice([0, 0.3, 1])


@given(seed=st.integers(0, 10_000), size=st.tuples(SIDES, SIDES), more=st.tuples(SIDES, SIDES))
def test_tiles_and_pixels_are_those_of_the_whole_frame(seed: int, size: Size, more: Size) -> None:
    rng, full = np.random.default_rng(seed), (size[0] + more[0], size[1] + more[1])
    plane = rng.normal(0, 5, size).astype(np.float32)
    exact, chosen = bilinear(plane.astype(np.float64), full), tiles_of(rng, full)
    pixels = rng.integers(0, exact.size, 40)
    count = int(tile_areas(full)[chosen].sum())
    found, wanted = np.empty(count, np.float32), np.empty(count)
    enlarged_tiles(plane, full, chosen, found)
    gather(exact, chosen, wanted)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(enlarged_at(plane, full, pixels), exact.ravel()[pixels], atol=1e-4)
    least, most = (
        np.kron(each, np.ones((TILE_PX, TILE_PX)))[: full[0], : full[1]] for each in tile_ranges(plane, full)
    )
    assert (least <= exact + 1e-4).all() and (exact <= most + 1e-4).all()


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize(
    "frame", [Frame((640, 960)), Frame((31, 53)), Frame((1, 9)), Frame((97, 131)), Frame((97, 20)), Frame((128, 192)),
              Frame((104, 144), "pad"), Frame((216, 272), "reflect-2x"), Frame((20, 160))], ids=str
)  # fmt: skip
def test_a_frame_gives_the_same_bits_of_tiles_as_of_the_whole(
    frame: Frame, alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the loop here is not OpenCV's, and where it is not asked."""
    full = (1280, 1918) if frame.size[0] == 640 else (97, 131)
    if not alike:
        monkeypatch.setattr("models.frame.enlarges_as_opencv", lambda size, full: False)
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 5, frame.size).astype(np.float32)
    whole = frame.invert(logits, full)
    for _ in range(3):
        chosen, pixels = tiles_of(rng, full), rng.integers(0, whole.size, 64)
        found, wanted = np.empty((2, int(tile_areas(full)[chosen].sum())), np.float32)
        frame.invert_tiles(logits, full, chosen, found)
        gather(whole, chosen, wanted)
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(frame.invert_at(logits, full, pixels), whole.reshape(-1)[pixels])


@given(seed=st.integers(0, 10_000), full=st.tuples(SIDES, SIDES))
def test_spreading_is_the_opposite_of_gathering(seed: int, full: Size) -> None:
    rng = np.random.default_rng(seed)
    chosen, mask = tiles_of(rng, full), rng.random(full) < 0.5
    values = np.empty(int(tile_areas(full)[chosen].sum()), bool)
    gather(mask, chosen, values)
    filled = rng.random(chosen.shape) < 0.5
    inside = np.kron(chosen, np.ones((TILE_PX, TILE_PX)))[: full[0], : full[1]] > 0
    outside = np.kron(filled, np.ones((TILE_PX, TILE_PX)))[: full[0], : full[1]] > 0
    np.testing.assert_array_equal(spread(filled, chosen, values, full), np.where(inside, mask, outside))
