"""Downloading with the real Kaggle client against a stand-in server on the loopback."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from kaggle_client import cli as kaggle_cli
from tests.kaggle_server import Fault
from tests.kaggle_shop import PARTS, ROOT, Shop

pytest_plugins = ("tests.kaggle_shop",)


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


def _run(shop: Shop, *words: str) -> subprocess.Popen[str]:
    """The program in a process group of its own, with the small competition in place of the real one."""
    start = (
        "import tests.kaggle_shop as t, kaggle_client.download as d; "
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
        "import tests.kaggle_shop as t, kaggle_client.download as d; "
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
