from pathlib import Path

import cv2
import numpy as np
import pytest

from command_line import UserError
from competition import COMPETITIONS
from folds.augment import AUGMENTATIONS, Augmentation, contact_sheet, main
from folds.images import find_training_set
from folds.inputs import CachedInputs, DecodedInputs, load_inputs
from folds.samples import EpochSampler, Samples
from folds.truth import load_truth
from models.frame import Frame
from tests import naive
from tests.conftest import VIEWS, ellipse, read_picture

CARVANA = COMPETITIONS["carvana"]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_moves_image_and_mask_alike_and_repeats_itself(name: str) -> None:
    mask = np.zeros((96, 144), np.uint8)
    cv2.ellipse(mask, (80, 50), (30, 20), 10, 0, 360, 255, -1)
    # the image is the mask, so what moves one must move the other; colour shifts keep bright above dark
    image = np.repeat(mask[..., None] // 2 + 60, 3, axis=2)
    augment = Augmentation(name, seed=3)
    changed = 0
    for position in range(12):
        picture, moved = augment(image, mask, epoch=1, position=position)
        again = Augmentation(name, seed=3)(image, mask, epoch=1, position=position)
        np.testing.assert_array_equal(picture, again[0])
        np.testing.assert_array_equal(moved, again[1])
        bright = picture.mean(2)
        # black is cut out
        inside, outside = bright[(moved > 250) & (bright > 0)], bright[moved < 5]
        assert inside.min() > outside.max()
        changed += not (np.array_equal(moved, mask) and np.array_equal(picture, image))
    assert (changed > 0) == (name != "none")


def test_an_unknown_augmentation_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="flip"):
        Augmentation("swirl", 0)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    positions = np.arange(20)
    sampler = EpochSampler(positions, seed=1, shuffle=True)
    sampler.set_epoch(3)
    first = list(sampler)
    assert sorted(p for _, p in first) == list(range(20))
    assert {e for e, _ in first} == {3}
    resumed = EpochSampler(positions, seed=1, shuffle=True)
    resumed.set_epoch(3)
    assert list(resumed) == first
    sampler.set_epoch(4)
    assert [p for _, p in sampler] != [p for _, p in first]
    assert [p for _, p in EpochSampler(positions, seed=1, shuffle=False)] == list(range(20))


def test_cached_inputs_and_truth_are_those_of_the_files(ellipses: Path, tmp_path: Path) -> None:
    training = find_training_set(CARVANA, ellipses)
    truth = load_truth(training, tmp_path / "cache", jobs=1)
    frame = Frame((160, 240))
    cached = load_inputs(training, frame, {"mask": truth}, tmp_path / "cache", jobs=1)
    assert isinstance(cached, CachedInputs)
    decoded = DecodedInputs(training, frame, {"mask": truth})
    for position, name in enumerate(training.names):
        mask = ellipse(10 * (position // len(VIEWS)) + position % len(VIEWS))
        np.testing.assert_array_equal(naive.decode(truth.of(position).tolist(), CARVANA.size), mask)
        assert truth.areas_px[position] == mask.sum()
        np.testing.assert_array_equal(cached.target(position), frame.apply_mask(mask))
        np.testing.assert_array_equal(cached.image(position), frame.load(training.image_path(name))[0])
        np.testing.assert_array_equal(decoded.target(position), cached.target(position))
        np.testing.assert_array_equal(decoded.image(position), cached.image(position))
    image, coverage, position = Samples(cached, Augmentation("flip", 0))[(0, 5)]
    assert image.shape == (160, 240, 3)
    assert coverage.shape == (160, 240)
    assert position == 5
    assert image.flags.writeable


def test_a_fault_leaves_no_half_built_cache(ellipses: Path, tmp_path: Path) -> None:
    training = find_training_set(CARVANA, ellipses)
    truth = load_truth(training, tmp_path / "cache", jobs=1)
    image = training.image_path(training.names[-1])
    image.write_bytes(image.read_bytes()[:-500])
    with pytest.raises(UserError, match=image.name):
        load_inputs(training, Frame((160, 240)), {"mask": truth}, tmp_path / "cache", jobs=1)
    assert [p.name for p in (tmp_path / "cache" / training.digest).iterdir()] == ["truth"]


def test_the_sheet_outlines_each_mask_in_its_own_tile() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 10:20] = 255
    pairs = [(np.full((20, 30, 3), 50 * i, np.uint8), mask) for i in range(3)]
    sheet = contact_sheet(pairs, columns=2)
    assert sheet.shape == (40, 60, 3)
    assert sheet[5:15, 40].tolist() == [[255, 0, 80]] * 10
    assert (sheet[7:13, 42:48] == 50).all()
    assert (sheet[:5] == np.repeat([0, 50], 30)[None, :, None]).all()
    assert (sheet[20:, 30:] == 0).all()
    assert (pairs[1][0] == 50).all()


def test_a_recipes_samples_are_shown(ellipses: Path, tmp_path: Path) -> None:
    main("c-unet", data=ellipses, out=tmp_path / "shown.png")
    sheet = read_picture(tmp_path / "shown.png")
    assert sheet.shape == (4 * 256, 4 * 384, 3)
    tiles = sheet.reshape(4, 256, 4, 384, 3).swapaxes(1, 2).reshape(16, 256, 384, 3)
    outlined = [(tile == (80, 0, 255)).all(-1).sum() for tile in tiles]
    assert min(outlined) > 50
    assert len({tile.tobytes() for tile in tiles}) > 8
    for arguments, words in (({"show": "z"}, "unknown recipe"), ({"show": "demo", "out": Path("a.txt")}, "no PNG")):
        with pytest.raises(SystemExit, match=words):
            main(**arguments)
