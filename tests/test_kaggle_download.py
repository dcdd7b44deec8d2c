"""Downloading with the real Kaggle client against a stand-in server on the loopback, and verifying what came."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from command_line import UserError
from competition import COMPETITIONS, Competition
from kaggle_client import archive, download, verify_download
from kaggle_client import cli as kaggle_cli
from kaggle_client.verify_download import verify
from kernels import rle
from models.image_file import ImageFile
from tests.conftest import write_mask
from tests.kaggle_server import CANARY, USER, Fault, KaggleServer, leaks

# small frames: what is tested does not depend on the size
SMALL: Competition = dataclasses.replace(COMPETITIONS["carvana"], size=(32, 48), train_count=4, test_count=3)
PARTS = ["metadata.csv", "sample_submission.csv", "train_masks.csv", "train_masks", "train", "test"]
ROOT = Path(__file__).parents[1]


def zipped(folder: str, files: dict[str, bytes]) -> bytes:
    """A ZIP archive as Kaggle makes them, the images in a folder of their own, and a Mac's leavings."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(f"{folder}/{name}" if folder else name, content)
        packed.writestr("__MACOSX/._x.jpg", b"x")
    return buffer.getvalue()


def jpeg(seed: int, size: tuple[int, int] = SMALL.size) -> bytes:
    """A photograph of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".jpg", pixels)[1].tobytes())


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The competition's files as Kaggle lists them."""
    folder = tmp_path_factory.mktemp("masks")
    train = [f"{car}_0{v}.jpg" for car in ("00000000000a", "00000000000b") for v in (1, 2)]
    test = [f"{car}_01.jpg" for car in ("00000000000c", "00000000000d", "00000000000e")]
    masks, runs = {}, {}
    for i, name in enumerate(train):
        mask = np.zeros(SMALL.size, bool)
        mask[4 : 20 + i, 5:30] = True
        write_mask(folder / "mask.gif", mask)
        masks[SMALL.mask_name(name)] = (folder / "mask.gif").read_bytes()
        runs[name] = " ".join(map(str, rle.encode(mask).ravel()))
    cars = sorted({name[:12] for name in train + test})
    table = {
        "metadata.csv": '"id","year"\n' + "".join(f'"{car}","2014"\n' for car in cars),
        "sample_submission.csv": "img,rle_mask\n" + "".join(f"{name},1 1\n" for name in test),
        "train_masks.csv": "img,rle_mask\n" + "".join(f"{name},{runs[name]}\n" for name in train),
    }
    return {
        "29bb3ece3180_11.jpg": jpeg(99),
        **{f"{name}.zip": zipped("", {name: text.encode()}) for name, text in table.items()},
        "train_masks.zip": zipped("train_masks", masks),
        "train.zip": zipped("train", {name: jpeg(i) for i, name in enumerate(train)}),
        "train_hq.zip": zipped("train_hq", {name: jpeg(i + 40) for i, name in enumerate(train)}),
        "test.zip": zipped("test", {name: jpeg(i + 20) for i, name in enumerate(test)}),
    }


@dataclass
class Shop:
    """A Kaggle with the competition's files, an account, and an empty data folder."""

    server: KaggleServer
    data: Path

    def fetch(self, **flags: Any) -> str:
        """Run the program; returns what it said as an error, empty if it succeeded."""
        try:
            download.main(data=self.data, jobs=1, **flags)
        except SystemExit as end:
            assert end.code not in (0, None)
            return str(end.code)
        return ""


@pytest.fixture
def shop(tmp_path: Path, shipped: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    for name in ("KAGGLE_CONFIG_DIR", "KAGGLE_API_TOKEN", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv("KAGGLE_KEY", CANARY)
    monkeypatch.setitem(COMPETITIONS, "carvana", SMALL)
    monkeypatch.setattr(kaggle_cli, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(kaggle_cli, "ATTEMPTS", 2)
    with KaggleServer() as server:
        server.files.update(shipped)
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        shop = Shop(server, tmp_path / "data")
        yield shop
        if shop.data.exists():
            assert leaks(server, shop.data) == []


@pytest.fixture
def ready(tmp_path: Path, shipped: dict[str, bytes]) -> Path:
    """A complete data folder, put there without the client."""
    data = tmp_path / "ready"
    for part in download.find_parts(SMALL):
        packed = tmp_path / f"{part.name}.zip"
        packed.write_bytes(shipped[packed.name])
        archive.unpack(packed, data / part.name, folder=bool(part.folders))
    return data


def test_whole_download_then_nothing_to_do(shop: Shop) -> None:
    assert shop.fetch() == ""
    assert sorted(e.name for e in shop.data.iterdir() if not e.name.startswith(".")) == sorted(PARTS)
    assert sorted(e.name for e in (shop.data / "test").iterdir()) == [f"00000000000{c}_01.jpg" for c in "cde"]
    with zipfile.ZipFile(io.BytesIO(shop.server.files["train.zip"])) as packed:
        for info in packed.infolist()[:4]:
            assert (shop.data / info.filename).read_bytes() == packed.read(info)
    assert not (shop.data / ".download").exists()
    assert "train_hq.zip" not in [json.loads(r.body)["fileName"] for r in shop.server.called("DownloadDataFile")]
    calls = len(shop.server.requests)
    assert shop.fetch() == ""
    assert len(shop.server.requests) == calls


def test_only_some_parts_and_hq(shop: Shop) -> None:
    assert shop.fetch(only="train_hq", hq=True) == ""
    assert len(list((shop.data / "train_hq").iterdir())) == 4
    assert "there is no part 'tests'" in shop.fetch(only="tests")


def test_second_run_opens_only_what_changed(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kaggle_client import verify_download

    assert verify(SMALL, ready, PARTS, jobs=1) == []
    opened: list[Path] = []
    read = ImageFile

    def note(path: Path) -> Any:
        opened.append(path)
        return read(path)

    monkeypatch.setattr(verify_download, "ImageFile", note)
    assert verify(SMALL, ready, PARTS, jobs=1) == [] and opened == []
    changed = ready / "train" / "00000000000a_01.jpg"
    changed.write_bytes(jpeg(7))
    assert verify(SMALL, ready, PARTS, jobs=1) == [] and opened == [changed]


def _cut(data: Path) -> None:
    path = data / "test" / "00000000000c_01.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def _resize(data: Path) -> None:
    (data / "train" / "00000000000a_02.jpg").write_bytes(jpeg(1, (48, 32)))


def _three_levels(data: Path) -> None:
    levels = np.zeros(SMALL.size, np.uint8)
    levels[:4], levels[4:8] = 1, 2
    Image.fromarray(levels, mode="L").save(data / "train_masks" / "00000000000b_01_mask.gif")


def _lose_mask(data: Path) -> None:
    (data / "train_masks" / "00000000000b_02_mask.gif").unlink()


def _orphan(data: Path) -> None:
    shutil.copy(data / "train_masks" / "00000000000a_01_mask.gif", data / "train_masks" / "00000000000f_01_mask.gif")


def _lose_image(data: Path) -> None:
    (data / "test" / "00000000000e_01.jpg").unlink()


def _leak(data: Path) -> None:
    (data / "test" / "00000000000c_01.jpg").rename(data / "test" / "00000000000a_03.jpg")


def _rename(data: Path) -> None:
    (data / "test" / "00000000000c_01.jpg").rename(data / "test" / "holiday.jpg")


def _lose_metadata_row(data: Path) -> None:
    path = data / "metadata.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")


def _wrong_column(data: Path) -> None:
    (data / "metadata.csv").write_text("car,year\n1,2\n")


def _lose_sample_row(data: Path) -> None:
    path = data / "sample_submission.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")


def _swap_masks(data: Path) -> None:
    one, other = (data / "train_masks" / f"00000000000{car}_01_mask.gif" for car in "ab")
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_swap_masks, "00000000000a_01_mask.gif and its row in"),
        (_cut, "00000000000c_01.jpg is cut off"),
        (_resize, "00000000000a_02.jpg has 48x32 pixels (height x width), expected 32x48"),
        (_three_levels, "00000000000b_01_mask.gif holds more than two levels"),
        (_lose_mask, "lacks 00000000000b_02_mask.gif"),
        (_orphan, "holds masks of no training image, 00000000000f_01_mask.gif"),
        (_lose_image, "holds 2 images, expected 3"),
        (_leak, "has 00000000000a both in training and in test"),
        (_rename, "'holiday.jpg' is not an image name"),
        (_lose_metadata_row, "metadata.csv does not cover 00000000000e"),
        (_wrong_column, "has no column id"),
        (_lose_sample_row, "differ, first at 00000000000e_01.jpg"),
    ],
)
def test_verification_names_the_fault(ready: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    assert verify(SMALL, ready, PARTS, jobs=1) == []
    spoil(ready)
    faults = verify(SMALL, ready, PARTS, jobs=1)
    assert any(sentence in fault for fault in faults), faults
    # what was found bad is not remembered as good
    assert verify(SMALL, ready, PARTS, jobs=1) == faults


def test_many_files_are_verified_in_processes(tmp_path: Path) -> None:
    many = dataclasses.replace(SMALL, test_count=None)
    (tmp_path / "test").mkdir()
    for i in range(300):
        (tmp_path / "test" / f"{i:012x}_01.jpg").write_bytes(jpeg(i))
    broken = tmp_path / "test" / f"{123:012x}_01.jpg"
    broken.write_bytes(broken.read_bytes()[:-99])
    assert [f.partition(" ")[0] for f in verify(many, tmp_path, ["test"], jobs=2)] == [str(broken)]


@pytest.mark.parametrize(
    ("call", "fault", "sentence"),
    [
        ("ListDataFiles", Fault(401), "refused the credentials of KAGGLE_KEY"),
        ("DownloadDataFile", Fault(403, "You must accept this competition's rules."), "/rules"),
        ("ListDataFiles", Fault(404), "Kaggle knows no such thing"),
        ("DownloadDataFile", Fault(500), "too busy"),
    ],
)
def test_failure_is_one_sentence(shop: Shop, call: str, fault: Fault, sentence: str) -> None:
    shop.server.faults[call] = [fault] * 2
    error = shop.fetch(only="metadata.csv")
    assert sentence in error and "\n" not in error
    assert not (shop.data / "metadata.csv").exists()


def test_what_passes_is_tried_again_by_its_status_whatever_the_words(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kaggle_cli, "ATTEMPTS", 4)
    faults = [Fault(503, "Something went wrong."), Fault(500, "404 Not Found"), Fault(429, "Permission was denied")]
    shop.server.faults["ListDataFiles"] = list(faults)
    assert shop.fetch(only="metadata.csv") == ""
    assert len(shop.server.called("ListDataFiles")) >= len(faults) + 1


@pytest.mark.parametrize(
    "fault", [Fault(403, "Too many requests"), Fault(404, "503 Server Error"), Fault(400, "429 busy")]
)
def test_what_does_not_pass_is_said_at_once(shop: Shop, fault: Fault) -> None:
    shop.server.faults["ListDataFiles"] = [fault] * 9
    error = shop.fetch(only="metadata.csv")
    assert str(fault.message) in error and "\n" not in error
    assert len(shop.server.called("ListDataFiles")) == 1


def test_a_server_that_dies_in_mid_download_is_noticed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaggle_cli, "SILENCE_S", 3.0)
    shop.server.stall_after = 100
    error = shop.fetch(only="train")
    assert "neither taken nor sent a byte for 3 s" in error and "\n" not in error
    shop.server.stall_after = None
    shop.server.release.set()
    assert shop.fetch(only="train") == ""


def test_no_network(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert "Kaggle cannot be reached" in shop.fetch()


def test_part_that_kaggle_lacks(shop: Shop) -> None:
    del shop.server.files["train.zip"]
    assert "Kaggle lists no train.zip" in shop.fetch()


def test_not_enough_disk_is_said_before(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(shop.data.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50 << 20))
    error = shop.fetch()
    assert "free: make room" in error
    assert shop.server.called("DownloadDataFile") == []


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


@pytest.fixture
def given(tmp_path: Path, shipped: dict[str, bytes]) -> Path:
    """A folder with the competition's archives."""
    source = tmp_path / "given"
    source.mkdir()
    for name, content in shipped.items():
        (source / name).write_bytes(content)
    return source


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
    assert archive.unpack(packed, tmp_path / "train", folder=True) == 4
    assert {path: path.stat().st_mtime_ns for path in written} == stamps


def _run(shop: Shop, *words: str) -> subprocess.Popen[str]:
    """The program in a process group of its own, with the small competition in place of the real one."""
    start = (
        "import tests.test_kaggle_download as t, kaggle_client.download as d; "
        "t.COMPETITIONS['carvana'] = t.SMALL; "
        f"d.main(data=d.Path({str(shop.data)!r}), only='train', jobs=1)"
    )
    command = [*words, sys.executable, "-c", start]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_interrupted_download_goes_on(shop: Shop) -> None:
    # the client writes whole megabytes; what precedes a ZIP archive does not belong to it
    shop.server.files["train.zip"] = bytes(3 << 20) + shop.server.files["train.zip"]
    size = len(shop.server.files["train.zip"])
    shop.server.stall_after = 5 << 19
    process = _run(shop)
    assert shop.server.stalled.wait(30)
    partial = shop.data / ".download" / "train.zip" / "train.zip"
    for _ in range(200):
        if partial.exists() and partial.stat().st_size:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in error
    have = partial.stat().st_size
    assert 0 < have < size
    shop.server.stall_after = None
    shop.server.release.set()
    assert shop.fetch(only="train") == ""
    assert shop.server.requests[-1].headers["Range"] == f"bytes={have}-"
    assert len(list((shop.data / "train").iterdir())) == 4


def test_disk_that_fills_while_downloading(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system of 4 MB under the data folder; the space is asked for, but taken by another meanwhile."""
    shop.data.mkdir()
    shop.server.files["train.zip"] += bytes(60 << 20)
    enter = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=4m tmpfs {shop.data}"
    if not shutil.which("unshare") or subprocess.run([*enter, mount], capture_output=True).returncode:
        pytest.skip("no file system of its own can be mounted here (unshare)")
    start = (
        "import tests.test_kaggle_download as t, kaggle_client.download as d; "
        "t.COMPETITIONS['carvana'] = t.SMALL; d.archive.require_space = lambda *_: None; "
        f"d.main(data=d.Path({str(shop.data)!r}), only='train', jobs=1)"
    )
    command = [*enter, f'{mount} && exec "$0" -c "$1"', sys.executable, start]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: downloading train.zip of carvana")
    assert "the disk is full" in done.stderr
    assert len(shop.server.called("DownloadDataFile")) == 1


def test_taken_from_a_folder(tmp_path: Path, ready: Path, shipped: dict[str, bytes], shop: Shop) -> None:
    source = tmp_path / "input"
    source.mkdir()
    for name in ("train", "train_masks", "metadata.csv"):
        (ready / name).rename(source / name)
    for name in ("test.zip", "sample_submission.csv.zip", "train_masks.csv.zip"):
        (source / name).write_bytes(shipped[name])
    assert shop.fetch(source=source) == ""
    assert (shop.data / "train").is_symlink() and shop.server.requests == []
    (source / "test.zip").unlink()
    shutil.rmtree(shop.data / "test")
    assert "has neither test nor test.zip" in shop.fetch(source=source)
