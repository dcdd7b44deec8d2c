from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from command_line import UserError
from competition import COMPETITIONS
from folds.images import faults, find_training_set, list_images, read_mask
from tests.conftest import CARS, write_mask

CARVANA = COMPETITIONS["carvana"]
FIRST = f"{CARS[0]}_01"


def test_a_whole_set_is_found_in_order_and_without_fault(ellipses: Path) -> None:
    training = find_training_set(CARVANA, ellipses)
    assert list(training.names) == sorted(training.names)
    assert len(training.names) == 12
    assert list(faults(training)) == []
    assert find_training_set(CARVANA, ellipses).digest == training.digest


def test_the_digest_tells_other_data(ellipses: Path) -> None:
    before = find_training_set(CARVANA, ellipses).digest
    mask = ellipses / "train_masks" / f"{FIRST}_mask.gif"
    write_mask(mask, np.zeros(CARVANA.size, bool))
    assert find_training_set(CARVANA, ellipses).digest != before


@pytest.mark.parametrize("folder", ["train", "train_masks"])
def test_a_missing_folder_is_named(ellipses: Path, folder: str) -> None:
    (ellipses / folder).rename(ellipses / "elsewhere")
    with pytest.raises(UserError, match=rf"{folder} is missing"):
        find_training_set(CARVANA, ellipses)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"holds no \.jpg image"):
        list_images(tmp_path / "train", CARVANA)


def test_an_image_without_mask_and_a_mask_without_image_are_named(ellipses: Path) -> None:
    mask = ellipses / "train_masks" / f"{FIRST}_mask.gif"
    content = mask.read_bytes()
    mask.unlink()
    with pytest.raises(UserError, match=rf"{mask.name} is missing.*{FIRST}\.jpg"):
        find_training_set(CARVANA, ellipses)
    mask.write_bytes(content)
    (ellipses / "train" / f"{FIRST}.jpg").unlink()
    with pytest.raises(UserError, match=rf"{mask.name} has no image"):
        find_training_set(CARVANA, ellipses)


def test_a_foreign_name_and_a_double_name_are_named(ellipses: Path) -> None:
    image = ellipses / "train" / f"{FIRST}.jpg"
    twin = ellipses / "train" / f"{FIRST}.JPG"
    twin.write_bytes(image.read_bytes())
    with pytest.raises(UserError, match="holds both"):
        list_images(ellipses / "train", CARVANA)
    twin.unlink()
    (ellipses / "train" / "holiday.jpg").write_bytes(image.read_bytes())
    with pytest.raises(UserError, match=r"holiday\.jpg"):
        list_images(ellipses / "train", CARVANA)


def test_each_bad_file_is_a_fault_of_its_own(ellipses: Path) -> None:
    masks, images = ellipses / "train_masks", ellipses / "train"
    small = masks / f"{CARS[0]}_01_mask.gif"
    write_mask(small, np.zeros((10, 10), bool))
    levels = masks / f"{CARS[1]}_01_mask.gif"
    Image.fromarray((np.arange(1280 * 1918) % 3).astype(np.uint8).reshape(1280, 1918)).save(levels)
    cut = masks / f"{CARS[2]}_01_mask.gif"
    cut.write_bytes(cut.read_bytes()[:200])
    broken = images / f"{CARS[3]}_01.jpg"
    broken.write_bytes(broken.read_bytes()[:-1000])
    other = images / f"{CARS[4]}_01.jpg"
    cv2.imwrite(str(other), np.zeros((64, 64, 3), np.uint8))
    found = list(faults(find_training_set(CARVANA, ellipses)))
    assert len(found) == 5
    for path, words in (
        (small, "10x10"),
        (levels, "more than two levels"),
        (cut, "cut off"),
        (broken, "cut off"),
        (other, "64x64"),
    ):
        assert any(path.name in sentence and words in sentence for sentence in found), (path.name, found)


@pytest.mark.parametrize("mode", ["P", "L", "1"])
def test_masks_of_every_kind_read_alike(tmp_path: Path, mode: str) -> None:
    mask = np.random.default_rng(0).random((9, 11)) > 0.5
    picture = Image.fromarray(mask.astype(np.uint8) * (1 if mode == "P" else 255), mode="P" if mode == "P" else "L")
    path = tmp_path / ("m.gif" if mode == "P" else "m.png")
    (picture.convert("1") if mode == "1" else picture).save(path)
    np.testing.assert_array_equal(read_mask(path, (9, 11)), mask)


def test_empty_and_full_masks_are_masks(tmp_path: Path) -> None:
    for value in (False, True):
        path = tmp_path / "m.gif"
        write_mask(path, np.full((4, 6), value))
        assert read_mask(path, (4, 6)).all() == value
