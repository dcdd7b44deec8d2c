"""Composites against Pillow's paste, and the laws of their numbering."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from kernels.composite_grid import Grid, Item, place
from kernels.composition import Parts

SIZE = (23, 31)
FOREGROUNDS = ((7, 11), (23, 31), (1, 1), (12, 5))


def some_parts(seed: int = 0, *, depth: bool = True) -> Parts:
    rng = np.random.default_rng(seed)
    foregrounds = [rng.integers(0, 256, (*size, 4), np.uint8) for size in FOREGROUNDS]
    backgrounds = rng.integers(0, 256, (3, *SIZE, 3), np.uint8)
    if not depth:
        return Parts(backgrounds, foregrounds)
    near = [rng.integers(0, 256, size, np.uint8) for size in FOREGROUNDS]
    return Parts(backgrounds, foregrounds, rng.integers(0, 256, (3, *SIZE), np.uint8), near)


def by_pillow(parts: Parts, grid: Grid, seed: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    item = grid.item(index)
    foreground = Image.fromarray(parts.foregrounds[item.foreground])
    assert parts.background_near is not None and parts.foreground_near is not None
    near = Image.fromarray(parts.foreground_near[item.foreground])
    if item.mirrored:
        foreground, near = ImageOps.mirror(foreground), ImageOps.mirror(near)
    width, height = foreground.size
    top, left = place(seed, index, (SIZE[0] - height, SIZE[1] - width))
    alpha = foreground.getchannel("A")
    image = Image.fromarray(parts.backgrounds[item.background])
    image.paste(foreground.convert("RGB"), (left, top), alpha)
    mask = Image.new("L", image.size)
    mask.paste(alpha, (left, top))
    under = parts.background_near[item.background].astype(int)
    hidden = under[top : top + height, left : left + width][np.asarray(alpha) > 127]
    lift = max(0, (hidden - np.asarray(near)[np.asarray(alpha) > 127]).max(initial=0))
    depth = Image.fromarray(under.astype(np.uint8))
    depth.paste(
        Image.fromarray(np.minimum(np.asarray(near).astype(int) + lift, 255).astype(np.uint8)), (left, top), alpha
    )
    return np.asarray(image), np.asarray(mask), np.asarray(depth)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), index=st.integers(0, 3 * 4 * 3 * 2 - 1))
def test_every_composite_is_pillows(seed: int, index: int) -> None:
    parts = some_parts()
    grid = parts.grid(positions=3)
    ours = parts.compose(grid, seed, [index])
    image, mask, depth = by_pillow(parts, grid, seed, index)
    np.testing.assert_array_equal(ours.images[0], image)
    np.testing.assert_array_equal(ours.alphas[0], mask)
    assert ours.nears is not None
    np.testing.assert_array_equal(ours.nears[0], depth)


def test_an_item_depends_on_seed_and_number_alone() -> None:
    parts = some_parts()
    grid = parts.grid()
    order = np.random.default_rng(0).permutation(len(grid))
    whole = parts.compose(grid, 5, order)
    for position in range(0, len(order), 7):
        one = parts.compose(grid, 5, [order[position]])
        np.testing.assert_array_equal(one.images[0], whole.images[position])
    into = parts.compose(grid, 6, order, out=whole)
    assert into is whole
    np.testing.assert_array_equal(whole.images, parts.compose(grid, 6, order).images)
    assert (whole.images != parts.compose(grid, 5, order).images).any()


@pytest.mark.parametrize("mirrored", [True, False])
def test_the_numbering_reaches_every_composite_once(mirrored: bool) -> None:
    grid = Grid(3, 4, positions=5, mirrored=mirrored)
    items = [grid.item(index) for index in range(len(grid))]
    assert len(set(items)) == len(grid) == 3 * 4 * 5 * (1 + mirrored)
    assert [grid.index(item) for item in items] == list(range(len(grid)))
    assert Item(2, 3, 4, mirrored) in items
    for index in (-1, len(grid)):
        with pytest.raises(IndexError):
            grid.item(index)
        with pytest.raises(IndexError, match=f"item {index} of"):
            some_parts().compose(Grid(3, 4, positions=5, mirrored=mirrored), 0, [0, index])


def test_places_fill_the_room_evenly_and_never_leave_it() -> None:
    places = np.array([place(3, index, (4, 9)) for index in range(5000)])
    assert places.min(0).tolist() == [0, 0] and places.max(0).tolist() == [4, 9]
    counts = np.bincount(places[:, 0] * 10 + places[:, 1], minlength=50)
    # 100 expected in each of 50 cells; five standard deviations
    assert abs(counts - 100).max() < 50
    assert place(3, 8, (0, 0)) == (0, 0)


def test_the_foreground_hides_nothing_that_is_nearer() -> None:
    ground = np.repeat(np.linspace(0, 250, 40).astype(np.uint8)[:, None], 40, axis=1)
    picture = np.zeros((10, 8, 4), np.uint8)
    picture[2:, 1:7, 3] = 255
    parts = Parts(np.zeros((1, 40, 40, 3), np.uint8), [picture], ground[None], [np.full((10, 8), 60, np.uint8)])
    grid = parts.grid(positions=30)
    every = parts.compose(grid, 0, np.arange(len(grid)))
    assert every.nears is not None
    foot = []
    for alpha, near in zip(every.alphas, every.nears, strict=True):
        inside = alpha == 255
        assert (near[inside] >= ground[inside]).all()
        np.testing.assert_array_equal(near[~inside], ground[~inside])
        lowest = np.flatnonzero(inside.any(1)).max()
        # it stands where its foot is, unless the ground there is farther than it is by itself
        assert set(near[inside].tolist()) == {max(60, int(ground[lowest, 0]))}
        foot.append(lowest)
    assert min(foot) < 9 + 5 and max(foot) > 30


def test_parts_without_depth_compose_the_same_images() -> None:
    parts, bare = some_parts(), some_parts(depth=False)
    # the same pictures: depth is drawn after the foregrounds and before nothing
    again = Parts(parts.backgrounds, parts.foregrounds)
    grid = parts.grid()
    assert bare.compose(grid, 1, [3]).nears is None
    assert bare.compose(grid, 1, []).images.shape == (0, *SIZE, 3)
    np.testing.assert_array_equal(again.compose(grid, 1, [3]).images, parts.compose(grid, 1, [3]).images)


def test_parts_that_do_not_fit_are_refused() -> None:
    ground, picture = np.zeros((2, 8, 9, 3), np.uint8), np.zeros((3, 3, 4), np.uint8)
    near, own = np.zeros((2, 8, 9), np.uint8), np.zeros((3, 3), np.uint8)
    for arguments, words in (
        ((ground[..., :2], [picture]), "are"),
        ((ground, [picture[..., :3]]), "a foreground is"),
        ((ground, [np.zeros((9, 3, 4), np.uint8)]), "exceeds"),
        ((ground, []), "no foreground"),
        ((ground, [picture], near, None), "or of neither"),
        ((ground, [picture], near[:1], [own]), "one depth map"),
        ((ground, [picture], near, [own[:2]]), "does not fit"),
        ((ground, [picture], near.astype(np.uint16), [own]), "uint8"),
    ):
        with pytest.raises(ValueError, match=words):
            Parts(*arguments)  # type: ignore[arg-type]
