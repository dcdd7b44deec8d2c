"""A boundary refiner from a blend to its submission: trained out of fold, judged nested, kept where it gains."""

from __future__ import annotations

import functools
import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from competition import COMPETITIONS, Size
from ensemble import fit
from ensemble.blend import find_blend
from ensemble.blend_file import read_blend
from ensemble.boundary import boundary_for
from ensemble.oof_data import find_oof_data
from folds.images import find_training_set
from folds.store import LogitStore
from folds.train import main as train_folds
from models.frame import Frame
from refine import planes, train
from refine.coarse import Coarse
from refine.module import RefinerModule
from refine.planes import CoarsePlanes
from submit import make
from tests.conftest import CARS, write_mask
from tests.killed_folds import check_same
from tests.synthetic_runs import forget_logits_digests

FULL = (121, 187)
TEST = ("0000000000aa_01.jpg", "0000000000ab_01.jpg")
# few weights, and a few steps at a high rate
QUICK: dict[str, Any] = {"epochs": 12, "batch": 2, "learning_rate": 1e-2, "precision": "float32", "jobs": 1}


def drop(seed: int) -> np.ndarray:
    """A (121, 187) bool mask: an ellipse with a bay."""
    rng = np.random.default_rng(seed)
    picture = np.zeros(FULL, np.uint8)
    centre = int(rng.integers(70, 110)), int(rng.integers(50, 70))
    cv2.ellipse(picture, centre, (int(rng.integers(30, 55)), int(rng.integers(20, 35))), 0, 0, 360, 1, -1)
    cv2.circle(picture, (centre[0] + 25, centre[1] + 15), 9, 0, -1)
    return picture.astype(bool)


def write_picture(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.where(mask[..., None], np.uint8(60), np.uint8(190)) + np.arange(3, dtype=np.uint8) * 10
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and runs: a blend of one member whose masks are all too large by a pixel of its own size."""
    base = tmp_path_factory.mktemp("refine")
    with pytest.MonkeyPatch.context() as patch:
        small_studio(patch)
        truths = {}
        for i, car in enumerate(CARS):
            for j in range(2):
                name = f"{car}_{j + 1:02}.jpg"
                truths[name] = drop(10 * i + j)
                write_picture(base / "data" / "train" / name, truths[name])
                path = base / "data" / "train_masks" / name.replace(".jpg", "_mask.gif")
                path.parent.mkdir(exist_ok=True)
                write_mask(path, truths[name])
        for i, name in enumerate(TEST):
            write_picture(base / "data" / "test" / name, drop(100 + i))
        rows = "".join(f"{name},\n" for name in TEST)
        (base / "data" / "sample_submission.csv").write_text(f"img,rle_mask\n{rows}")
        train_folds("studio", "average-mask", data=base / "data", runs=base / "runs", folds=3, jobs=1)
        root = base / "runs" / "studio"
        forget_logits_digests(root)
        store = LogitStore.open(root / "average-mask" / "oof.zarr")
        for name in store.names:
            small = cv2.resize(truths[name].astype(np.float32), store.shape[:0:-1], interpolation=cv2.INTER_AREA)
            grown = cv2.GaussianBlur(cv2.dilate(small, np.ones((9, 9), np.uint8)), (0, 0), 1.5)
            store.write(name, (grown * 8 - 4)[None].astype(np.float32))
        fit.main("studio", data=base / "data", runs=base / "runs", jobs=1, table=False)
    return base


def small_studio(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(COMPETITIONS, "studio", replace(COMPETITIONS["studio"], size=FULL, test_masks_dir=None))
    patch.setattr(train, "boundary_for", functools.partial(boundary_for, widths=(8, 16)))
    patch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it: `runs/studio`, beside it `data`."""
    small_studio(monkeypatch)
    shutil.copytree(made, tmp_path / "base")
    return tmp_path / "base" / "runs" / "studio"


def refine(root: Path, **flags: Any) -> None:
    train.main("studio", data=root.parent.parent / "data", runs=root.parent, **{**QUICK, **flags})


def submission(root: Path) -> bytes:
    make.main("studio", data=root.parent.parent / "data", runs=root.parent, restart=True, stream=True, jobs=1)
    return gzip.decompress((root / "blend" / "submission.csv.gz").read_bytes())


def test_from_a_blend_to_a_submission_with_its_refiner(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root / "blend"
    plain, before = submission(root), json.loads((folder / "blend.json").read_text())
    refine(root)
    record = json.loads((folder / "refiner" / "refiner.json").read_text())
    blend = json.loads((folder / "blend.json").read_text())
    assert record["kept"] and record["gain"] > 0.01 and record["interval"][0] > 0
    # as it was asked for, on whatever processor
    assert len(record["precisions"]) == len(record["weights_digests"]) and set(record["precisions"]) == {"float32"}
    assert blend == {**before, "refiners": blend["refiners"], "refiner_fit": blend["refiner_fit"]}
    assert blend["refiner_fit"]["after"] == record["after"]

    # what it is held against is the blend as it was chosen without the fold, repairs and all
    nested = pd.read_csv(folder / "oof_dice.csv").set_index("image")["nested"]
    scores = pd.concat(pd.read_csv(folder / "refiner" / f"fold{k}" / "scores.csv") for k in range(3))
    assert len(scores) == len(nested) == 12
    np.testing.assert_allclose(scores["before"], nested[scores["image"]], atol=2e-6)
    assert record["before"]["dice"] == pytest.approx(blend["cv"]["dice"], abs=2e-6)
    assert record["gain"] == pytest.approx((scores["after"] - scores["before"]).mean(), abs=1e-7)
    # no fold's network has seen a group that it is scored on
    for k in range(3):
        seen = json.loads((folder / "refiner" / f"fold{k}" / "seen.json").read_text())["groups"]
        assert not set(pd.read_csv(folder / "refiner" / f"fold{k}" / "scores.csv")["group"]) & set(seen)

    # it is used, and a fit of the same blend does not lose it
    assert submission(root) != plain and len(find_blend(root, "blend").refiners) == 1
    fit.main("studio", data=root.parent.parent / "data", runs=root.parent, jobs=1, table=False)
    assert json.loads((folder / "blend.json").read_text())["refiners"] == blend["refiners"]

    # what is done is not done again, and what is damaged is
    was = {path: path.read_bytes() for path in (folder / "refiner").rglob("*.*") if "events" not in path.name}
    capsys.readouterr()
    refine(root)
    assert capsys.readouterr().out.count("is finished") == 3
    (folder / "refiner" / "fold1" / "scores.csv").write_text("image,group\n")
    refine(root)
    for path, content in was.items():
        if path.name != "manifest.json":
            assert path.read_bytes() == content, path


def test_a_killed_training_ends_with_the_same_bytes_and_never_on_other_logits(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = root / "blend" / "refiner" / "fold0"
    killed = root / "killed"
    step = RefinerModule.training_step

    def copy_what_lies_there(self: RefinerModule, batch: Any, index: int) -> Any:
        if (self.current_epoch, index) == (2, 1):
            shutil.copytree(whole, killed)
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(RefinerModule, "training_step", copy_what_lies_there)
        refine(root, fold="0", epochs=3)
    assert not (root / "blend" / "refiner" / "refiner.json").exists()
    done = root / "done"
    whole.rename(done)
    shutil.copytree(killed, whole)
    assert (whole / "resume" / "last.ckpt").exists() and not (whole / "manifest.json").exists()
    refine(root, fold="0", epochs=3)
    check_same(done, whole)

    shutil.rmtree(whole)
    killed.rename(whole)
    path = root / "blend" / "blend.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "threshold": 0.25}))
    capsys.readouterr()
    refine(root, fold="0", epochs=3)
    told = capsys.readouterr().out
    assert "its unfinished training is dropped" in told and "epoch 1/3" in told
    with pytest.raises(SystemExit, match=r"fold0 was trained with another recipe: remove .*refiner to train"):
        refine(root, fold="0", epochs=2)
    path.write_text(json.dumps({**json.loads(path.read_text()), "threshold": 0.125}))
    with pytest.raises(SystemExit, match="fold0 was trained on other logits of the blend: remove"):
        refine(root, epochs=3)


def coarse_planes(root: Path, size: Size = (67, 93)) -> CoarsePlanes:
    """The logits of the blend as it was chosen without fold 0."""
    training = find_training_set(COMPETITIONS["studio"], root.parent.parent / "data")
    fitted = read_blend(root / "blend")
    oof = find_oof_data(root, training, ["average-mask"])
    return CoarsePlanes(Coarse.without(0, root / "blend", fitted, oof, training), Frame(size))


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """When each file was written, and what it holds, by path."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: content for path, (_, content) in files(folder).items()}


def test_a_training_ends_with_the_same_bytes_whether_its_logits_are_kept_or_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / "blend" / "refiner"
    (kept_in,) = (root / "cache").glob("*")
    kept_in /= "coarse-blend"
    # computed and kept, read again, and computed in every epoch
    for way in ("first", "again", "never"):
        if way == "never":
            shutil.rmtree(kept_in)
            monkeypatch.setattr(planes, "CACHE_LIMIT_BYTES", 0)
        before = files(kept_in)
        refine(root, fold="0", epochs=2)
        folder.rename(root / way)
        assert kept_in.exists() == (way != "never")
        assert way == "first" or files(kept_in) == before
    check_same(root / "first", root / "again")
    check_same(root / "first", root / "never")


def test_folds_whose_blend_is_the_same_share_what_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    write = LogitStore.write

    def counted(self: LogitStore, name: str, logits: np.ndarray) -> None:
        written.append(name)
        write(self, name, logits)

    monkeypatch.setattr(LogitStore, "write", counted)
    refine(root, epochs=1)
    assert sorted(written) == sorted(coarse_planes(root).coarse.oof.images)


def raise_the_threshold(root: Path) -> None:
    path = root / "blend" / "blend.json"
    fitted = json.loads(path.read_text())
    fitted["chosen_without"]["0"]["threshold"] = 0.25
    path.write_text(json.dumps(fitted))


def alter_the_logits_of_one_image(root: Path) -> None:
    store = LogitStore.open(root / "average-mask" / "oof.zarr")
    store.write(store.names[3], store.read(store.names[3]) * 0.5)


@pytest.mark.parametrize("change", [raise_the_threshold, alter_the_logits_of_one_image, None])
def test_what_is_kept_of_other_logits_is_never_used_and_goes(
    root: Path, tmp_path: Path, change: Callable[[Path], None] | None
) -> None:
    before, folder, every = coarse_planes(root), tmp_path / "kept", range(12)
    identity = before.identity
    planes.kept(before, every, folder)
    if change is not None:
        change(root)
    now = coarse_planes(root, (67, 93) if change is not None else (64, 93))
    assert now.identity != identity
    kept = planes.kept(now, every, folder)
    for position in every:
        np.testing.assert_array_equal(kept.of(position), now.of(position))
    assert len(list(folder.iterdir())) == 2
    planes.forget_others(folder, [now])
    assert [path.name for path in folder.iterdir()] == [now.identity]


def test_what_is_kept_is_made_again_where_it_is_cut_off_and_goes_on_where_it_was_killed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, folder, every = coarse_planes(root), tmp_path / "kept", range(12)
    write, left = LogitStore.write, 5

    def killed(self: LogitStore, name: str, logits: np.ndarray) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        write(self, name, logits)

    with monkeypatch.context() as patch:
        patch.setattr(LogitStore, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            planes.kept(computed, every, folder)
    begun = files(folder)
    planes.kept(computed, every, folder)
    whole = files(folder)
    assert len(whole) == 13 and begun.items() <= whole.items()

    chunks = sorted(path for path in whole if path.name.startswith("c."))
    chunks[0].write_bytes(whole[chunks[0]][1][:-7])
    chunks[5].write_bytes(b"")
    chunks[9].unlink()
    planes.kept(computed, every, folder)
    assert contents(folder) == {path: content for path, (_, content) in whole.items()}
    (folder / computed.identity / "zarr.json").write_text("{")
    kept = planes.kept(computed, every, folder)
    assert contents(folder) == {path: content for path, (_, content) in whole.items()}
    for position in every:
        np.testing.assert_array_equal(kept.of(position), computed.of(position))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"tiles": 0}, "--tiles 0 is out of range: give 1 "),
        ({"tile_px": 33}, "such a refiner cannot be: tile_px is 33, expected a multiple of 2"),
        ({"size": (-1, 5)}, "--size -1 is out of range: give 0 "),
        ({"reach_px": 0.0}, "--reach-px 0.0 is out of range: give 1 "),
        ({"loss": "anger"}, "unknown loss 'anger'"),
        ({"name": "other"}, "blend.json is missing: choose it first"),
        ({"batch": 99}, "a batch of 99 is larger than what fold 0 trains on"),
    ],
)
def test_what_cannot_work_is_refused_before_any_training(made: Path, flags: dict[str, Any], says: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        small_studio(patch)
        with pytest.raises(SystemExit, match=says):
            refine(made / "runs" / "studio", **flags)
    assert not (made / "runs" / "studio" / "blend" / "refiner").exists()
