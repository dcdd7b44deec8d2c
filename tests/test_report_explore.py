"""The page about the data: of every kind of competition, with whatever is planted in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from command_line import UserError
from competition import COMPETITIONS, Competition
from report.explore import agreement, ceilings, likeness, shift, survey
from report.explore.listing import list_files, sample
from report.explore.write import main
from tests.conftest import CARS, VIEWS, ellipse, read_picture, write_mask
from tests.other_competition import OTHER, ship
from tests.parts import write_parts
from tests.test_report import check_page

# Carvana in small
CARS_IN_SMALL = replace(COMPETITIONS["carvana"], name="small", size=(126, 191))


def explored(name: str, data: Path, folder: Path, **more: int) -> tuple[dict, pd.DataFrame, Path]:
    main(competition=name, data=data, runs=folder, jobs=1, **more)
    found = folder / name / "explore"
    return json.loads((found / "explore.json").read_text()), pd.read_csv(found / "images.csv"), found / "explore.html"


def small_ellipse(seed: int) -> np.ndarray:
    """A (126, 191) bool mask."""
    return cv2.resize(ellipse(seed).astype(np.uint8), (191, 126), interpolation=cv2.INTER_NEAREST).astype(bool)


def _picture(mask: np.ndarray, seed: int) -> np.ndarray:
    """A dark ellipse before a wall of its own, (126, 191, 3) uint8."""
    wall = cv2.resize(np.random.default_rng(seed).integers(120, 240, (6, 9), np.uint8), (191, 126))
    return np.where(mask, np.uint8(60), wall)[..., None].repeat(3, 2)


def _small(folder: Path) -> tuple[Competition, Path]:
    data = folder / "data"
    for name in ("train", "train_masks"):
        (data / name).mkdir(parents=True)
    for i, car in enumerate(CARS):
        for j, view in enumerate(VIEWS):
            mask = small_ellipse(10 * i + j)
            cv2.imwrite(str(data / "train" / f"{car}_{view}.jpg"), _picture(mask, 10 * i + j))
            write_mask(data / "train_masks" / f"{car}_{view}_mask.gif", mask)
    return CARS_IN_SMALL, data


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, pd.DataFrame, Path]:
    """What is found of ellipses with a fault of each kind, and test images of a make that train lacks."""
    folder = tmp_path_factory.mktemp("planted")
    _, data = _small(folder)
    train, masks, test = (data / name for name in ("train", "train_masks", "test"))
    test.mkdir()
    # of the same bytes; cut off; of another size; without a mask; a mask without an image; names that are none
    double = train / f"{CARS[0]}_03.jpg"
    double.write_bytes((train / f"{CARS[1]}_01.jpg").read_bytes())
    (masks / f"{CARS[0]}_03_mask.gif").write_bytes((masks / f"{CARS[1]}_01_mask.gif").read_bytes())
    cut = train / f"{CARS[2]}_02.jpg"
    cut.write_bytes(cut.read_bytes()[:-300])
    odd = train / f"{CARS[3]}_02.jpg"
    cv2.imwrite(str(odd), cv2.resize(read_picture(odd), (96, 63)))
    (masks / f"{CARS[4]}_02_mask.gif").unlink()
    write_mask(masks / f"{CARS[4]}_09_mask.gif", small_ellipse(1))
    (train / "car.jpg").write_bytes(b"")
    (train / "Thumbs.db").write_bytes(b"")
    (train / "notes.txt").write_bytes(b"")
    # a training image once more, smaller, brighter and compressed again; and others
    again = cv2.convertScaleAbs(read_picture(train / f"{CARS[5]}_01.jpg"), beta=8)
    cv2.imwrite(str(test / "0000000000f1_01.jpg"), again, [cv2.IMWRITE_JPEG_QUALITY, 60])
    for i in range(4):
        cv2.imwrite(str(test / f"0000000000e{i}_01.jpg"), _picture(small_ellipse(500 + i), 500 + i))
    rows = [f"{car},{2010 + i},{'Alder' if i % 2 else 'Brisk'}" for i, car in enumerate(CARS)]
    rows += ["0000000000f1,2012,Alder", *(f"0000000000e{i},2030,Oxbow" for i in range(4))]
    (data / "metadata.csv").write_text("id,year,make\n" + "\n".join(rows) + "\n")
    (data / "sample_submission.csv").write_text("img,rle_mask\n0000000000f1_01.jpg,1 1\n0000000000f1_02.jpg,1 1\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(COMPETITIONS, "small", CARS_IN_SMALL)
        return explored("small", data, folder / "runs")


def test_every_planted_fault_is_named(planted: tuple[dict, pd.DataFrame, Path]) -> None:
    faults, table = planted[0]["faults"], planted[1]
    assert faults["of the same bytes"] == [f"{CARS[0]}_03.jpg, {CARS[1]}_01.jpg"]
    assert len(faults["cannot be used"]) == 1 and f"{CARS[2]}_02.jpg" in faults["cannot be used"][0]
    assert faults["of another size than 126x191"] == [f"{CARS[3]}_02.jpg (63x96)"]
    assert faults["training images without a mask"] == [f"{CARS[4]}_02.jpg"]
    assert faults["masks without an image"] == [f"{CARS[4]}_09_mask.gif"]
    assert faults["not named as the competition names its images"] == ["train/car.jpg"]
    assert faults["no image by its name"] == ["train/notes.txt"]
    assert faults["rows of the sample submission without an image"] == ["0000000000f1_02.jpg"]
    assert len(faults["test images that the sample submission does not list"]) == 4
    assert table["set"].value_counts().to_dict() == {"train": 11, "test": 5}


def test_makes_of_the_test_set_alone_and_copies_are_named(planted: tuple[dict, pd.DataFrame, Path]) -> None:
    numbers = planted[0]
    make, year = numbers["facts"]
    assert make["column"] == "make" and make["only_in_test"] == ["Oxbow"]
    assert year["outside"] == 4
    assert any("Oxbow" in sentence for sentence in numbers["findings"])
    across = numbers["near_duplicates"]["train_and_test"]
    assert [(pair["first"], pair["second"]) for pair in across] == [(f"{CARS[5]}_01.jpg", "0000000000f1_01.jpg")]
    within = numbers["near_duplicates"]["within_train"]
    assert [(pair["first"], pair["second"]) for pair in within] == [(f"{CARS[0]}_03.jpg", f"{CARS[1]}_01.jpg")]


def test_the_page_is_whole(planted: tuple[dict, pd.DataFrame, Path]) -> None:
    page = check_page(planted[2], None)
    assert "Oxbow" in page.text and f"{CARS[2]}_02.jpg" in page.text
    assert all(link.startswith("#") for link in page.links)


def _drops(folder: Path) -> tuple[Competition, Path]:
    from kaggle_client import download

    ship(folder / "shipped")
    download.main(competition=OTHER.name, data=folder / "data", source=folder / "shipped", jobs=1)
    return OTHER, folder / "data"


def _composites(folder: Path) -> tuple[Competition, Path]:
    return COMPETITIONS["composites"], write_parts(folder / "data", positions=2, blocks=4)


@pytest.mark.parametrize("made", [_drops, _composites])
def test_any_competition_has_a_page(made: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMPETITIONS, OTHER.name, OTHER)
    monkeypatch.setitem(COMPETITIONS, "small", CARS_IN_SMALL)
    competition, data = made(tmp_path)  # type: ignore[operator]
    numbers, table, page = explored(competition.name, data, tmp_path / "runs")
    check_page(page, None)
    listing = list_files(competition, data)
    assert sorted(table["image"]) == sorted((*listing.train.names, *listing.test.names))
    assert (numbers["agreement"] is None) == (not competition.has_views)
    scores = [row["score"] for row in numbers["ceilings"]["by_size"]]
    assert all(0 < score <= 1 for score in scores)
    if competition is OTHER:
        assert sum("masks are empty" in sentence for sentence in numbers["findings"]) == 1
        assert [fact["column"] for fact in numbers["facts"]] == ["lamp"]


def test_of_many_images_whole_groups_are_opened_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COMPETITIONS, "small", CARS_IN_SMALL)
    _, data = _small(tmp_path)
    _, table, page = explored("small", data, tmp_path / "runs", images=5)
    assert table.groupby("group").size().tolist() == [2, 2]
    assert "Only 4 of 12 were opened" in page.read_text()
    listing = list_files(CARS_IN_SMALL, data)
    assert sample(listing.train, 5, seed=1).names != sample(listing.train, 5).names
    with pytest.raises(SystemExit, match="--images 0 is out of range"):
        main(data=data, runs=tmp_path / "runs", images=0)


def test_nothing_to_explore_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hold no image with its mask"):
        list_files(CARS_IN_SMALL, tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_shapes_of_masks_are_those_counted_pixel_by_pixel(seed: int) -> None:
    from kernels import rle

    rng = np.random.default_rng(seed)
    mask = cv2.blur(rng.random((37, 53)).astype(np.float32), (5, 5)) > (0.5 if seed else 2)
    shape = survey.mask_shape(mask, rle.encode(mask))
    edges = sum(
        mask[y, x] != mask[v, u]
        for y in range(37)
        for x in range(53)
        for v, u in ((y + 1, x), (y, x + 1))
        if v < 37 and u < 53
    )
    assert shape["boundary_px"] == edges and shape["area_share"] == mask.mean()
    rows, columns = np.nonzero(mask)
    if len(rows):
        assert shape["row"] == pytest.approx((rows.mean() + 0.5) / 37)
        assert shape["column"] == pytest.approx((columns.mean() + 0.5) / 53)
        assert shape["touches_edge"] == (0 in rows or 36 in rows or 0 in columns or 52 in columns)
    else:
        assert np.isnan(shape["row"]) and np.isnan(shape["column"])


def test_ceilings_fall_with_the_size_and_nothing_is_lost_at_full_size() -> None:
    mask = small_ellipse(3)
    assert (ceilings.back_and_forth(mask, CARS_IN_SMALL.size) == mask).all()
    order = list(ceilings.sizes(COMPETITIONS["carvana"]))
    areas = [height * width for height, width in order]
    assert areas == sorted(areas, reverse=True)
    lost = [(ceilings.back_and_forth(mask, size) ^ mask).sum() for size in ((63, 96), (32, 48), (16, 24))]
    assert 0 < lost[0] < lost[1] < lost[2]


def test_a_perceptual_hash_outlives_what_compression_and_brightness_do() -> None:
    rng = np.random.default_rng(0)
    grey = cv2.resize(rng.integers(0, 220, (12, 16), np.uint8), (239, 160), interpolation=cv2.INTER_CUBIC)
    packed = cv2.imdecode(
        cv2.imencode(".jpg", cv2.convertScaleAbs(grey, beta=12), [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 0
    )
    assert packed is not None
    other = cv2.resize(rng.integers(0, 220, (12, 16), np.uint8), (239, 160), interpolation=cv2.INTER_CUBIC)
    hashes = np.array([survey.dhash(each) for each in (grey, packed, other)])
    small = np.array([cv2.resize(each, (32, 24), interpolation=cv2.INTER_AREA) for each in (grey, packed, other)])
    whole = np.arange(3)
    found = likeness.near_duplicates(hashes, small, whole, whole)
    assert [pair[:2] for pair in found.pairs] == [(0, 1)]
    # of one group they belong together anyway
    assert not likeness.near_duplicates(hashes, small, whole, whole, np.array(["a", "a", "b"])).pairs


def _rows(rng: np.random.Generator, set_name: str, brighter: float) -> pd.DataFrame:
    groups = np.repeat([f"{set_name}{i}" for i in range(30)], 8)
    # images of a group are alike, which must not pass for a difference of the sets
    own = rng.normal(0, 1, (30, len(survey.STATISTICS))).repeat(8, 0) + rng.normal(
        0, 0.1, (240, len(survey.STATISTICS))
    )
    table = pd.DataFrame(own + brighter, columns=list(survey.STATISTICS))
    return table.assign(set=set_name, group=groups)


def test_sets_are_told_apart_only_where_they_differ() -> None:
    rng = np.random.default_rng(0)
    same = shift.shift(pd.concat([_rows(rng, "train", 0), _rows(rng, "test", 0)]))
    other = shift.shift(pd.concat([_rows(rng, "train", 0), _rows(rng, "test", 1.5)]))
    assert same is not None and other is not None
    assert not same.told_apart and same.auc < 0.72
    assert other.told_apart and other.auc > 0.95
    assert shift.shift(_rows(rng, "train", 0)) is None


def test_a_mask_that_fits_neither_neighbour_is_found() -> None:
    rng = np.random.default_rng(0)
    views = [f"{i:02}" for i in range(1, 7)]
    rows = []
    for group in range(20):
        for i, first in enumerate(views):
            for second in views[i + 1 :]:
                damage = 0.3 if group == 7 and "04" in (first, second) else 0
                iou = 0.8 + rng.normal(0, 0.01) - damage
                rows.append((f"g{group}", first, second, iou, 2 * iou / (1 + iou)))
    found = agreement.agreement(pd.DataFrame(rows, columns=["group", "first", "second", "iou", "dice"]))
    assert found is not None
    assert [row[:2] for row in found.strange] == [("g7", "04")]
    assert len(found.steps) == 6 and found.iou.shape == (6, 6)
    assert found.mean_iou == pytest.approx(0.8, abs=0.01)


def test_the_statistics_are_those_that_are_described() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (31, 47, 3), np.uint8)
    named = survey.statistics(picture, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
    assert {*named, "bytes_per_px"} == set(survey.STATISTICS)
    assert named["green"] == pytest.approx(picture[..., 1].mean())
    assert not [name for name in survey.STATISTICS if re.search(r"[^a-z_]", name)]
