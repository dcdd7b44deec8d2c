"""Crops around the boundary: for every network, of image and target alike, and for training alone."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from command_line import UserError
from competition import COMPETITIONS
from folds.augment import Augmentation
from folds.boundary_crop import BoundaryCrop, crop_size
from folds.extra_rows import ExtraRows, PickedInputs
from folds.fit import train_loader
from folds.fold import run_fold
from folds.plan import check_plan, check_recipe, plan_of
from folds.recipes import RECIPES
from folds.run_layout import WEIGHTS_FILE
from folds.store import LogitStore
from models.build import divisor
from models.variants import VARIANTS
from tests.test_folds_interrupt import interrupted
from tests.tiny_folds import DROPPING, QUICK, TINY, maker

TRAINED = [name for name, variant in VARIANTS.items() if not variant.fitted]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("share", [0.01, 0.37, 1.0])
def test_every_network_takes_its_crops(name: str, share: float) -> None:
    variant = VARIANTS[name]
    for side, whole in zip(crop_size(variant, share), variant.size, strict=True):
        assert side % divisor(variant) == 0
        assert min(share * whole, whole) <= side <= whole
        assert side < share * whole + divisor(variant)


@pytest.mark.parametrize("planes", [None, 3])
def test_a_crop_holds_a_piece_of_the_boundary_and_repeats_itself(planes: int | None) -> None:
    mask = np.zeros((97, 143), np.uint8)
    cv2.ellipse(mask, (80, 41), (37, 29), 10, 0, 360, 255, -1)
    rows, columns = np.mgrid[:97, :143].astype(np.uint8)
    image = np.stack([rows, columns, mask], -1)
    target = mask if planes is None else np.stack([rows, mask, columns], -1)
    crop, seen = BoundaryCrop((24, 35), 5, mask_plane=1), set()
    for epoch in range(4):
        for position in range(25):
            picture, cropped = crop(image, target, epoch=epoch, position=position)
            assert picture.shape == (24, 35, 3) and cropped.shape == (24, 35, *target.shape[2:])
            of_mask = cropped if planes is None else cropped[..., 1]
            np.testing.assert_array_equal(picture[..., 2], of_mask)
            assert 0 < (of_mask > 127).sum() < of_mask.size
            again = BoundaryCrop((24, 35), 5, mask_plane=1)(image, target, epoch=epoch, position=position)
            np.testing.assert_array_equal(again[0], picture)
            np.testing.assert_array_equal(again[1], cropped)
            seen.add((int(picture[0, 0, 0]), int(picture[0, 0, 1])))
    assert len(seen) > 50


@pytest.mark.parametrize("value", [0, 255])
def test_without_a_boundary_a_crop_lies_anywhere(value: int) -> None:
    image, mask = np.zeros((40, 60, 1), np.uint8), np.full((40, 60), value, np.uint8)
    image[..., 0] = np.arange(60)
    crop = BoundaryCrop((16, 24), 0)
    starts = {int(crop(image, mask, epoch=0, position=k)[0][0, 0, 0]) for k in range(40)}
    assert {0, 36} <= starts and len(starts) > 8
    whole = BoundaryCrop((40, 60), 0)(image, mask, epoch=0, position=0)
    assert whole[0].shape == image.shape


def test_training_sees_crops_and_everything_else_whole_images(ellipses: Path, tmp_path: Path) -> None:
    make = maker(ellipses, tmp_path)
    task = make(TINY, replace(QUICK, epochs=3, crop=0.5), "cropped")
    images, targets, _ = next(iter(train_loader(replace(task, workers=0))))
    assert images.shape[1:3] == targets.shape[1:3] == (16, 24)
    manifest = run_fold(task)
    assert manifest["recipe"]["crop"] == 0.5
    store = LogitStore.open(task.store)
    for position in task.held_out:
        assert store.read(task.training.names[int(position)]).shape == (1, *TINY.size)
    # what it has learned from crops is of use on whole images
    whole = run_fold(make(TINY, replace(QUICK, epochs=3), "whole"))
    assert manifest["dice"] > 0.8 * whole["dice"]


def test_pseudo_labels_are_cropped_too(ellipses: Path, tmp_path: Path) -> None:
    task = maker(ellipses, tmp_path)(TINY, replace(QUICK, batch=4, crop=0.5))
    extra = ExtraRows(("a.jpg", "b.jpg", "c.jpg"), PickedInputs(task.inputs, (9, 10, 11)), 0.25)
    first, seen = len(task.training.names), []
    for images, targets, positions in train_loader(replace(task, workers=0, extra=extra)):
        assert images.shape == (4, 16, 24, 3) and targets.shape == (4, 16, 24)
        assert sum(int(position) >= first for position in positions) == 1
        seen += [(int(p) - first, t) for p, t in zip(positions, targets, strict=True) if p >= first]
    for which, target in seen:
        crop = BoundaryCrop((16, 24), task.seed)
        image, mask = task.inputs.image(9 + which), task.inputs.target(9 + which)
        augmented = Augmentation(task.recipe.augment, task.seed)(image, mask, epoch=0, position=first + which)
        np.testing.assert_array_equal(target, crop(*augmented, epoch=0, position=first + which)[1])


def test_a_training_on_crops_goes_on_as_if_nothing_had_been(ellipses: Path, tmp_path: Path) -> None:
    make, recipe = maker(ellipses, tmp_path), replace(QUICK, epochs=3, crop=0.5)
    whole = make(DROPPING, recipe, "whole")
    run_fold(whole)
    begun = make(DROPPING, recipe, "begun")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_fold(interrupted(begun, 18)[0])
    finally:
        signal.signal(signal.SIGINT, before)
    assert begun.last_state.exists()
    run_fold(begun)
    assert (begun.folder / WEIGHTS_FILE).read_bytes() == (whole.folder / WEIGHTS_FILE).read_bytes()


def test_what_cannot_be_cropped_is_refused() -> None:
    for value in (-0.1, 1.5):
        with pytest.raises(UserError, match="crop"):
            check_recipe(replace(RECIPES["demo"], crop=value))
    variant = VARIANTS["folded-unet-small-128"]
    plan = plan_of(variant, "", {"crop": 0.5})
    with pytest.raises(UserError, match="whole image, which a crop does not show: train it without --crop"):
        check_plan(variant, plan, COMPETITIONS["salt"])
