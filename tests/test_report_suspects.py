"""Suspect labels: damaged masks among good ones are found; who is left out is not trained on, and is scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from command_line import UserError
from competition import COMPETITIONS
from folds import train
from folds.images import find_training_set
from folds.leave_out import identity, read_left_out
from folds.store import LogitStore
from models.variants import VARIANTS
from report import suspects
from report.label_confidence import label_confidence, soft_minimum
from tests.conftest import CARS, VIEWS
from tests.synthetic_runs import forget_logits_digests
from tests.test_report import check_page
from tests.test_report_explore import CARS_IN_SMALL, _small
from tests.tiny_folds import TINY

SMALL = (80, 120)


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A car of sorts, (320, 480) uint8 0/1, and the logits (80, 120) of a network that sees it through noise."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((320, 480), np.uint8)
    x, y, a, b = (int(rng.integers(*bounds)) for bounds in ((180, 300), (130, 190), (80, 140), (45, 80)))
    cv2.ellipse(mask, (x, y), (a, b), float(rng.integers(-10, 10)), 0, 360, 1, -1)
    for wheel in (x - a // 2, x + a // 2):
        cv2.circle(mask, (wheel, y + b), 22, 1, -1)
    # an antenna, which the network does not see
    cv2.line(mask, (x, y - b + 2), (x + 20, y - b - 30), 1, 3)
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    noise = cv2.resize(rng.normal(0, 1, (20, 30)).astype(np.float32), (480, 320), interpolation=cv2.INTER_CUBIC)
    logits = np.clip(distance + 1.2 * noise, -9, 9).astype(np.float32)
    return mask, cv2.resize(logits, SMALL[::-1], interpolation=cv2.INTER_AREA)


def damaged(mask: np.ndarray, how: int) -> np.ndarray:
    """A mask without a wheel, with a hole, with an island, shifted, or cut off at a side."""
    mask = mask.copy()
    rows, columns = np.nonzero(mask)
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    if how == 0:
        mask[bottom - 40 :, : (left + right) // 2] = 0
    elif how == 1:
        cv2.circle(mask, (int(left + right) // 2, int(top + bottom) // 2), 14, 0, -1)
    elif how == 2:
        cv2.circle(mask, (40, 40), 12, 1, -1)
    elif how == 3:
        mask = np.roll(mask, 14, 1)
    else:
        mask[:, right - (right - left) // 4 :] = 0
    return mask


def coverage(mask: np.ndarray) -> np.ndarray:
    return cv2.resize(mask * np.uint8(255), SMALL[::-1], interpolation=cv2.INTER_AREA)


def test_of_twenty_damaged_masks_eighteen_are_among_the_first_twenty_five() -> None:
    found = []
    for i in range(120):
        mask, logits = scene(i)
        bad = i % 6 == 0
        said = label_confidence(logits, coverage(damaged(mask, i // 6 % 5) if bad else mask))
        found.append((said.confidence, bad))
    assert sum(bad for _, bad in found) == 20
    assert sum(bad for _, bad in sorted(found)[:25]) >= 18
    # and the table takes them, without being told how many there are
    assert suspects.suspect(np.sort([confidence for confidence, _ in found])) == 12


@pytest.mark.parametrize(
    ("how", "kinds"), [(0, {"missing part"}), (1, {"hole"}), (2, {"island"}), (4, {"missing part"})]
)
def test_the_region_at_fault_is_named_and_boxed(how: int, kinds: set[str]) -> None:
    mask, logits = scene(1)
    bad = damaged(mask, how)
    said = label_confidence(logits, coverage(bad))
    assert said.kind in kinds
    top, left, bottom, right = said.regions[0].box
    rows, columns = np.nonzero(mask != bad)
    assert top <= rows.mean() / 320 <= bottom and left <= columns.mean() / 480 <= right
    # a thin part that the label lacks
    drawn = np.zeros(SMALL, np.uint8)
    drawn[30:60, 30:90] = 1
    antenna = np.where(drawn > 0, 8.0, -8.0).astype(np.float32)
    antenna[8:30, 60:63] = 8
    assert label_confidence(antenna, drawn * np.uint8(255)).kind == "thin part lost"


def test_a_label_that_is_borne_out_has_confidence_and_no_region() -> None:
    mask = np.zeros(SMALL, np.uint8)
    mask[20:60, 30:90] = 255
    logits = np.where(mask > 0, 9.0, -9.0).astype(np.float32)
    assert label_confidence(logits, mask).confidence > 0.99 and not label_confidence(logits, mask).regions
    # an edge may be off by a pixel of the network, by three it may not
    assert label_confidence(np.roll(logits, 1, 1), mask).confidence > 0.99
    assert label_confidence(np.roll(logits, 3, 1), mask).confidence < 0.05
    # empty ones, and ones the network denies altogether
    empty = np.zeros(SMALL, np.uint8)
    assert label_confidence(np.full(SMALL, -9.0, np.float32), empty).confidence > 0.99
    assert label_confidence(logits, empty).kind == "missing part"
    assert label_confidence(-np.abs(logits), mask).confidence < 0.01


def test_the_soft_minimum_is_the_sum_it_is_said_to_be() -> None:
    values = np.random.default_rng(0).random(50)
    weights = [np.exp((1 - value) / 0.1) for value in values]
    assert soft_minimum(values) == pytest.approx(
        sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    )
    assert values.min() < soft_minimum(values) < values.mean()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data and runs of a small competition in which logits contradict the mask of the second car's first view."""
    folder = tmp_path_factory.mktemp("asked")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(COMPETITIONS, "small", CARS_IN_SMALL)
        patched.setitem(VARIANTS, "tiny", TINY)
        _, data = _small(folder)
        train.main(
            competition="small", variant="tiny", data=data, runs=folder / "runs", folds=3, epochs=1, batch=2, jobs=1
        )
        root = folder / "runs" / "small"
        forget_logits_digests(root)
        training, store = find_training_set(CARS_IN_SMALL, data), LogitStore.open(root / "tiny" / "oof.zarr")
        for name in training.names:
            small = cv2.resize(training.mask(name).astype(np.float32), TINY.size[::-1], interpolation=cv2.INTER_AREA)
            if name == f"{CARS[1]}_{VIEWS[0]}.jpg":
                small[2:9, 2:9] = 1
            store.write(name, (12 * (small - 0.5))[None].astype(np.float32))
        suspects.main(competition="small", data=data, runs=folder / "runs", count=2, jobs=1)
    return data, folder / "runs"


def test_the_tables_and_the_page_begin_with_what_is_contradicted(asked: tuple[Path, Path]) -> None:
    folder = asked[1] / "small" / "suspects"
    table, everyone = pd.read_csv(folder / "suspects.csv"), pd.read_csv(folder / "confidence.csv")
    assert len(table) == 2 and len(everyone) == 12
    assert tuple(everyone.columns) == suspects.COLUMNS
    assert everyone["image"][0] == f"{CARS[1]}_01.jpg" and everyone["kind"][0] == "missing part"
    # 2 .. 9 of 32 rows and 48 columns, of which a pixel at the edge may be off
    first = everyone.iloc[0]
    assert 126 * 1 / 32 <= first["top"] < first["bottom"] <= 126 * 10 / 32
    assert 191 * 1 / 48 <= first["left"] < first["right"] <= 191 * 10 / 48
    page = check_page(folder / "suspects.html", None)
    assert "2 of 12 labels are suspect" in " ".join(page.text.split())


def test_who_is_left_out_is_not_trained_on_but_scored_and_another_list_is_refused(
    asked: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMPETITIONS, "small", CARS_IN_SMALL)
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    data, runs = asked[0], tmp_path / "runs"
    shutil.copytree(asked[1], runs)
    listed = runs / "small" / "suspects" / "suspects.csv"
    names = pd.read_csv(listed)["image"].tolist()
    flags: dict[str, Any] = {
        "competition": "small",
        "variant": "tiny",
        "data": data,
        "runs": runs,
        "epochs": 1,
        "batch": 2,
        "jobs": 1,
    }
    train.main(**flags, tag="without", leave_out=listed)
    run = runs / "small" / "tiny-without"
    table = pd.read_csv(runs / "small" / "folds.csv").set_index("image")
    for fold in range(3):
        manifest = json.loads((run / f"fold{fold}" / "manifest.json").read_text())
        kept = (table["fold"] != fold) & ~table.index.isin(names)
        assert manifest["images"] == {"train": int(kept.sum()), "held_out": int((table["fold"] == fold).sum())}
        assert manifest["recipe"]["left_out"] == identity(names)
        seen = json.loads((run / f"fold{fold}" / "seen.json").read_text())
        assert sum(len(digests.split()) for digests in seen["groups"].values()) == kept.sum()
    assert LogitStore.open(run / "oof.zarr").missing() == []
    capsys.readouterr()
    # the same list, in another order, is the same; another one, or none, is not
    pd.DataFrame({"image": names[::-1]}).to_csv(tmp_path / "again.csv", index=False)
    train.main(**flags, tag="without", leave_out=tmp_path / "again.csv")
    assert capsys.readouterr().out.count("is finished") == 3
    pd.DataFrame({"image": names[:1]}).to_csv(tmp_path / "other.csv", index=False)
    for other in (tmp_path / "other.csv", None):
        with pytest.raises(SystemExit, match="was trained with another recipe"):
            train.main(**flags, tag="without", leave_out=other)


def test_a_list_that_is_none_is_refused_in_one_sentence(asked: tuple[Path, Path], tmp_path: Path) -> None:
    training = find_training_set(CARS_IN_SMALL, asked[0])
    path = tmp_path / "list.csv"
    with pytest.raises(UserError, match=r"list\.csv is missing"):
        read_left_out(path, training)
    for text, fault in (
        ("name\nx\n", "no column image"),
        (f"image\n{training.names[0]}\n{training.names[0]}\n", "twice"),
        ("image\ncar.jpg\n", r"lists car\.jpg, which is not in"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=fault):
            read_left_out(path, training)
    for text in ("image\n", "image,confidence\n"):
        path.write_text(text)
        assert read_left_out(path, training) == frozenset()


def test_networks_of_other_data_are_not_asked(
    asked: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COMPETITIONS, "small", CARS_IN_SMALL)
    shutil.copytree(asked[0], tmp_path / "data")
    path = tmp_path / "data" / "train" / f"{CARS[0]}_01.jpg"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(SystemExit, match="was trained on other data"):
        suspects.main(competition="small", data=tmp_path / "data", runs=asked[1], jobs=1)
    with pytest.raises(SystemExit, match="has no trained network to ask"):
        suspects.main(competition="small", data=asked[0], runs=tmp_path / "none", jobs=1)
