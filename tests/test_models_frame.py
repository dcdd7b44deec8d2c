from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from command_line import UserError
from competition import Size
from models.frame import Frame, frame_of, load_for
from models.image_file import ImageFile, decode, reduction
from models.variants import VARIANTS
from tests.conftest import read_picture
from tests.naive import area_weights


@pytest.mark.parametrize("full", [(1280, 1918), (5, 7), (1280, 1920)])
def test_crop_undoes_pad(full: tuple[int, int]) -> None:
    frame = Frame((1280, 1920), "pad")
    image = np.random.default_rng(0).normal(size=full).astype(np.float32)
    padded = frame.apply(image)
    assert padded.shape == frame.size
    np.testing.assert_array_equal(frame.invert(padded, full), image)


def test_pad_refuses_what_is_larger() -> None:
    for frame in (Frame((10, 10), "pad"), Frame((10, 10), "reflect"), Frame((20, 20), "reflect-2x")):
        with pytest.raises(UserError, match="does not fit a network"):
            frame.apply(np.zeros((11, 9), np.uint8))


@pytest.mark.parametrize("full", [(101, 101), (100, 101), (64, 96), (5, 7), (1, 1)])
def test_reflection_continues_the_image_on_all_sides_and_is_cropped_again(full: Size) -> None:
    frame = Frame((128, 160), "reflect")
    image = np.random.default_rng(0).normal(size=full).astype(np.float32)
    padded = frame.apply(image)
    np.testing.assert_array_equal(frame.invert(padded, full), image)
    before = [(side - own) // 2 for side, own in zip(frame.size, full, strict=True)]
    after = [side - own - start for side, own, start in zip(frame.size, full, before, strict=True)]
    np.testing.assert_array_equal(padded, np.pad(image, list(zip(before, after, strict=True)), mode="reflect"))


@pytest.mark.parametrize("full", [(101, 101), (97, 64)])
@pytest.mark.parametrize("size", [(224, 224), (256, 256), (202, 202)])
def test_a_doubled_frame_comes_back_where_it_was(full: Size, size: Size) -> None:
    frame = Frame(size, "reflect-2x")
    y, x = np.mgrid[: full[0], : full[1]].astype(np.float32)
    ramp = 0.3 * y - 0.2 * x
    back = frame.invert(frame.apply(ramp), full)
    # bilinear both ways: a straight ramp stays one, but for the border's repeated pixels
    np.testing.assert_allclose(back[1:-1, 1:-1], ramp[1:-1, 1:-1], atol=1e-4)
    # and every pixel, the borders' too, lies as far from one border as from the other
    np.testing.assert_array_equal(frame.invert(frame.apply(ramp[:, ::-1].copy()), full)[:, ::-1], back)


def test_logits_of_a_frame_that_reflects_reach_any_other() -> None:
    full = (101, 101)
    wave = np.sin(np.mgrid[:101, :101].astype(np.float32) / 15).sum(0)
    doubled, padded, reduced = Frame((256, 256), "reflect-2x"), Frame((128, 128), "reflect"), Frame((101, 101))
    for source in (doubled, padded, reduced):
        for target in (doubled, padded, reduced):
            moved = target.invert(source.transfer(source.apply(wave), target, full), full)
            np.testing.assert_allclose(moved[2:-2, 2:-2], wave[2:-2, 2:-2], atol=0.01)


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


@pytest.mark.parametrize("full", [(53, 71), (64, 64)])
def test_logits_keep_their_place_from_frame_to_frame(full: Size) -> None:
    """Between any two frames, against the obvious way: a straight ramp is the same ramp wherever it is read."""
    frames = [Frame((53, 71), "pad"), Frame((67, 90), "pad"), Frame((67, 90)), Frame((41, 90)), Frame((128, 101))]
    frames = [f for f in frames if f.fit == "resize" or all(np.less_equal(full, f.size))]
    slope = (0.3, -0.2)

    def ramp(frame: Frame) -> np.ndarray:
        """The ramp over the full frame at the centres of another frame's pixels."""
        scale = (1.0, 1.0) if frame.fit == "pad" else np.divide(full, frame.size)
        centres = [(np.arange(n) + 0.5) * s for n, s in zip(frame.size, scale, strict=True)]
        return (slope[0] * centres[0][:, None] + slope[1] * centres[1]).astype(np.float32)

    for source in frames:
        for target in frames:
            moved = source.transfer(ramp(source), target, full)
            assert moved.shape == target.size and moved.dtype == np.float32
            if source == target:
                np.testing.assert_array_equal(moved, ramp(source))
            # past the borders, where interpolation repeats the last pixel, and without the padding
            kept = full if target.fit == "pad" else target.size
            inner = tuple(slice(4, n - 4) for n in kept)
            np.testing.assert_allclose(moved[inner], ramp(target)[inner], atol=2e-3)


def _at(full: Size) -> list[tuple[float, float]]:
    """Centres (y, x) of five ellipses: the middle and near the four corners."""
    height, width = full
    return [(height * v, width * h) for v, h in ((0.5, 0.5), (0.17, 0.14), (0.17, 0.86), (0.83, 0.14), (0.83, 0.86))]


def _ellipses(full: Size) -> np.ndarray:
    """(H, W) uint8 picture of smooth-edged ellipses of 20 % of the sides, at `_at`."""
    y, x = np.mgrid[: full[0], : full[1]].astype(np.float32) + np.float32(0.5)
    picture = np.zeros(full, np.float32)
    for centre_y, centre_x in _at(full):
        radius = np.hypot((y - centre_y) / (0.10 * full[0]), (x - centre_x) / (0.10 * full[1]))
        picture += np.clip((1 - radius) * 0.05 * full[1], 0, 1)
    return np.rint(picture * 200).astype(np.uint8)


def _shifts(logits: np.ndarray, full: Size) -> np.ndarray:
    """(5, 2) by how many pixels the centres of mass lie off the ellipses' own."""
    shifts = []
    for centre in _at(full):
        box = tuple(slice(int(c - 0.125 * s), int(c + 0.125 * s)) for c, s in zip(centre, full, strict=True))
        part = logits[box].astype(np.float64)
        y, x = np.mgrid[box] + 0.5
        found = [float((grid * part).sum() / part.sum()) for grid in (y, x)]
        shifts.append(np.subtract(found, centre))
    return np.array(shifts)


def _stored(picture: np.ndarray, orientation: int) -> np.ndarray:
    """An upright picture as a camera stores it under an EXIF orientation."""
    turned = picture.swapaxes(0, 1) if orientation >= 5 else picture
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (0,), 7: (0, 1), 8: (1,)}.get(orientation, ())
    return np.ascontiguousarray(np.flip(turned, flips))


def _write_jpeg(path: Path, picture: np.ndarray, orientation: int = 1) -> None:
    exif = Image.Exif()
    if orientation > 1:
        exif[0x0112] = orientation
    Image.fromarray(_stored(picture, orientation)).convert("RGB").save(path, quality=95, exif=exif)


FRAMES = sorted({frame_of(variant) for variant in VARIANTS.values()}, key=lambda frame: (frame.size, frame.fit))
# Carvana's; no multiple of 2, 4 or 8; a multiple of all; upright; one whose picture at 1/8 all but equals 160x240
SIZES = [(1280, 1918), (1277, 1913), (1280, 1920), (1913, 1277), (999, 1503), (1281, 1921)]


@pytest.mark.parametrize("full", SIZES)
def test_from_jpeg_to_full_frame_nothing_moves_by_a_tenth_of_a_pixel(tmp_path: Path, full: Size) -> None:
    """For every variant: what the network would see, brought back as if it were its logits, lies where it lay."""
    path = tmp_path / "ellipses.jpg"
    _write_jpeg(path, _ellipses(full))
    frames = [f for f in [*FRAMES, Frame((160, 240))] if f.fit == "resize" or all(np.less_equal(full, f.size))]
    inputs, found = load_for(frames, path)
    assert found == full
    worst = {f: np.abs(_shifts(f.invert(inputs[f][..., 1].astype(np.float32), full), full)).max() for f in frames}
    assert {frame: shift for frame, shift in worst.items() if shift >= 0.1} == {}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_upright_and_does_not_move(tmp_path: Path, orientation: int) -> None:
    full = (1277, 1913)
    picture = _ellipses(full)
    # no two of the eight orientations look alike
    picture[40:90, 700:1000] = 150
    path = tmp_path / "turned.jpg"
    _write_jpeg(path, picture, orientation)
    image = decode(path)
    assert np.abs(image[..., 1].astype(int) - picture).mean() < 1
    np.testing.assert_array_equal(image, read_picture(path)[..., ::-1])
    for frame in (Frame((160, 256)), Frame((128, 128))):
        loaded, found = frame.load(path)
        assert found == full
        assert np.abs(loaded.astype(int) - frame.apply(image)).mean() < 1
        assert np.abs(_shifts(frame.invert(loaded[..., 1].astype(np.float32), full), full)).max() < 0.1


@pytest.mark.parametrize("full", [(1280, 1918), (1277, 1913), (333, 257), (999, 1503)])
@pytest.mark.parametrize("size", [(160, 256), (128, 128), (125, 187), (160, 240)])
def test_a_reduced_decode_is_an_exact_mean_over_areas(tmp_path: Path, full: Size, size: Size) -> None:
    """Against the obvious way: every pixel of the codec's picture repeated, and the area that one pixel covers."""
    path = tmp_path / "noise.jpg"
    _write_jpeg(path, np.random.default_rng(3).integers(0, 256, full, np.uint8))
    file = ImageFile(path)
    factor = reduction(full, size)
    if factor == 1:
        assert file.reduced(size) is None
        return
    flag = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}[factor]
    codec = read_picture(path, flag)[..., 1].astype(np.float64)
    down, across = (area_weights(n, f / factor, s) for n, f, s in zip(codec.shape, full, size, strict=True))
    reduced = file.reduced(size)
    assert reduced is not None and reduced.shape == (*size, 3)
    # OpenCV leaves out slivers of less than a thousandth of a pixel
    np.testing.assert_allclose(reduced[..., 1], down @ codec @ across.T, atol=0.8)


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
    reference = Frame(size).apply(decode(path))
    assert np.abs(loaded.astype(int) - reference).mean() < 3


@pytest.mark.parametrize(
    ("full", "size", "factor"),
    [
        ((1280, 1918), (160, 256), 4),
        ((1280, 1918), (160, 239), 8),
        ((1280, 1918), (320, 479), 4),
        ((1280, 1918), (320, 480), 2),
        ((1280, 1918), (640, 960), 1),
        ((40, 30), (160, 256), 1),
        # at 1/8 the picture has the very size that is wanted and covers another area
        ((1281, 1921), (160, 240), 4),
    ],
)
def test_a_jpeg_is_decoded_as_small_as_serves(full: Size, size: Size, factor: int) -> None:
    assert reduction(full, size) == factor


def test_the_version_of_a_frame_changes_only_where_the_geometry_did() -> None:
    full = (1280, 1918)
    assert [Frame(size).version(full) for size in ((160, 256), (128, 128), (320, 512), (1024, 1024))] == [2, 2, 1, 1]
    assert Frame((1280, 1920), "pad").version(full) == 1
    assert Frame((160, 256)).version((1280, 1920)) == 1


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
    for name, words in (
        ("none.jpg", "none.jpg does not exist"),
        ("folder.jpg", r"folder.jpg cannot be read \(Is a dir"),
    ):
        with pytest.raises(UserError, match=words):
            decode(tmp_path / name)
    with pytest.raises(UserError, match="64x64 pixels"):
        Frame((8, 8)).load(whole, (1280, 1918))


def test_exif_orientation_of_a_photograph_that_is_nearly_square(tmp_path: Path) -> None:
    """At 1/8 both sides are 126 pixels long, which does not show that they were swapped."""
    path = tmp_path / "turned.jpg"
    _write_jpeg(path, np.zeros((1008, 1001), np.uint8), 6)
    assert Frame((64, 96)).load(path)[1] == (1008, 1001)
    assert decode(path).shape == (1008, 1001, 3)
