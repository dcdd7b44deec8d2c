"""Damaged image files at every place that reads them, and unusual ones that are good: real files, a sentence each."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from command_line import UserError
from competition import COMPETITIONS, Competition
from folds.images import faults, find_training_set, read_mask
from folds.inputs import load_inputs
from folds.truth import load_truth
from kaggle_client.verify_download import verify
from kernels import rle
from models import codec_warnings
from models.frame import Frame
from models.image_file import ImageFile, decode
from predict.blocks import UnreadableImagesError
from predict.photographs import load
from predict.predictor import predict
from tests.conftest import png_header, read_picture, write_mask
from tests.encoded_pictures import tiff
from tests.synthetic_runs import AVERAGE, save_member

SMALL: Competition = dataclasses.replace(COMPETITIONS["carvana"], size=(199, 301), train_count=4)
NAMES = [f"00000000000{car}_0{view}.jpg" for car in "ab" for view in (1, 2)]


def _jpeg(seed: int = 0, size: tuple[int, int] = SMALL.size, *, progressive: bool = False) -> bytes:
    """A photograph of smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    return bytes(cv2.imencode(".jpg", cv2.GaussianBlur(noise, (5, 5), 0), options)[1].tobytes())


def _with_thumbnail(data: bytes) -> bytes:
    """With a small JPEG, end marker and all, in its EXIF segment, as cameras write it."""
    thumbnail = _jpeg(9, (20, 30))
    segment = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00" + thumbnail
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def _hole(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(2048) + data[middle + 2048 :]


def _lacks_a_block(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + data[middle + 2048 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a hole": _hole,
    "a block is missing": _lacks_a_block,
    "cut off": lambda data: data[: len(data) // 2],
    "cut off behind a thumbnail": lambda data: _with_thumbnail(data)[: 60 + len(_with_thumbnail(data)) - len(data)],
    "empty": lambda data: b"",
    "no picture": lambda data: b"hello",
    "more pixels than fit": lambda data: png_header(70_000, 70_000),
}


def _checked(data: Path) -> list[str]:
    try:
        ImageFile(data / "train" / NAMES[0]).check()
    except UserError as error:
        return [str(error)]
    return []


def _cached(data: Path) -> list[str]:
    training = find_training_set(SMALL, data)
    truth = load_truth(training, data / "cache", jobs=1)
    try:
        load_inputs(training, Frame((65, 97)), {"mask": truth}, data / "cache", jobs=1)
    except UserError as error:
        assert [p.name for p in (data / "cache" / training.digest).iterdir()] == ["truth"]
        return [str(error)]
    return []


def _predicted(data: Path) -> list[str]:
    """What is printed of images that cannot be predicted; the others are."""
    member = save_member(data.parent, AVERAGE)
    printed = io.StringIO()
    lacking = []
    with contextlib.redirect_stdout(printed):
        try:
            predict(member, NAMES, data / "train", SMALL.size)
        except UnreadableImagesError as error:
            lacking = error.names
    # what was predicted of another content of the file is of no interest here
    shutil.rmtree(member.folder / "test.zarr", ignore_errors=True)
    sentences = printed.getvalue().splitlines()
    assert lacking == NAMES[: len(sentences)]
    return sentences


def _photographed(data: Path) -> list[str]:
    found = []
    # reduced by the codec to each of its sizes, and not at all
    for size in ((24, 37), (49, 75), (99, 150), SMALL.size):
        try:
            load(data / "train" / NAMES[0], [Frame(size)])
        except UserError as error:
            found.append(str(error))
    assert len(found) in (0, 4)
    return found[:1]


PLACES: dict[str, Callable[[Path], list[str]]] = {
    "one file": _checked,
    "folds.images": lambda data: list(faults(find_training_set(SMALL, data), jobs=1)),
    "make data": lambda data: verify(SMALL, data, ["train", "train_masks"], jobs=1),
    "the cache of inputs": _cached,
    "prediction": _predicted,
    "a photograph": _photographed,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for folder in ("train", "train_masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        (tmp_path / "data" / "train" / name).write_bytes(_jpeg(seed))
        mask = np.zeros(SMALL.size, bool)
        mask[20:90, 30 : 100 + seed] = True
        write_mask(tmp_path / "data" / "train_masks" / SMALL.mask_name(name), mask)
    return tmp_path / "data"


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("place", PLACES)
def test_damage_is_named_and_the_good_file_mends_it(
    data: Path, capfd: pytest.CaptureFixture[str], place: str, damage: str
) -> None:
    path = data / "train" / NAMES[0]
    good, before = path.read_bytes(), find_training_set(SMALL, data).digest
    path.write_bytes(DAMAGE[damage](good))
    assert find_training_set(SMALL, data).digest != before
    (sentence,) = PLACES[place](data)
    assert str(path) in sentence and "\n" not in sentence
    # what codecs say is in the sentence, and nowhere else
    assert "Corrupt JPEG" not in capfd.readouterr().err
    # what the message says to do
    path.write_bytes(good)
    assert PLACES[place](data) == []
    assert find_training_set(SMALL, data).digest == before


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("padding", [bytes(5000), b"\xff" * 5000, b"\x01trailer" * 999], ids=["zeros", "ones", "text"])
@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_padding_after_a_good_picture_is_no_damage(data: Path, place: str, padding: bytes, progressive: bool) -> None:
    path = data / "train" / NAMES[0]
    for content in (_jpeg(0, progressive=progressive), _with_thumbnail(_jpeg(0, progressive=progressive))):
        path.write_bytes(content + padding)
        assert PLACES[place](data) == []
        np.testing.assert_array_equal(decode(path), read_picture(path)[..., ::-1])


def test_a_file_that_is_put_back_with_its_old_time_is_opened_again(data: Path) -> None:
    assert PLACES["make data"](data) == []
    path = data / "train" / NAMES[0]
    good, stamp = path.read_bytes(), path.stat()

    path.write_bytes(_hole(good))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    (sentence,) = PLACES["make data"](data)
    assert "is damaged" in sentence
    path.write_bytes(good)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert PLACES["make data"](data) == []


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "tiff_adobe_deflate"])
def test_a_damaged_tiff_is_named_too(tmp_path: Path, capfd: pytest.CaptureFixture[str], compression: str) -> None:
    path = tmp_path / "x.tif"
    with Image.open(io.BytesIO(_jpeg())) as good:
        good.save(path, compression=compression)
    content = path.read_bytes()
    assert decode(path).shape == (*SMALL.size, 3)
    middle = len(content) // 2
    path.write_bytes(content[:middle] + b"\xff" * 256 + content[middle + 256 :])
    with pytest.raises(UserError, match=r"x\.tif is damaged"):
        decode(path)
    assert capfd.readouterr().err == ""


def test_threads_beside_each_other_name_the_damaged_images_and_no_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    damaged = rng.random(61) < 0.3
    for k, bad in enumerate(damaged):
        content = _jpeg(k, (131, 203))
        (tmp_path / f"{k:02}.jpg").write_bytes(_hole(content) if bad else content)
    paths = sorted(tmp_path.iterdir())

    def look(k: int) -> str:
        os.write(2, b"line %02d\n" % k)
        try:
            image = decode(paths[k])
        except UserError as error:
            return str(error)
        np.testing.assert_array_equal(image, read_picture(paths[k])[..., ::-1])
        return ""

    with ThreadPoolExecutor(7) as pool:
        found = list(pool.map(look, range(len(paths))))
    assert [bool(sentence) for sentence in found] == damaged.tolist()
    assert all(str(path) in sentence for path, sentence in zip(paths, found, strict=True) if sentence)
    # what others write meanwhile appears, each line once
    assert sorted(capfd.readouterr().err.splitlines()) == [f"line {k:02}" for k in range(len(paths))]


def test_what_others_write_meanwhile_still_appears(tmp_path: Path) -> None:
    start = (
        "import os; from pathlib import Path; from models.codec_warnings import undamaged\n"
        "undamaged(Path('x'), lambda: os.write(2, b'a bar\\n'))\n"
        "try: undamaged(Path('x'), lambda: os.write(2, b'other\\nbar 5%Corrupt JPEG data: 3 bytes\\nlast\\n'))\n"
        "except Exception as error: print(error)\n"
        "os.write(2, b'after\\n')\n"
        "os.close(2)\n"
        "print(undamaged(Path('x'), lambda: 'without standard error'))\n"
    )
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True)
    # decoded twice, since it might have been another's warning
    assert done.stderr == "a bar\n" + "other\nbar 5%last\n" * 2 + "after\n"
    assert done.stdout.splitlines() == [
        "x is damaged (Corrupt JPEG data: 3 bytes): copy the file again or take it out of the folder; if it looks "
        "whole in a viewer, save it anew.",
        "without standard error",
    ]
    assert codec_warnings._DAMAGE.search(b"3 files\nbar 100%") is None


MASK = np.random.default_rng(0).random((43, 57)) > 0.5


def _saved(picture: Image.Image, suffix: str = ".png", **options: object) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    picture.save(buffer, format={".png": "PNG", ".gif": "GIF", ".tif": "TIFF"}[suffix], **options)
    return buffer.getvalue(), suffix


def _grey(low: int, high: int, dtype: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.where(MASK, high, low).astype(dtype))


def _palette(colours: list[int], indices: tuple[int, int] = (0, 1)) -> Image.Image:
    picture = Image.fromarray(np.where(MASK, indices[1], indices[0]).astype(np.uint8), mode="P")
    picture.putpalette([each for colour in colours for each in (colour,) * 3])
    return picture


def _alpha(colour: np.ndarray | int, alpha: np.ndarray | int, mode: str = "RGBA") -> Image.Image:
    planes = [np.broadcast_to(np.asarray(colour, np.uint8), MASK.shape)] * (3 if mode == "RGBA" else 1)
    return Image.fromarray(np.dstack([*planes, np.broadcast_to(np.asarray(alpha, np.uint8), MASK.shape)]), mode=mode)


# red and green of one grey, 76
_ONE_GREY = (255, 0, 0), (0, 130, 0)


def _coloured(low: tuple[int, int, int], high: tuple[int, int, int], mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.where(MASK[..., None], high, low).astype(np.uint8)).convert(mode)


def _colour_palette(*colours: tuple[int, int, int]) -> Image.Image:
    """The last two of the colours."""
    picture = Image.fromarray((MASK + np.uint8(len(colours) - 2)).astype(np.uint8), mode="P")
    picture.putpalette([level for colour in colours for level in colour])
    return picture


def _big_endian(low: int, high: int) -> bytes:
    return tiff(np.where(MASK, high, low)[..., None], 16, big_endian=True)


def _commented(data: bytes) -> bytes:
    comment = b"zTXt" + b"a\0\0" + zlib.compress(bytes(5 << 20))
    return (
        data[:33] + struct.pack(">I", len(comment) - 4) + comment + struct.pack(">I", zlib.crc32(comment)) + data[33:]
    )


def _three_colours() -> Image.Image:
    pixels = np.array(_coloured(*_ONE_GREY))
    pixels[:, 0] = 255
    return Image.fromarray(pixels)


def _two_frames(suffix: str) -> tuple[bytes, str]:
    return _saved(_grey(0, 255), suffix, save_all=True, append_images=[_grey(255, 0)])


FULL = MASK * np.uint8(255)
KINDS: dict[str, Callable[[], tuple[bytes, str]]] = {
    "0 and 255": lambda: _saved(_grey(0, 255)),
    "0 and 1": lambda: _saved(_grey(0, 1)),
    "1 and 2": lambda: _saved(_grey(1, 2)),
    "1 and 2, GIF": lambda: _saved(_grey(1, 2), ".gif"),
    "254 and 255": lambda: _saved(_grey(254, 255)),
    "1 bit": lambda: _saved(_grey(0, 255).convert("1")),
    "1 bit, TIFF": lambda: _saved(_grey(0, 255).convert("1"), ".tif"),
    "1 bit with a palette": lambda: _saved(_palette([0, 255]), bits=1),
    "black on white": lambda: _saved(_palette([255, 0], (1, 0))),
    "indices 1 and 2": lambda: _saved(_palette([9, 0, 255], (1, 2)), ".gif"),
    "a palette of one grey": lambda: _saved(_palette([0, 0])),
    "16 bits": lambda: _saved(_grey(0, 65535, np.uint16)),
    "16 bits, 1 and 2": lambda: _saved(_grey(1, 2, np.uint16)),
    "alpha on black": lambda: _saved(_alpha(0, FULL)),
    "alpha on white": lambda: _saved(_alpha(255, FULL)),
    "alpha on grey": lambda: _saved(_alpha(7, FULL, "LA")),
    "colour, opaque": lambda: _saved(_alpha(FULL, 255)),
    "colour and the same alpha": lambda: _saved(_alpha(FULL, FULL)),
    "alpha by a palette": lambda: _saved(_palette([0, 0]), transparency=0),
    "16 bits, big endian, 256 and 65535": lambda: (_big_endian(256, 65535), ".tif"),
    "white on red": lambda: _saved(_coloured((255, 0, 0), (255, 255, 255))),
    "a palette with unused colours of one grey": lambda: _saved(_colour_palette(*_ONE_GREY, (0, 0, 9), (9, 9, 255))),
    "a comment that is huge when unpacked": lambda: (_commented(_saved(_grey(0, 255))[0]), ".png"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_two_levels_is_read_whatever_they_are(tmp_path: Path, kind: str) -> None:

    content, suffix = KINDS[kind]()
    path = tmp_path / f"mask{suffix}"
    path.write_bytes(content)
    mask = read_mask(path, MASK.shape)
    assert mask.dtype == bool and set(np.unique(mask.view(np.uint8))) == {0, 1}
    np.testing.assert_array_equal(mask, MASK)
    np.testing.assert_array_equal(rle.encode(mask), rle.encode(MASK.copy()))


BAD: dict[str, tuple[Callable[[], tuple[bytes, str]], str]] = {
    "two colours of one grey": (lambda: _saved(_coloured(*_ONE_GREY)), "one grey .*levels 0 and 255"),
    "with alpha": (lambda: _saved(_coloured(*_ONE_GREY, mode="RGBA")), "one grey .*levels 0 and 255"),
    "three colours of two greys": (lambda: _saved(_three_colours()), "one grey .*levels 0 and 255"),
    "a palette of them": (lambda: _saved(_colour_palette((0, 0, 0), *_ONE_GREY)), "one grey .*levels 0 and 255"),
    "a palette of them, GIF": (lambda: _saved(_colour_palette(*_ONE_GREY), ".gif"), "one grey .*levels 0 and 255"),
    "16 bits, colour": (
        lambda: (bytes(cv2.imencode(".png", np.dstack([MASK * np.uint16(255)] * 3))[1].tobytes()), ".png"),
        "3 channels of 16 bits: save it",
    ),
    "two frames, GIF": (lambda: _two_frames(".gif"), "several pictures, .*the one that is meant"),
    "two frames, PNG": (lambda: _two_frames(".png"), "several pictures, .*the one that is meant"),
    "two pages, TIFF": (lambda: _two_frames(".tif"), "several pictures, .*the one that is meant"),
    "two masks": (lambda: _saved(_alpha(FULL, 255 - FULL)), "another in its alpha: save it"),
    "three levels": (
        lambda: _saved(Image.fromarray(np.arange(43 * 57).reshape(43, 57).astype(np.uint8) % 3)),
        "levels",
    ),
    "three levels of alpha": (lambda: _saved(_alpha(0, np.where(MASK, 255, np.arange(57) % 2))), "levels"),
    "of another size": (lambda: _saved(Image.new("L", (57, 42))), "42x57 pixels"),
    "a header of many pixels": (lambda: (png_header(70_000, 70_000), ".png"), "put the competition's own file back"),
    "cut off": (lambda: (_saved(_grey(0, 1))[0][:80], ".png"), "cut off"),
    "empty": (lambda: (b"", ".png"), "cut off"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_mask_is_one_sentence(tmp_path: Path, kind: str) -> None:
    make, words = BAD[kind]
    content, suffix = make()
    path = tmp_path / f"mask{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_mask(path, MASK.shape)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["1 bit", "1 and 2, GIF", "1 bit with a palette", "16 bits", "alpha on black"])
def test_no_change_of_bytes_is_a_traceback(tmp_path: Path, kind: str) -> None:
    content, suffix = KINDS[kind]()
    path = tmp_path / f"mask{suffix}"
    rng = np.random.default_rng(len(kind))
    for _ in range(150):
        changed = bytearray(content)
        for position in rng.integers(0, len(content), rng.integers(1, 4)):
            changed[position] = rng.integers(0, 256)
        path.write_bytes(changed[: rng.integers(1, len(content) + 1)])
        try:
            read_mask(path, MASK.shape)
        except UserError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("value", [False, True], ids=["empty", "full"])
def test_an_empty_or_full_mask_is_named_where_the_entry_expects_none(
    data: Path, capsys: pytest.CaptureFixture[str], value: bool
) -> None:
    path = data / "train_masks" / SMALL.mask_name(NAMES[2])
    write_mask(path, np.full(SMALL.size, value))
    word, field = ("full", "full_masks") if value else ("empty", "empty_masks")
    expecting = dataclasses.replace(SMALL, full_masks=value, empty_masks=not value)
    for found, expected in (
        (
            list(faults(find_training_set(SMALL, data), jobs=1)),
            list(faults(find_training_set(expecting, data), jobs=1)),
        ),
        (verify(SMALL, data, ["train", "train_masks"], jobs=1), verify(expecting, data, ["train_masks"], jobs=1)),
    ):
        (sentence,) = found
        assert str(path) in sentence and f" is {word} " in sentence and field in sentence
        assert expected == []
    capsys.readouterr()
    # trained on all the same, and said once, when masks are read
    for facts, lines in ((SMALL, 1), (SMALL, 0), (expecting, 0)):
        folder = data / "cache" / str(facts.empty_masks or facts.full_masks)
        truth = load_truth(find_training_set(facts, data), folder, jobs=1)
        assert truth.areas_px[2] == value * SMALL.size[0] * SMALL.size[1]
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == lines and all(str(path) in line for line in printed)
