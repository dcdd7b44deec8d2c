"""Prediction over processes: the same bytes, whoever does the work and whoever dies."""

import os
from functools import partial
from pathlib import Path

import pytest

from command_line import UserError
from cores import core_count
from folds.workers import process_count, run_all
from predict import blocks, predictor
from predict.blocks import UnreadableImagesError
from predict.predictor import predict
from tests.dying import run_all_killing
from tests.synthetic_runs import UNET, save_member, write_photograph

SIZE = (80, 120)
NAMES = [f"{k:02}.jpg" for k in range(14)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "PART_IMAGES", 5)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for k, name in enumerate(NAMES):
        write_photograph(folder / name, *SIZE, seed=k)
    return folder


def chunks(store: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in store.glob("c.*.0")}


@pytest.fixture(scope="module")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    member = save_member(tmp_path_factory.mktemp("reference"), UNET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "PART_IMAGES", 5)
        store = predict(member, NAMES, images, SIZE, batch=3)
    assert store.missing() == []
    return chunks(store.path)


def test_two_processes_store_what_one_stores_though_one_of_them_is_killed(
    images: Path,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    marker = tmp_path / "killed"
    monkeypatch.setattr(predictor, "run_all", partial(run_all_killing, marker))
    member = save_member(tmp_path, UNET)
    store = predict(member, NAMES, images, SIZE, batch=3, jobs=2)
    assert marker.exists()
    assert "a process was killed" in capsys.readouterr().out
    assert chunks(store.path) == expected


def test_unreadable_images_are_told_by_the_processes(images: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in NAMES:
        (folder / name).symlink_to(images / name)
    for name in ("12.jpg", "01.jpg"):
        (folder / name).unlink()
    member = save_member(tmp_path / "runs", UNET)
    with pytest.raises(UnreadableImagesError, match="2 of 14 images could not be read") as caught:
        predict(member, NAMES, folder, SIZE, batch=3, jobs=2)
    assert caught.value.names == ["01.jpg", "12.jpg"]
    assert chunks(member.folder / "test.zarr") == {
        k: v for k, v in expected.items() if k.split(".")[1] not in ["1", "12"]
    }


def test_processes_that_always_die_end_the_run() -> None:
    with pytest.raises(UserError, match=r"processes keep dying.*--jobs"):
        list(run_all(os._exit, lambda: [1, 2], jobs=2))


def test_jobs_are_counted_as_joblib_counts_them() -> None:
    assert [process_count(jobs) for jobs in (1, 3, -1)] == [1, 3, core_count()]
    with pytest.raises(UserError, match="--jobs"):
        process_count(0)
