"""A competition that differs from the first in every field goes the whole way, by its entry alone."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

import ensemble.fit
import ensemble.photographs
import folds.images
import folds.train
import report.write
import submit.check
import submit.make
from command_line import UserError
from competition import COMPETITIONS, Competition
from folds.images import find_training_set
from kaggle_client import download
from kernels import rle
from models.variants import VARIANTS
from notebooks.push import programs
from submit.score import score
from tests.other_competition import MEMBERS, OTHER, label, picture, ship

FIRST = COMPETITIONS["carvana"]
# what the first competition has not, or both must have; "composed" is shown by the one competition that is
_ALIKE = {"channels", "targets", "test_masks_dir", "composed"}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The competition and two small networks stand in the registries."""
    monkeypatch.setitem(COMPETITIONS, OTHER.name, OTHER)
    for member in MEMBERS:
        monkeypatch.setitem(VARIANTS, member.name, member)


@pytest.fixture
def data(tmp_path: Path, known: None) -> Path:
    """Its files, unpacked and verified."""
    ship(tmp_path / "shipped")
    download.main(competition=OTHER.name, data=tmp_path / "data", source=tmp_path / "shipped", jobs=1)
    return tmp_path / "data"


def test_it_differs_in_every_field() -> None:
    same = {field.name for field in fields(Competition) if getattr(OTHER, field.name) == getattr(FIRST, field.name)}
    assert same <= _ALIKE


def test_from_archives_to_a_checked_submission(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    where: dict[str, Any] = {"competition": OTHER.name, "data": data, "runs": tmp_path / "runs"}
    root = tmp_path / "runs" / OTHER.name
    names = ",".join(member.name for member in MEMBERS)
    assert len(list((data / OTHER.masks_dir).iterdir())) == 20

    # folds without groups: every fold has its share of empty masks and of large ones
    folds.train.main(**where, variant=names, epochs=2, batch=2, jobs=1)
    table = pd.read_csv(root / "folds.csv")
    empty = (table["area_px"] == 0).groupby(table["fold"]).sum()
    assert sorted(empty) == [0, 1, 1, 1, 1]
    assert (table["fold"].value_counts() == 4).all()
    assert table["group"].tolist() == [OTHER.key(name) for name in table["image"]]

    ensemble.fit.main(**where, jobs=1)
    blend = json.loads((root / "blend" / "blend.json").read_text())
    assert 0 <= blend["cv"]["iou"] <= 1 and "dice" not in blend["cv"]
    assert blend["expected"]["groups"] == 6

    submit.make.main(**where, jobs=1)
    path = root / "blend" / "submission.csv.gz"
    with gzip.open(path, "rt", newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == OTHER.header
    assert [row[0] for row in rows] == [f"xyz-{i:03}" for i in reversed(range(6))]
    submit.check.main(path, competition=OTHER.name, data=data)

    # the same masks by another road: folders of PNGs, whose pixels a row numbers by column
    ensemble.photographs.main(
        images=data / OTHER.test_dir, out=tmp_path / "masks", competition=OTHER.name, runs=tmp_path / "runs"
    )
    same = score(tmp_path / "masks", path, competition=OTHER)
    assert same.metric.name == "iou" and len(same.names) == 6 and same.mean == 1
    for key, text in rows:
        mask = cv2.imread(str(tmp_path / "masks" / f"{key}_mask.png"), cv2.IMREAD_GRAYSCALE)
        assert mask is not None
        np.testing.assert_array_equal(
            rle.decode(rle.parse(text.encode(), size=OTHER.size), OTHER.size, order="column"), mask > 0
        )

    report.write.main(**where, jobs=1)
    page = (root / "blend" / "report.html").read_text()
    assert "By lamp" in page and "bright" in page
    assert "By make" not in page and "view angle" not in page and "groups" not in page
    assert "Traceback" not in capfd.readouterr().err


def test_a_job_elsewhere_takes_the_archives_that_it_needs() -> None:
    fetch = programs(OTHER, "tiny", "0", "", [])[0]
    assert fetch[-1] == "light.csv,shown"
    assert programs(OTHER, "", "", "blend", [])[0][-1] == "light.csv,example.csv,probe"


def _fails(main: Any, **flags: Any) -> str:
    with pytest.raises(SystemExit) as end:
        main(competition=OTHER.name, jobs=1, **flags)
    return str(end.value.code)


def _write(path: Path, content: bytes | str) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _three_levels(data: Path) -> None:
    levels = np.full(OTHER.size, 65535, np.uint16)
    levels[:9], levels[9:20] = 0, 300
    _write(data / OTHER.masks_dir / "abc-001-label.png", bytes(cv2.imencode(".png", levels)[1].tobytes()))


def _other_image(data: Path) -> None:
    folder = data / OTHER.masks_dir
    shutil.copy(folder / "abc-004-label.png", folder / "abc-001-label.png")


def _other_row(data: Path) -> None:
    path = data / "labels.csv"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].partition(",")[0] + ",1 7"
    _write(path, "\n".join(lines) + "\n")


def _low_image(data: Path) -> None:
    _write(data / OTHER.train_dir / "abc-001.png", picture(np.zeros((63, 96), bool), 0))


def _with_suffix(data: Path) -> None:
    path = data / OTHER.sample_file
    _write(path, path.read_text().replace("xyz-005,", "xyz-005.png,"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_three_levels, "abc-001-label.png holds more than two levels"),
        (_other_image, "abc-001-label.png and its row in"),
        (_other_row, "abc-001-label.png and its row in"),
        (_low_image, "abc-001.png has 63x96 pixels (height x width), expected 64x96"),
        (_with_suffix, "differ, first at xyz-005"),
    ],
)
def test_bad_input_is_one_sentence_that_names_it(data: Path, spoil: Any, words: str) -> None:
    # what was found good is opened again where it changed; a table may have changed beside it
    spoil(data)
    (data / ".verified.json").unlink()
    error = _fails(download.main, data=data)
    assert words in error and "\n" not in error


def test_8_and_16_bit_masks_are_read_alike(data: Path) -> None:
    training = find_training_set(OTHER, data)
    path = training.mask_path("abc-001.png")
    mask = folds.images.read_mask(path, OTHER.size)
    for pixels in (mask.astype(np.uint16) * np.uint16(65535), mask.astype(np.uint8) * np.uint8(255)):
        _write(path, bytes(cv2.imencode(".png", pixels)[1].tobytes()))
        np.testing.assert_array_equal(folds.images.read_mask(path, OTHER.size), mask)
    assert len({cv2.imread(str(p), cv2.IMREAD_UNCHANGED).dtype for p in (data / OTHER.masks_dir).iterdir()}) == 2  # type: ignore[union-attr]
    _write(path, label(mask))
    assert find_training_set(OTHER, data).digest == training.digest


def test_a_sample_that_names_files_is_refused(data: Path) -> None:
    _with_suffix(data)
    with pytest.raises(UserError, match=r"names xyz-005.png by its file, and a row of drops leaves the .png off"):
        submit.check.sample_names(data, OTHER)


def test_groups_come_from_a_table_where_there_is_one(data: Path) -> None:
    path = data / "series.csv"
    names = find_training_set(OTHER, data).names
    rows = [f"{OTHER.key(name)},series{i // 2}" for i, name in enumerate(names)]
    _write(path, "image,group\n" + "\n".join([*rows, "xyz-000,series9"]) + "\n")
    training = find_training_set(OTHER, data)
    assert training.groups().tolist() == [f"series{i // 2}" for i in range(20)]
    table = folds.train.split.find_or_make(data / "folds.csv", training, np.arange(20), own=None, folds=5)
    assert (table.groupby("group")["fold"].nunique() == 1).all()
    for content, words in (
        ("image,group\n" + "\n".join(rows[1:]), "gives no group for abc-000 (1 of 20 images)"),
        ("image,group\n" + "\n".join([*rows, rows[4]]), "lists abc-004 twice"),
        ("image,series\n" + "\n".join(rows), "needs the columns image and group"),
    ):
        _write(path, content)
        with pytest.raises(UserError) as error:
            find_training_set(OTHER, data)
        assert words in str(error.value)


def test_nobody_ships_a_competition_without_archives(known: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nobody ships the files of studio"):
        download.find_parts(COMPETITIONS["studio"])
    with pytest.raises(UserError, match="there is no part 'train'; the parts are light"):
        download.find_parts(replace(OTHER), only="train")
