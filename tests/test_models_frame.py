from pathlib import Path

import cv2
import numpy as np
import pytest

from command_line import UserError
from models.frame import Frame, decode


@pytest.mark.parametrize("full", [(1280, 1918), (5, 7), (1280, 1920)])
def test_crop_undoes_pad(full: tuple[int, int]) -> None:
    frame = Frame((1280, 1920), "pad")
    image = np.random.default_rng(0).normal(size=full).astype(np.float32)
    padded = frame.apply(image)
    assert padded.shape == frame.size
    np.testing.assert_array_equal(frame.invert(padded, full), image)


def test_pad_refuses_what_is_larger() -> None:
    with pytest.raises(UserError, match="does not fit a network"):
        Frame((10, 10), "pad").apply(np.zeros((11, 9), np.uint8))


@pytest.mark.parametrize("size", [(320, 480), (160, 256), (128, 128), (640, 960)])
def test_a_shift_of_one_pixel_between_apply_and_invert_would_show(size: tuple[int, int]) -> None:
    full = (1280, 1918)
    y, x = np.mgrid[: full[0], : full[1]].astype(np.float32)
    waves = np.sin(y / 60 + 0.3) + np.cos(x / 70)
    frame = Frame(size)
    back = frame.invert(frame.apply(waves), full)
    inner = (slice(20, -20), slice(20, -20))
    shifts = {"none": (0, 0), "down": (1, 0), "up": (-1, 0), "right": (0, 1), "left": (0, -1)}
    error = {name: np.abs(back - np.roll(waves, shift, (0, 1)))[inner].mean() for name, shift in shifts.items()}
    assert error["none"] < 0.5 * min(value for name, value in error.items() if name != "none")


def test_invert_commutes_with_sums() -> None:
    frame = Frame((40, 60))
    a, b = np.random.default_rng(1).normal(size=(2, 40, 60)).astype(np.float32)
    whole = frame.invert(0.3 * a + 0.7 * b, (128, 191))
    parts = 0.3 * frame.invert(a, (128, 191)) + 0.7 * frame.invert(b, (128, 191))
    np.testing.assert_allclose(whole, parts, atol=1e-5)


def test_invert_refuses_logits_of_another_network() -> None:
    with pytest.raises(ValueError, match="do not belong"):
        Frame((40, 60)).invert(np.zeros((60, 40), np.float32), (128, 191))


@pytest.mark.parametrize("full", [(1280, 1918), (333, 257), (61, 1000), (40, 30)])
@pytest.mark.parametrize("size", [(160, 256), (128, 128)])
def test_any_photograph_loads_near_to_its_full_decode(
    tmp_path: Path, full: tuple[int, int], size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(2)
    smooth = cv2.resize(rng.integers(0, 255, (9, 9, 3), np.uint8), (full[1], full[0]), interpolation=cv2.INTER_CUBIC)
    path = tmp_path / "photo.jpg"
    cv2.imwrite(str(path), smooth)
    loaded, found = Frame(size).load(path)
    assert found == full
    assert loaded.shape == (*size, 3)
    reference = Frame(size).apply(decode(path)[0])
    assert np.abs(loaded.astype(int) - reference).mean() < 3


def test_a_jpeg_is_decoded_no_smaller_than_asked(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    cv2.imwrite(str(path), np.zeros((1280, 1918, 3), np.uint8))
    image, full = decode(path, (320, 480))
    assert full == (1280, 1918)
    assert image.shape[0] >= 320
    assert image.shape[1] >= 480
    assert image.shape[0] < 1280
    assert decode(path, (321, 480))[0].shape[0] >= 321


def test_exif_orientation_turns_size_and_pixels(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((64, 128, 3), np.uint8)).save(path, exif=exif)
    assert decode(path, (16, 8))[1] == (128, 64)
    assert decode(path)[1] == (128, 64)


def test_cut_off_and_foreign_files_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "a.jpg"
    cv2.imwrite(str(whole), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    for name, content, words in (
        ("cut.jpg", whole.read_bytes()[:-500], "cut.jpg is cut off"),
        ("text.jpg", b"hello", "text.jpg is not an image"),
        ("empty.jpg", b"", "empty.jpg is not an image"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words):
            decode(tmp_path / name)
    # what a disk or a system refuses is of one file too
    (tmp_path / "folder.jpg").mkdir()
    for name, words in (("none.jpg", "none.jpg is missing"), ("folder.jpg", r"folder.jpg cannot be read \(Is a dir")):
        with pytest.raises(UserError, match=words):
            decode(tmp_path / name)
    with pytest.raises(UserError, match="64x64 pixels"):
        Frame((8, 8)).load(whole, (1280, 1918))


def test_exif_orientation_of_a_photograph_that_is_nearly_square(tmp_path: Path) -> None:
    """At 1/8 both sides are 126 pixels long, which does not show that they were swapped."""
    from PIL import Image

    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((1001, 1008, 3), np.uint8)).save(path, exif=exif)
    assert decode(path, (64, 96))[1] == (1008, 1001)
