"""Composites as a training set: what a fold sees and what it holds out, and the files that cannot be used."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from command_line import UserError
from competition import COMPETITIONS
from folds import split
from folds.composites import CompositeSet, Draws, Settings, deal, find_composites
from folds.heads import targets_of
from folds.images import find_training_set
from folds.inputs import DrawnInputs, load_inputs
from folds.seen import Seen
from folds.truth import load_truth
from kernels.composite_grid import Grid
from models.frame import Frame
from tests import naive
from tests.parts import SIZE, write_parts

COMPOSITES = COMPETITIONS["composites"]
FRAME = Frame((24, 32))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_parts(tmp_path / "data", positions=3, blocks=4, scored=3)


def found(data: Path) -> CompositeSet:
    training = find_training_set(COMPOSITES, data)
    assert isinstance(training, CompositeSet)
    return training


def parts_of(training: CompositeSet, positions: np.ndarray) -> set[tuple[str, int]]:
    items = [training.grid.item(training.indices[int(p)]) for p in positions]
    return {("bg", i.background) for i in items} | {("fg", i.foreground) for i in items}


def test_the_set_is_the_composites_of_each_block(data: Path) -> None:
    training = found(data)
    assert training.competition.size == SIZE
    assert len(training.grid) == 5 * 6 * 3 * 2
    assert list(training.names) == sorted(training.names) and len(set(training.indices)) == len(training.names)
    blocks = training.groups()
    assert len(set(blocks)) == 4
    # no part is in two blocks, and every part is in one
    each = [parts_of(training, np.flatnonzero(blocks == block)) for block in set(blocks)]
    assert sum(map(len, each)) == len(set().union(*each)) == 5 + 6
    again = pickle.loads(pickle.dumps(training))
    name = training.names[11]
    np.testing.assert_array_equal(again.picture(name), training.picture(name))
    assert len(pickle.dumps(training)) < 50_000


@pytest.mark.parametrize(("backgrounds", "foregrounds", "blocks"), [(100, 100, 20), (7, 3, 20), (2, 2, 2), (5, 11, 4)])
def test_parts_are_dealt_evenly(backgrounds: int, foregrounds: int, blocks: int) -> None:
    for dealt, parts in zip(
        deal(backgrounds, foregrounds, Settings(blocks=blocks)), (backgrounds, foregrounds), strict=True
    ):
        sizes = np.bincount(dealt)
        assert len(sizes) == min(blocks, backgrounds, foregrounds)
        assert sizes.sum() == parts and sizes.max() - sizes.min() <= 1


def test_no_fold_trains_on_a_part_that_it_holds_out(data: Path, tmp_path: Path) -> None:
    training = found(data)
    truth = load_truth(training, tmp_path / "cache", jobs=1)
    table = split.find_or_make(tmp_path / "folds.csv", training, truth.areas_px, own=None, folds=2)
    column = table["fold"].to_numpy()
    mixed: set[int] = set()
    for fold in range(2):
        train, held_out = np.flatnonzero(column != fold), np.flatnonzero(column == fold)
        draws = training.draws(train, held_out, seed=fold)
        drawn = [training.grid.item(draws.index(e, p)) for e in range(3) for p in range(200)]
        mine = {("bg", i.background) for i in drawn} | {("fg", i.foreground) for i in drawn}
        assert mine == parts_of(training, train)
        assert not mine & parts_of(training, held_out)
        mixed |= {training.grid.index(item) for item in drawn} - set(training.indices)
        assert not Seen.of(training, train).among(training, held_out, Seen({}))
    # pairs from different blocks train too, though nobody scores them
    assert mixed
    assert len(Seen.of(training, train).among(training, train, Seen({}))) == len(train)


def test_a_part_on_both_sides_is_an_alarm(data: Path, tmp_path: Path) -> None:
    training = found(data)
    every = np.arange(len(training.names))
    shuffled = np.random.default_rng(0).permutation(every)
    with pytest.raises(UserError, match=r"bg/ground_\d\.\w+ is trained on and held out by one fold"):
        training.draws(shuffled[:24], shuffled[24:], seed=0)
    own = tmp_path / "own.csv"
    pd.DataFrame({"image": training.names, "fold": every % 2}).to_csv(own, index=False)
    with pytest.raises(UserError, match="images of one group into different folds"):
        split.read(own, training)
    # weights that have seen one of an image's two parts have seen it, whatever block it is in now
    (data / "composites.json").write_text(json.dumps({"positions": 3, "blocks": 4, "scored": 3, "seed": 1}))
    moved = found(data)
    assert set(moved.groups()).isdisjoint(training.groups())
    seen = Seen.of(training, every[:1])
    known = seen.among(moved, np.arange(len(moved.names)), Seen({}))
    background, foreground = training.names[0].split("_", 1)[1].rsplit("_", 1)[0].rsplit("_", 1)
    assert known and all(f"_{background}_" in name or f"_{foreground}_" in name for name in known)


def test_a_draw_depends_on_seed_epoch_and_position_alone(data: Path) -> None:
    training = found(data)
    draws = Draws(training, (0, 2), (1, 3, 5), seed=4)
    drawn = DrawnInputs(draws, FRAME, ("mask", "depth"), SIZE)
    image, target = drawn(2, 17)
    for again in (drawn(2, 17), pickle.loads(pickle.dumps(drawn))(2, 17)):
        np.testing.assert_array_equal(image, again[0])
        np.testing.assert_array_equal(target, again[1])
    assert image.shape == (24, 32, 6) and target.shape == (24, 32, 2)
    indices = {draws.index(epoch, position) for epoch in range(40) for position in range(40)}
    # all of the 2 x 3 pairs at three places in two ways
    assert len(indices) == 2 * 3 * 3 * 2
    assert Draws(training, (0, 2), (1, 3, 5), seed=5).index(2, 17) in indices


def test_inputs_and_truth_are_those_of_the_composite(data: Path, tmp_path: Path) -> None:
    training = found(data)
    truths = {"mask": load_truth(training, tmp_path, jobs=1)}
    inputs = load_inputs(training, FRAME, truths, tmp_path, jobs=1)
    whole = Frame(SIZE)
    for position in (0, 5, 40):
        name = training.names[position]
        item = training.grid.item(training.indices[position])
        pixels = training.input_of(position, whole)
        np.testing.assert_array_equal(pixels[..., :3], training.parts.backgrounds[item.background])
        np.testing.assert_array_equal(pixels[..., :3], training.background(name))
        np.testing.assert_array_equal(pixels[..., 3:], training.picture(name))
        changed = (pixels[..., :3] != pixels[..., 3:]).any(2)
        mask = training.mask(name)
        assert mask.any() and not (mask & ~changed).any()
        np.testing.assert_array_equal(naive.decode(truths["mask"].of(position).tolist(), SIZE), mask)
        near = training.near(position)
        whole_alpha = training.parts.compose(training.grid, 0, [training.indices[position]]).alphas[0] == 255
        assert near[whole_alpha].min() >= 90
        image, each = training.sample(training.indices[position], FRAME)
        np.testing.assert_array_equal(inputs.image(position), image)
        np.testing.assert_array_equal(inputs.target(position), targets_of(("mask",), each, FRAME, SIZE))
        for half in (slice(3), slice(3, 6)):
            np.testing.assert_array_equal(image[..., half], FRAME.apply(np.ascontiguousarray(pixels[..., half])))
    # nothing of the images lies on disk
    assert {path.name for path in (tmp_path / training.digest).iterdir()} == {"truth"}


def test_the_defaults_make_the_published_number() -> None:
    assert len(Grid(100, 100, Settings().positions, Settings().mirrored)) == 400_000


def _grey(path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(path)


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def _settings(text: str) -> Callable[[Path], object]:
    return lambda data: (data / "composites.json").write_text(text)


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda d: _grey(d / "fg/thing.1.png", np.zeros((9, 9, 3), np.uint8)), r"thing\.1\.png has no transparency.*alpha"),
    (lambda d: _grey(d / "fg/thing.1.png", np.zeros((9, 9, 4), np.uint8)), r"thing\.1\.png is transparent everywhere"),
    (
        lambda d: _grey(d / "fg/thing.2.png", np.full((50, 9, 4), 255, np.uint8)),
        r"thing\.2\.png has 50x9.*45x62: reduce",
    ),
    (lambda d: _grey(d / "bg/ground_1.png", np.zeros((9, 9, 3), np.uint8)), r"ground_1\.png has 9x9 .*one size"),
    (
        lambda d: _grey(d / "bg_depth/ground_1.png", np.zeros((9, 9), np.uint8)),
        r"ground_1\.png has 9x9 .*picture's size",
    ),
    (
        lambda d: _grey(d / "fg_depth/thing.1.png", np.zeros((18, 22), np.uint16)),
        r"thing\.1\.png has 16 bits a channel",
    ),
    (
        lambda d: _grey(d / "bg_depth/ground_1.png", np.zeros((*SIZE, 3), np.uint8)),
        r"mode RGB, .* one channel of 8 bits",
    ),
    (lambda d: (d / "bg_depth/ground_3.png").rename(d / "x.png"), r"bg_depth/ground_3\.png is missing"),
    (lambda d: shutil.rmtree(d / "fg_depth"), r"fg_depth/thing\.0\.png is missing.*compact-mask-96"),
    (lambda d: _cut_off(d / "fg/thing.1.png"), r"thing\.1\.png is not an image that can be read, or is cut off"),
    (lambda d: _cut_off(d / "bg/ground_0.jpg"), r"ground_0\.jpg is cut off"),
    (lambda d: _cut_off(d / "bg_depth/ground_2.png"), r"bg_depth/ground_2\.png is not an image"),
    (lambda d: shutil.rmtree(d / "fg"), r"fg is missing: put the pictures there"),
    (lambda d: [p.rename(d / p.name) for p in sorted((d / "bg").iterdir())[1:]], r"bg holds 1 pictures"),
    (
        lambda d: shutil.copy(d / "bg/ground_0.jpg", d / "bg/x.jpg"),
        r"ground_0\.jpg and .*x\.jpg are the same file: remove",
    ),
    (
        lambda d: shutil.copy(d / "bg/ground_1.png", d / "bg/Ground_0.png"),
        r"holds both Ground_0\.png and ground_0\.jpg",
    ),
    (_settings('{"place": 3}'), r"composites\.json is damaged \(place is no field of it\): remove it"),
    (_settings('{"positions": 0}'), r"positions is 0, expected a number greater than or equal to 1"),
    (_settings('{"positions": true}'), r"positions is True, expected a valid integer"),
    (_settings("{"), r"composites\.json is damaged .*: remove it"),
]


@pytest.mark.parametrize(("spoil", "words"), FAULTS, ids=range(len(FAULTS)))
def test_what_cannot_be_used_is_one_sentence(data: Path, spoil: Callable[[Path], object], words: str) -> None:
    spoil(data)
    with pytest.raises(UserError, match=words) as caught:
        find_composites(COMPOSITES, data)
    assert "\n" not in str(caught.value)


def test_parts_without_depth_are_good_for_masks_alone(tmp_path: Path) -> None:
    training = found(write_parts(tmp_path / "data", depth=False))
    assert training.mask(training.names[0]).any()
    with pytest.raises(UserError, match=r"bg_depth and .*fg_depth are missing"):
        training.near(0)
