"""Unusual pictures, each read as its writer meant it or refused in a sentence whose remedy helps: real files."""

from __future__ import annotations

import builtins
import dataclasses
import io
import struct
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from command_line import UserError
from competition import COMPETITIONS
from folds.composite_parts import read_background, read_foreground
from models.frame import Frame
from models.image_file import ImageFile, decode
from predict.photographs import load
from report.explore.listing import Pictures
from report.explore.survey import survey
from tests.conftest import png_header
from tests.encoded_pictures import tiff

RNG = np.random.default_rng(0)
COLOURS = cv2.GaussianBlur(RNG.integers(0, 256, (61, 97, 3), dtype=np.uint8), (9, 9), 0)
PICTURE = Image.fromarray(COLOURS)
DEEP = RNG.integers(0, 3190, (61, 97)).astype(np.uint16)


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(suffix, pixels)[1].tobytes())


def saved(format: str, picture: Image.Image = PICTURE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes, *, broken: bool = False) -> bytes:
    checksum = zlib.crc32(name + content) ^ broken
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def with_chunk(data: bytes, extra: bytes, *, first: bool) -> bytes:
    """A PNG with one more chunk, after its header or before its end."""
    at = 33 if first else len(data) - 12
    return data[:at] + extra + data[at:]


PLANES = {n: RNG.integers(0, 256, (61, 97, n)).astype(np.uint8) for n in (1, 2, 3, 4, 5, 7)}
BIT_REMEDY, CHANNEL_REMEDY = "bits a channel, .*save it with 8 bits", "channels, .*save three of them as RGB"
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG, 16 bits, grey": (lambda: encoded(".png", DEEP), BIT_REMEDY),
    "PNG, 16 bits, colour": (lambda: encoded(".png", np.dstack([DEEP] * 3)), BIT_REMEDY),
    "PNG, 16 bits, alpha": (lambda: encoded(".png", np.dstack([DEEP] * 4)), BIT_REMEDY),
    **{
        f"TIFF, {bits} bits, {n} channels, {'big' if big else 'little'} endian": (
            partial(tiff, np.dstack([DEEP] * n), bits, big_endian=big),
            BIT_REMEDY,
        )
        for bits in (12, 16)
        for n in (1, 2, 3, 4, 5)
        for big in (False, True)
    },
    "TIFF, 16 bits, compressed": (lambda: encoded(".tif", DEEP), BIT_REMEDY),
    "TIFF, floats": (lambda: encoded(".tif", DEEP.astype(np.float32)), "32 " + BIT_REMEDY),
    "TIFF, 5 channels": (lambda: tiff(PLANES[5], 8), CHANNEL_REMEDY),
    "TIFF, 7 channels": (lambda: tiff(PLANES[7], 8, big_endian=True), CHANNEL_REMEDY),
    "JPEG 2000, 16 bits": (lambda: encoded(".jp2", np.dstack([DEEP] * 3)), BIT_REMEDY),
    "PGM, 16 bits": (lambda: encoded(".pgm", DEEP), BIT_REMEDY),
    "radiance": (lambda: encoded(".hdr", np.dstack([DEEP] * 3).astype(np.float32)), "32 " + BIT_REMEDY),
    "JPEG, 12 bits": (lambda: encoded(".jpg", COLOURS).replace(b"\x00\x11\x08", b"\x00\x11\x0c", 1), BIT_REMEDY),
    "JPEG XL": (lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), "JPEG XL file, .*save it as JPEG or PNG"),
    "Photoshop": (lambda: b"8BPS\0\1" + bytes(99), "Photoshop file, .*save it as JPEG or PNG"),
}
READERS: dict[str, Callable[[Path], object]] = {
    "whole": decode,
    "as a network's input": lambda path: Frame((16, 24)).load(path),
    "as a photograph": lambda path: load(path, [Frame((16, 24)), Frame((32, 32), "pad")]),
    "verified": lambda path: ImageFile(path).check(),
    "as a background": read_background,
    "as a foreground": read_foreground,
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("reader", READERS)
def test_pixels_that_would_be_read_in_part_are_refused_in_a_sentence(tmp_path: Path, kind: str, reader: str) -> None:
    make, words = REFUSED[kind]
    path = tmp_path / "x.png"
    path.write_bytes(make())
    with pytest.raises(UserError, match=words) as caught:
        READERS[reader](path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


READ: dict[str, tuple[Callable[[], bytes], str]] = {
    **{
        f"TIFF, {n} channels, {'big' if big else 'little'} endian": (
            partial(tiff, PLANES[n], 8, big_endian=big),
            mode,
        )
        for n, mode in ((1, "L"), (3, "RGB"), (4, "RGBA"))
        for big in (False, True)
    },
    "PNG, 4 bits": (lambda: saved("PNG", PICTURE.quantize(13), bits=4), "P"),
    "PNG, grey and alpha": (lambda: saved("PNG", PICTURE.convert("LA")), "LA"),
    "PNG, colour": (lambda: encoded(".png", COLOURS), "RGB"),
    "JPEG, grey": (lambda: encoded(".jpg", DEEP.astype(np.uint8)), "L"),
    "WebP, alpha": (lambda: encoded(".webp", PLANES[4]), "RGBA"),
    "GIF": (lambda: saved("GIF", PICTURE.quantize(200)), "RGB"),
    "JPEG 2000": (lambda: saved("JPEG2000"), "RGB"),
    "JPEG 2000, grey and alpha": (lambda: saved("JPEG2000", PICTURE.convert("LA")), "RGB"),
    "MPO": (lambda: saved("MPO", save_all=True, append_images=[PICTURE.rotate(180)]), "RGB"),
    "TIFF, two pages": (lambda: saved("TIFF", save_all=True, append_images=[PICTURE.rotate(180)]), "RGB"),
}


@pytest.mark.parametrize("kind", READ)
def test_what_opencv_reads_is_read_as_it_reads_it(tmp_path: Path, kind: str) -> None:
    make, mode = READ[kind]
    path = tmp_path / "x.jpg"
    path.write_bytes(make())
    expected = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert expected is not None
    np.testing.assert_array_equal(decode(path), expected[..., ::-1])
    assert ImageFile(path).size == (61, 97) and ImageFile(path).mode == mode


def _exif(orientation: int, *, prefix: bool) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    content = block.tobytes().removeprefix(b"Exif\0\0")
    return b"Exif\0\0" * prefix + content


def _webp(orientation: int, *, prefix: bool) -> bytes:
    """Written box by box: Pillow takes the prefix off."""
    plain = saved("WEBP", lossless=True)
    exif = _exif(orientation, prefix=prefix)
    size = struct.pack("<I", 96)[:3] + struct.pack("<I", 60)[:3]
    extended = b"VP8X" + struct.pack("<II", 10, 8) + size
    content = b"WEBP" + extended + plain[12:] + b"EXIF" + struct.pack("<I", len(exif)) + exif + b"\0" * (len(exif) % 2)
    return b"RIFF" + struct.pack("<I", len(content)) + content


TURNED: dict[str, Callable[[int], bytes]] = {
    "WebP": lambda o: _webp(o, prefix=False),
    "WebP with a prefix": lambda o: _webp(o, prefix=True),
    "PNG": lambda o: with_chunk(saved("PNG"), chunk(b"eXIf", _exif(o, prefix=False)), first=True),
    "PNG, at the end": lambda o: with_chunk(saved("PNG"), chunk(b"eXIf", _exif(o, prefix=False)), first=False),
    "PNG with a prefix": lambda o: with_chunk(saved("PNG"), chunk(b"eXIf", _exif(o, prefix=True)), first=True),
    "JPEG": lambda o: saved("JPEG", exif=_exif(o, prefix=True)),
    "TIFF": lambda o: saved("TIFF", tiffinfo={274: o}),
    "AVIF": lambda o: saved("AVIF", exif=_exif(o, prefix=True), quality=100, subsampling="4:4:4"),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", TURNED)
def test_every_turn_of_every_format_is_undone(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(TURNED[kind](orientation))
    with Image.open(io.BytesIO(TURNED[kind](1))) as upright:
        upright.getexif()[0x0112] = orientation
        expected = np.asarray(ImageOps.exif_transpose(upright))
    assert ImageFile(path).size == expected.shape[:2]
    found = decode(path)
    # codecs round differently
    assert np.abs(found.astype(int) - expected).max() <= 3 and (found != expected).mean() < 0.1


def test_a_turned_cut_out_is_upright_in_composites(tmp_path: Path) -> None:
    alpha = np.zeros((61, 97), np.uint8)
    alpha[5:40, 10:30] = 255
    picture = PICTURE.copy()
    picture.putalpha(Image.fromarray(alpha))
    plain = saved("PNG", picture)
    path = tmp_path / "fg.png"
    path.write_bytes(with_chunk(plain, chunk(b"eXIf", _exif(6, prefix=False)), first=True))
    np.testing.assert_array_equal(read_foreground(path), np.rot90(np.dstack([COLOURS, alpha]), -1))


COMMENTS: dict[str, bytes] = {
    "broken": chunk(b"tEXt", b"a\0b", broken=True),
    "huge when unpacked": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(5 << 20))),
    "huge": chunk(b"tEXt", b"a\0" + b"b" * (65 << 20)),
    "no stream": chunk(b"zTXt", b"a\0\0xxxx"),
    "profile": chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(5 << 20))),
    "broken gamma": chunk(b"gAMA", b"\0\0\0\1", broken=True),
    "broken EXIF": chunk(b"eXIf", b"junk"),
}


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("kind", COMMENTS)
def test_no_comment_in_a_png_ends_a_look_at_the_data(tmp_path: Path, kind: str, first: bool) -> None:
    facts = dataclasses.replace(COMPETITIONS["salt"], size=(61, 97))
    path = tmp_path / "0123456789.png"
    path.write_bytes(with_chunk(saved("PNG"), COMMENTS[kind], first=first))
    found = survey([Pictures("test", tmp_path, (path.name,), (path.name,))], facts, jobs=1)
    assert found.faults == {}
    (row,) = found.images.to_dict("records")
    assert (row["format"], row["mode"], row["height"], row["width"]) == ("PNG", "RGB", 61, 97)
    np.testing.assert_array_equal(decode(path), COLOURS)


def test_a_png_of_more_pixels_than_fit_does_not_end_it_either(tmp_path: Path) -> None:
    for name in ("0123456789.png", "0123456788.png"):
        (tmp_path / name).write_bytes(png_header(70_000, 70_000) if name[-5] == "9" else saved("PNG"))
    facts = dataclasses.replace(COMPETITIONS["salt"], size=(61, 97))
    found = survey(
        [Pictures("test", tmp_path, names := tuple(sorted(p.name for p in tmp_path.iterdir())), names)], facts
    )
    assert [row["image"] for row in found.images.to_dict("records")] == ["0123456788.png"]
    assert ["cannot be decoded" in sentence for sentence in found.faults["cannot be used"]] == [True]


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)


def test_heic_names_the_package_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "IMG_1.jpg"
    path.write_bytes(HEIC)
    imported = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> ModuleType:
        if name == "pillow_heif":
            raise ImportError(name)
        return imported(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"IMG_1\.jpg is a HEIC file, .*pip install pillow-heif, or save it as JPEG"):
        decode(path)


def test_heic_is_read_where_the_package_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import pillow_heif
    except ImportError:
        # what of it is called, as its 1.8 has it
        def open_heif(file: io.BytesIO) -> SimpleNamespace:
            if file.read() != HEIC:
                raise EOFError("no picture")
            return SimpleNamespace(to_pillow=lambda: PICTURE.convert("RGBA"))

        monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(open_heif=open_heif))
        (tmp_path / "a.heic").write_bytes(HEIC)
        largest = 0
    else:
        pillow_heif.register_heif_opener()
        (tmp_path / "a.heic").write_bytes(saved("HEIF", quality=100))
        largest = 40
    assert np.abs(decode(tmp_path / "a.heic").astype(int) - COLOURS).max() <= largest
    (tmp_path / "a.heic").write_bytes(HEIC[:200])
    with pytest.raises(UserError, match=r"a\.heic is a HEIC file that cannot be decoded: copy it again"):
        decode(tmp_path / "a.heic")
