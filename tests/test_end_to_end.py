"""The main job on a few rendered cars: images -> folds -> out-of-fold logits -> blend -> checked submission."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from competition import COMPETITIONS
from folds.store import LogitStore
from studio.render import render_competition

ROOT = Path(__file__).parent.parent
STUDIO = COMPETITIONS["studio"]


def run(*words: str, ok: bool = True) -> str:
    """Run a program of the repository; returns its output, standard error included."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


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


def test_the_whole_path(studio: Path, tmp_path: Path) -> None:
    where = ("--competition", "studio", "--data", str(studio), "--runs", str(tmp_path))
    root = tmp_path / "studio"
    variants = "average-mask,unet-mobilenetv3"

    output = run("folds.train", *where, "--variant", variants, "--epochs", "2", "--batch", "2")
    assert "epoch 2/2" in output
    for variant in variants.split(","):
        for fold in range(5):
            folder = root / variant / f"fold{fold}"
            manifest = json.loads((folder / "manifest.json").read_text())
            assert manifest["images"] == {"train": 8, "held_out": 2}
            assert 0 < manifest["dice"] <= 1
            assert not (folder / "resume").exists()
        assert LogitStore.open(root / variant / "oof.zarr").missing() == []

    before = snapshot(root)
    again = run("folds.train", *where, "--variant", variants, "--epochs", "2", "--batch", "2")
    assert again.count("is finished") == 10
    assert snapshot(root) == before
    assert "another recipe" in run("folds.train", *where, "--variant", variants, "--epochs", "3", ok=False)

    output = run("ensemble.fit", *where)
    blend = json.loads((root / "blend" / "blend.json").read_text())
    assert set(blend["member_cv"]) == set(variants.split(","))
    best = max(figures["dice"] for figures in blend["member_cv"].values())
    assert max(blend["candidates"].values()) >= best
    # the fold manifests and the blend score the same logits by two routes
    for variant in variants.split(","):
        folds = [json.loads((root / variant / f"fold{k}" / "manifest.json").read_text())["dice"] for k in range(5)]
        assert blend["member_cv"][variant]["dice"] == pytest.approx(np.mean(folds), abs=1e-9)

    output = run("submit.make", *where)
    assert "4 rows, checked" in output
    with gzip.open(root / "blend" / "submission.csv.gz", "rt", newline="") as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == STUDIO.header
    assert [row[0] for row in rows[1:]] == sorted(p.name for p in (studio / "test").iterdir())
    test_dice = json.loads((root / "blend" / "test_score.json").read_text())["test_dice"]
    assert f"{test_dice:.4f}" in output
    content = (root / "blend" / "submission.csv.gz").read_bytes()
    run("submit.make", *where)
    assert (root / "blend" / "submission.csv.gz").read_bytes() == content

    output = run("ensemble.report", *where)
    assert "test Dice of the submitted file" in output
    assert (root / "blend" / "contact_sheet.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_bad_input_is_one_sentence_and_writes_nothing(studio: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    where = ("--data", str(studio), "--runs", str(runs))
    for words, sentence in (
        (("folds.train", "--competition", "cats", *where), "unknown competition 'cats'"),
        (("folds.train", "--competition", "studio", *where, "--variant", "unet-xyz"), "unknown variant 'unet-xyz'"),
        (("folds.train", "--data", str(tmp_path), "--runs", str(runs), "--variant", "average-mask"), "is missing"),
        (("ensemble.fit", "--competition", "studio", *where), "is missing"),
        (("submit.make", "--competition", "studio", *where), "is missing"),
        (("ensemble.report", "--competition", "studio", *where), "is missing"),
    ):
        output = run(*words, ok=False)
        assert sentence in output, output
        assert "Traceback" not in output, output
        assert not runs.exists()
    output = run("folds.train", "--competition", "studio", *where, "--variant", "average-mask", "--fold", "7", ok=False)
    assert "there is no fold 7" in output
    assert not (runs / "studio" / "average-mask").exists()


def test_a_test_folder_that_lacks_an_image_is_refused(studio: Path, tmp_path: Path) -> None:
    where = ("--competition", "studio", "--data", str(studio), "--runs", str(tmp_path))
    run("folds.train", *where, "--variant", "average-mask")
    run("ensemble.fit", *where)
    image = next((studio / "test").iterdir())
    content = image.read_bytes()
    image.unlink()
    assert image.name in run("submit.make", *where, ok=False)
    # cut off: the others are predicted, the fault is named, and no submission is written
    image.write_bytes(content[:-200])
    output = run("submit.make", *where, ok=False)
    assert image.name in output
    assert "1 of 4 images" in output
    assert not (tmp_path / "studio" / "blend" / "submission.csv.gz").exists()
    image.write_bytes(content)
    assert "4 rows, checked" in run("submit.make", *where)
