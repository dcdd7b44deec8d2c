"""The main job on a few rendered cars: images -> folds -> out-of-fold logits -> blend -> checked submission."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ensemble.fit
import folds.train
import report.write
import submit.make
from competition import COMPETITIONS
from folds.store import LogitStore
from studio.render import render_competition

ROOT = Path(__file__).parent.parent
STUDIO = COMPETITIONS["studio"]
Run = Callable[..., str]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Calls a program's main in this process, which saves its imports; returns its output and its last words."""

    def call(main: Callable[..., None], *, ok: bool = True, **flags: Any) -> str:
        capfd.readouterr()
        last = ""
        try:
            main(**flags)
        except SystemExit as exit_:
            assert not ok, exit_.code
            last = str(exit_.code)
        else:
            assert ok, "it should have failed"
        return capfd.readouterr().out + last

    return call


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("studio") / "data"
    render_competition(data, cars=5, test_cars=2, seed=1, views=2, jobs=1)
    return data


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and content of every file, to show that nothing was touched."""
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()
    }


def test_the_whole_path(studio: Path, tmp_path: Path, run: Run) -> None:
    where: dict[str, Any] = {"competition": "studio", "data": studio, "runs": tmp_path}
    root = tmp_path / "studio"
    variants = "average-mask,unet-mobilenetv3"
    training = {**where, "variant": variants, "epochs": 2, "batch": 2, "jobs": 1}

    run(folds.train.main, **training)
    for variant in variants.split(","):
        for fold in range(5):
            folder = root / variant / f"fold{fold}"
            manifest = json.loads((folder / "manifest.json").read_text())
            assert manifest["images"] == {"train": 8, "held_out": 2}
            assert 0 < manifest["dice"] <= 1
            assert not (folder / "resume").exists()
        assert LogitStore.open(root / variant / "oof.zarr").missing() == []

    before = snapshot(root)
    again = run(folds.train.main, **training)
    assert again.count("is finished") == 10
    assert snapshot(root) == before
    assert "another recipe" in run(folds.train.main, ok=False, **{**training, "epochs": 3})

    run(ensemble.fit.main, **where, jobs=1)
    blend = json.loads((root / "blend" / "blend.json").read_text())
    assert set(blend["member_cv"]) == set(variants.split(","))
    best = max(figures["dice"] for figures in blend["member_cv"].values())
    assert blend["cv"]["dice"] <= max(c["dice"] for c in blend["candidates"].values()) + 1e-9
    assert blend["candidates"]["best-single"]["dice"] <= best + 1e-9
    # the fold manifests and the blend score the same logits by two routes
    for variant in variants.split(","):
        dice = [json.loads((root / variant / f"fold{k}" / "manifest.json").read_text())["dice"] for k in range(5)]
        assert blend["member_cv"][variant]["dice"] == pytest.approx(np.mean(dice), abs=1e-9)

    output = run(submit.make.main, **where, jobs=1)
    assert "4 rows, checked" in output
    with gzip.open(root / "blend" / "submission.csv.gz", "rt", newline="") as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == STUDIO.header
    assert [row[0] for row in rows[1:]] == sorted(p.name for p in (studio / "test").iterdir())
    test_dice = json.loads((root / "blend" / "test_score.json").read_text())["test_dice"]
    assert f"{test_dice:.4f}" in output
    content = (root / "blend" / "submission.csv.gz").read_bytes()
    run(submit.make.main, **where)
    assert (root / "blend" / "submission.csv.gz").read_bytes() == content

    output = run(report.write.main, **where)
    assert "test Dice of the submitted file" in output
    assert (root / "blend" / "contact_sheet.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_bad_input_is_one_sentence_and_writes_nothing(studio: Path, tmp_path: Path, run: Run) -> None:
    runs = tmp_path / "runs"
    where: dict[str, Any] = {"data": studio, "runs": runs}
    for main, flags, sentence in (
        (folds.train.main, {"competition": "cats"}, "unknown competition 'cats'"),
        (folds.train.main, {"competition": "studio", "variant": "unet-xyz"}, "unknown variant 'unet-xyz'"),
        (folds.train.main, {"variant": "average-mask", "data": tmp_path}, "is missing"),
        (ensemble.fit.main, {"competition": "studio"}, "is missing"),
        (submit.make.main, {"competition": "studio"}, "is missing"),
        (report.write.main, {"competition": "studio"}, "is missing"),
    ):
        output = run(main, ok=False, **{**where, **flags})
        assert sentence in output, output
        assert not runs.exists()
    output = run(folds.train.main, ok=False, **where, competition="studio", variant="average-mask", fold="7")
    assert "there is no fold 7" in output
    assert not (runs / "studio" / "average-mask").exists()


def test_a_failing_program_says_one_sentence_and_exits_with_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "folds.train", "--variant", "average-mask", "--data", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_test_folder_that_lacks_an_image_is_refused(studio: Path, tmp_path: Path, run: Run) -> None:
    where: dict[str, Any] = {"competition": "studio", "data": studio, "runs": tmp_path}
    run(folds.train.main, **where, variant="average-mask", jobs=1)
    run(ensemble.fit.main, **where, jobs=1)
    image = next((studio / "test").iterdir())
    content = image.read_bytes()
    image.unlink()
    assert image.name in run(submit.make.main, ok=False, **where)
    # cut off: the others are predicted, the fault is named, and no submission is written
    image.write_bytes(content[:-200])
    output = run(submit.make.main, ok=False, **where)
    assert image.name in output
    assert "1 of 4 images" in output
    assert not (tmp_path / "studio" / "blend" / "submission.csv.gz").exists()
    image.write_bytes(content)
    assert "4 rows, checked" in run(submit.make.main, **where)
