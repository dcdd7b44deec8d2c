"""One rule for what a folder holds: junk changes nothing anywhere, and what is skipped besides is reported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from command_line import UserError
from competition import COMPETITIONS
from ensemble.photograph_files import list_photographs
from folder_listing import is_empty, is_junk, list_folder
from folds.composite_parts import list_parts
from folds.images import find_training_set, list_images
from submit.make import rows_wanted
from submit.score import score
from tests.conftest import write_ellipses, write_mask
from tests.kaggle_shop import Shop
from tests.synthetic_runs import UNET, save_blend, save_member, write_photograph

pytest_plugins = ["tests.kaggle_shop"]

ROOT = Path(__file__).parent.parent
CARVANA = COMPETITIONS["carvana"]
# beside a file named FILE: of macOS, of Windows, of a network drive, of cameras and of the programs that edit pictures
JUNK = (
    "._FILE",
    ".DS_Store",
    "Thumbs.db",
    "thumbs.DB",
    "ehthumbs.db",
    "desktop.ini",
    "Desktop.ini",
    "Icon\r",
    "IMG_0001.AAE",
    "FILE.xmp",
    "STEM.MOV",
    "STEM.mp4",
)


def leave_junk(folder: Path, beside: str) -> int:
    """Put junk of every kind into a folder, named after one of its files; returns how much."""
    stem = beside.rpartition(".")[0]
    for name in JUNK:
        (folder / name.replace("FILE", beside).replace("STEM", stem)).write_bytes(b"\x00\x05\x16\x07 no picture")
    (folder / "__MACOSX").mkdir()
    (folder / "@eaDir").mkdir()
    return len(JUNK) + 2


def test_junk_changes_nothing_in_any_folder_of_a_competition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_ellipses(tmp_path / "data")
    (data / "test").mkdir()
    shutil.copy(data / "train" / "00000000000a_01.jpg", data / "test")
    before = find_training_set(CARVANA, data), rows_wanted(CARVANA, data, data / "test")
    for folder in ("train", "train_masks", "test"):
        leave_junk(data / folder, sorted(path.name for path in (data / folder).iterdir())[0])
    assert (find_training_set(CARVANA, data), rows_wanted(CARVANA, data, data / "test")) == before
    # as the truth of a score
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in (data / "train_masks").glob("0*.gif"):
        cv2.imwrite(str(masks / path.name.replace("_mask.gif", "_mask.png")), np.zeros(CARVANA.size, np.uint8))
    leave_junk(masks, "00000000000a_01_mask.png")
    assert len(score(masks, data / "train_masks", competition=CARVANA).names) == 12
    assert capsys.readouterr().out == ""


def test_junk_is_no_picture_anywhere_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k, name in enumerate(("b.PNG", "a.jpg")):
        write_photograph(tmp_path / "in" / name, 40, 50, seed=k)
    assert not is_empty(tmp_path / "in")
    leave_junk(tmp_path / "in", "a.jpg")
    assert list_photographs(tmp_path / "in") == (tmp_path / "in", ["a.jpg", "b.PNG"], [])
    assert [path.name for path in list_parts(tmp_path / "in")] == ["a.jpg", "b.PNG"]
    (tmp_path / "out").mkdir()
    # a film of its own, beside no photograph, is not junk
    assert leave_junk(tmp_path / "out", "x.jpg") - 2 == sum(is_junk(path.name) for path in (tmp_path / "out").iterdir())
    for name in ("x.MOV", "x.mp4"):
        (tmp_path / "out" / name).unlink()
    assert is_empty(tmp_path / "out") and is_empty(tmp_path / "none")
    assert capsys.readouterr().out == ""


def test_what_is_skipped_and_is_no_junk_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_ellipses(tmp_path / "data")
    names = list_images(data / "train", CARVANA)
    for folder, beside in (("train", names[0]), ("train_masks", CARVANA.mask_name(names[0]))):
        leave_junk(data / folder, beside)
        (data / folder / "00000000000f_09.png").write_bytes(b"")
        (data / folder / "more").mkdir()
    assert find_training_set(CARVANA, data).names == tuple(names)
    printed = capsys.readouterr().out
    for folder, meant in (("train", ".jpg image"), ("train_masks", "_mask.gif mask")):
        assert f"{data / folder}: '00000000000f_09.png', 'more/' are no {meant} and are skipped" in printed
    for k in range(9):
        (data / "train" / f"note {k}.txt").write_text("")
    listing = list_folder(data / "train", CARVANA.image_suffixes)
    assert listing.note("image").endswith("'note 0.txt' and 8 more are no image and are skipped")


def test_a_suffix_in_any_case_is_the_same_image_mask_and_row(tmp_path: Path) -> None:
    data = write_ellipses(tmp_path / "data")
    before = find_training_set(CARVANA, data)
    for path in sorted((data / "train").iterdir())[::3]:
        path.rename(path.with_suffix(".JPG"))
    for path in sorted((data / "train_masks").iterdir())[::5]:
        path.rename(path.with_suffix(".Gif"))
    training = find_training_set(CARVANA, data)
    keys = [CARVANA.key(name) for name in training.names]
    assert sorted(keys) == list(before.names) and keys != list(training.names)
    for name, key in zip(training.names, keys, strict=True):
        assert CARVANA.group(name) == CARVANA.group(key)
        assert training.mask(name).any()
    # rows are named as the sample submission has them, and the images found as the folder has them
    (data / "train").rename(data / "test")
    (data / "sample_submission.csv").write_text("img,rle_mask\n" + "".join(f"{key},\n" for key in reversed(keys)))
    names, _ = rows_wanted(CARVANA, data, None)
    assert names == list(reversed(training.names))
    # a second one of the same image
    first = data / "test" / names[0]
    shutil.copy(first, first.with_suffix(".jpg" if first.suffix == ".JPG" else ".JPG"))
    with pytest.raises(UserError, match=r"holds both \S+ and \S+: remove one of them"):
        rows_wanted(CARVANA, data, data / "test")


def test_several_suffixes_where_the_competition_allows_them(tmp_path: Path) -> None:
    facts = replace(
        CARVANA, further_suffixes=(".png",), name_pattern=CARVANA.name_pattern.replace("jpg", "(?:jpg|png)")
    )
    data = write_ellipses(tmp_path / "data")
    path = data / "train" / "00000000000c_02.jpg"
    write_photograph(path.with_suffix(".PNG"), *facts.size)
    path.unlink()
    training = find_training_set(facts, data)
    assert "00000000000c_02.PNG" in training.names and len(training.names) == 12
    assert training.mask("00000000000c_02.PNG").any()
    write_photograph(path, *facts.size)
    with pytest.raises(UserError, match=r"holds both 00000000000c_02\.PNG and 00000000000c_02\.jpg"):
        find_training_set(facts, data)


def test_two_masks_of_one_image_are_refused(tmp_path: Path) -> None:
    data = write_ellipses(tmp_path / "data")
    write_mask(data / "train_masks" / "00000000000c_02_mask.GIF", np.ones(CARVANA.size, bool))
    with pytest.raises(UserError, match=r"holds both \S+_mask.GIF and \S+_mask.gif: remove one of them"):
        find_training_set(CARVANA, data)


def test_junk_does_not_stand_for_an_image_that_is_missing(shop: Shop, given: Path) -> None:
    assert shop.fetch(source=given) == ""
    lost = (shop.data / "train" / "00000000000a_01.jpg", shop.data / "train_masks" / "00000000000a_01_mask.gif")
    for path in lost:
        path.unlink()
        leave_junk(path.parent, path.name)
    # "run the same command again" helps
    assert shop.fetch(source=given) == ""
    assert all(path.exists() for path in lost)
    assert shop.fetch(source=given) == ""


def test_make_predict_writes_its_page_whatever_lies_in_the_folder(tmp_path: Path) -> None:
    root, photographs = tmp_path / "runs" / "studio", tmp_path / "photographs"
    save_blend(root, [save_member(root, UNET)], [1.0])
    for k in range(3):
        write_photograph(photographs / f"{k}.JPG", 80, 120, seed=k)
    leave_junk(photographs, "0.JPG")
    for k in range(25):
        (photographs / f"._{k}.jpg").write_bytes(b"")
        (photographs / f"a note {k}.txt").write_text("")

    def predict(out: str) -> subprocess.CompletedProcess[str]:
        words = [f"IMAGES={photographs}", f"OUT={tmp_path / out}", "C=studio", f"ARGS=--runs {tmp_path / 'runs'}"]
        command = ["make", "-s", "-o", "setup", "predict", f"PY={sys.executable}", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))

    done = predict("out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "photographs.html").exists()
    assert done.stdout.count("are no photograph") == 1 and "and 22 more" in done.stdout
    # a damaged one is named, and the page is written of the others
    whole = (photographs / "1.JPG").read_bytes()
    (photographs / "1.JPG").write_bytes(whole[: len(whole) // 2])
    done = predict("again")
    assert done.returncode == 2
    assert "1.JPG is cut off" in done.stdout and "1 of 3 images could not be read" in done.stderr
    assert (tmp_path / "again" / "photographs.html").exists()
    # of nothing there is no page, and the sentence that says why stands alone
    done = subprocess.run(
        ["make", "-s", "-o", "setup", "predict", f"PY={sys.executable}", f"IMAGES={tmp_path / 'no'}", "C=studio"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("error:") == 1
