"""Verifying what came: every fault is named, and what was found good is not opened again."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kaggle_client import verify_download
from kaggle_client.verify_download import verify
from models.image_file import ImageFile
from tests.kaggle_shop import PARTS, SMALL, jpeg

pytest_plugins = ("tests.kaggle_shop",)


def test_second_run_opens_only_what_changed(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:

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
