"""Archives and folders that are not what they should be are never taken for whole, and never removed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import UserError
from kaggle_client import archive, download, verify_download
from tests.kaggle_shop import Shop

pytest_plugins = ("tests.kaggle_shop",)


def _repacked(good: bytes, method: int, *, count: int = 9) -> bytes:
    """The first files of an archive in another, packed by another method."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for info in [i for i in old.infolist() if "MACOSX" not in i.filename][:count]:
            new.writestr(info.filename, old.read(info))
    return buffer.getvalue()


def _holed(good: bytes) -> bytes:
    return good[: len(good) // 2] + bytes(40) + good[len(good) // 2 + 40 :]


def _of_method(good: bytes, *, method: int = 8, flags: int = 0) -> bytes:
    """As if the first file were packed by another method, or encrypted."""
    changed = bytearray(good)
    with zipfile.ZipFile(io.BytesIO(good)) as packed:
        local, central = packed.infolist()[0].header_offset, good.index(b"PK\x01\x02")
    changed[local + 6], changed[local + 8], changed[central + 8], changed[central + 10] = flags, method, flags, method
    return bytes(changed)


def _with_long_name(good: bytes) -> bytes:
    buffer = io.BytesIO(good)
    with zipfile.ZipFile(buffer, "a") as packed:
        packed.writestr("train/" + "x" * 240 + ".jpg", b"x")
    return buffer.getvalue()


# archives that are not what they should be, made of a good one
BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "a hole": _holed,
    "a hole, LZMA": lambda good: _holed(_repacked(good, zipfile.ZIP_LZMA)),
    "a hole, bzip2": lambda good: _holed(_repacked(good, zipfile.ZIP_BZIP2)),
    "cut short": lambda good: good[: len(good) // 3],
    "no archive": lambda good: b"hello",
    "empty": lambda good: b"",
    "deflate64": lambda good: _of_method(good, method=9),
    "LZMA that is none": lambda good: _of_method(good, method=14),
    "encrypted": lambda good: _of_method(good, flags=1),
    "two of four images": lambda good: _repacked(good, zipfile.ZIP_STORED, count=2),
    "no image": lambda good: _repacked(good, zipfile.ZIP_STORED, count=0),
    "a long name": _with_long_name,
}


@pytest.mark.parametrize("fault", BROKEN)
def test_nothing_in_a_folder_that_was_given_is_removed_or_changed(
    shop: Shop, given: Path, shipped: dict[str, bytes], fault: str
) -> None:
    source = given
    (source / "train.zip").write_bytes(BROKEN[fault](shipped["train.zip"]))
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    for _ in range(2):
        error = shop.fetch(source=source)
        assert "train.zip" in error and "\n" not in error
        assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    # what the message says to do works
    (source / "train.zip").write_bytes(shipped["train.zip"])
    assert shop.fetch(source=source) == ""


@pytest.mark.parametrize("fault", ["a hole", "no archive", "two of four images", "listed as more", "listed as less"])
def test_what_was_fetched_and_is_not_whole_is_never_entered_as_complete(
    shop: Shop, shipped: dict[str, bytes], fault: str
) -> None:
    good = shipped["train.zip"]
    if fault in BROKEN:
        shop.server.files["train.zip"] = BROKEN[fault](good)
    else:
        shop.server.listed_bytes["train.zip"] = len(good) + (1000 if fault == "listed as more" else -1000)
    error = shop.fetch(only="train")
    assert "train.zip" in error and "run the same command again" in error and "\n" not in error
    assert not any(path.is_file() for path in (shop.data / ".download").rglob("*"))
    shop.server.files["train.zip"] = good
    shop.server.listed_bytes.clear()
    assert shop.fetch(only="train") == ""
    assert len(list((shop.data / "train").iterdir())) == 4


def test_a_part_that_an_older_run_entered_short_is_fetched(shop: Shop, given: Path) -> None:
    assert shop.fetch(source=given) == ""
    (shop.data / "train" / "00000000000a_01.jpg").unlink()
    (shop.data / download.LEDGER_FILE).write_text('{"train": 3, "metadata.csv": 1}')
    assert shop.fetch(source=given) == ""
    assert len(list((shop.data / "train").iterdir())) == 4
    for content in ("{", "[]", "null", '{"train": "four"}', '{"train": [4]}'):
        for name in (download.LEDGER_FILE, verify_download.LEDGER_FILE):
            (shop.data / name).write_text(content)
        assert shop.fetch(source=given) == ""


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("metadata.csv", b"car,year\n1,2\n"),
        ("metadata.csv", b"\xff\xfe\x00"),
        ("sample_submission.csv", b"<html>"),
        ("train_masks.csv", b"img,rle_mask\n"),
        ("train/00000000000a_01.jpg", b"hello"),
        ("train_masks/00000000000b_02_mask.gif", b""),
    ],
)
def test_what_is_damaged_later_is_fetched_once_it_is_removed(
    shop: Shop, given: Path, path: str, content: bytes
) -> None:
    assert shop.fetch(source=given) == ""
    good = (shop.data / path).read_bytes()
    (shop.data / path).write_bytes(content)
    for _ in range(2):
        error = shop.fetch(source=given)
        assert path in error and "\n" not in error
    (shop.data / path).unlink()
    assert shop.fetch(source=given) == ""
    assert (shop.data / path).read_bytes() == good


def test_disk_that_fills_while_unpacking(tmp_path: Path, shipped: dict[str, bytes], monkeypatch: Any) -> None:
    packed = tmp_path / "train.zip"
    packed.write_bytes(shipped["train.zip"])
    written: list[Path] = []
    extract = archive._extract

    def fill(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(target)
        extract(opened, info, target)

    monkeypatch.setattr(archive, "_extract", fill)
    with pytest.raises(UserError, match="the disk became full while"):
        archive.unpack(packed, tmp_path / "train", folder=True)
    assert sorted(written) == sorted((tmp_path / "train").iterdir())
    monkeypatch.setattr(archive, "_extract", extract)
    stamps = {path: path.stat().st_mtime_ns for path in written}
    assert len(archive.unpack(packed, tmp_path / "train", folder=True)) == 4
    assert {path: path.stat().st_mtime_ns for path in written} == stamps
