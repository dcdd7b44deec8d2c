"""Fixtures: small competitions made on the spot. Nothing here reads a competition's own images."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

# before anything imports them: no library may look for weights or newer versions on a network
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
# the tests run side by side, and two threads on work as small as theirs mostly wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import hypothesis
import numpy as np
import pytest
from PIL import Image

from competition import COMPETITIONS

# what tests start as make is no part of the make that runs the tests: neither its depth nor its flags and variables
for name in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES"):
    os.environ.pop(name, None)

# fixtures that several test files share without all of them importing what they need
pytest.register_assert_rewrite("tests.kaggle_shop")

# a first call compiles a kernel: no time limit an example
hypothesis.settings.register_profile("compiled", deadline=None)
hypothesis.settings.load_profile("compiled")

CARS = ("00000000000a", "00000000000b", "00000000000c", "00000000000d", "00000000000e", "00000000000f")
VIEWS = ("01", "02")


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a (H, W) bool mask as the competition does: GIF of mode P with the values 0 and 1."""
    picture = Image.fromarray(mask.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(path)


def png_header(height: int, width: int) -> bytes:
    """A PNG that says to be of a size, and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def read_picture(path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """A picture as OpenCV reads it, which is there and is one."""
    picture = cv2.imread(str(path), flags)
    assert picture is not None, path
    return picture


def ellipse(seed: int) -> np.ndarray:
    """A (1280, 1918) bool mask: one filled ellipse, its place and size drawn from `seed`."""
    rng = np.random.default_rng(seed)
    height, width = COMPETITIONS["carvana"].size
    centre = (int(rng.integers(800, 1100)), int(rng.integers(600, 800)))
    axes = (int(rng.integers(350, 600)), int(rng.integers(180, 320)))
    picture = np.zeros((height, width), np.uint8)
    cv2.ellipse(picture, centre, axes, float(rng.integers(-10, 10)), 0, 360, 1, -1)
    return picture.astype(bool)


def write_ellipses(data: Path) -> Path:
    """Make a competition folder of Carvana's layout: six "cars" of two views, dark ellipses on a bright ground."""
    for folder in ("train", "train_masks"):
        (data / folder).mkdir(parents=True)
    for i, car in enumerate(CARS):
        for j, view in enumerate(VIEWS):
            mask = ellipse(10 * i + j)
            image = np.where(mask[..., None], np.uint8(60), np.uint8(200)) + np.arange(3, dtype=np.uint8) * 10
            cv2.imwrite(str(data / "train" / f"{car}_{view}.jpg"), image)
            write_mask(data / "train_masks" / f"{car}_{view}_mask.gif", mask)
    return data


@pytest.fixture
def ellipses(tmp_path: Path) -> Path:
    """What `write_ellipses` makes, in a folder of the test's own."""
    return write_ellipses(tmp_path / "data")
