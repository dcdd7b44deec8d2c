"""A small competition as Kaggle ships it: on a stand-in server, in a complete data folder, and as archives. Test files
take the fixtures as `pytest_plugins`."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from competition import COMPETITIONS, Competition
from kaggle_client import archive, download
from kaggle_client import cli as kaggle_cli
from kernels import rle
from tests.conftest import write_mask
from tests.kaggle_server import CANARY, USER, KaggleServer, leaks

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


@pytest.fixture
def given(tmp_path: Path, shipped: dict[str, bytes]) -> Path:
    """A folder with the competition's archives."""
    source = tmp_path / "given"
    source.mkdir()
    for name, content in shipped.items():
        (source / name).write_bytes(content)
    return source
