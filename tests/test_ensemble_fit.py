"""The program that chooses a blend: votes and boosted pixels through to blend.json, and on to those who read it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from competition import COMPETITIONS
from ensemble import fit
from ensemble.blend import find_blend
from ensemble.blend_table import table_lines
from ensemble.repairs import apply_kept
from ensemble.voting import combination_of
from folds.store import LogitStore
from folds.train import main as train
from models import checkpoint
from models.frame import Frame, load_for
from report import write as report
from tests import naive, naive_ensemble
from tests.conftest import CARS, ellipse, write_ellipses
from tests.synthetic_runs import forget_logits_digests

CARVANA = COMPETITIONS["carvana"]
VARIANTS = ("average-mask", "unet-mobilenetv3", "fpn-regnetx")
TRAINED = Path(__file__).parent.parent / "trained"


def truth_of(name: str) -> np.ndarray:
    car, view = name.removesuffix(".jpg").split("_")
    return ellipse(10 * CARS.index(car) + int(view) - 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A competition folder and a runs folder of three variants, each wrong in a place of its own and sure of it."""
    base = tmp_path_factory.mktemp("fit")
    data = write_ellipses(base / "data")
    runs = base / "runs"
    train("carvana", "average-mask", data=data, runs=runs, folds=3, jobs=1)
    root = runs / "carvana"
    for copy in VARIANTS[1:]:
        shutil.copytree(root / "average-mask", root / copy)
        for file in (
            *(root / copy).glob("fold*/manifest.json"),
            *(root / copy).glob(f"fold*/{checkpoint.VARIANT_FILE}"),
        ):
            content = json.loads(file.read_text())
            (content["variant"] if file.name == "manifest.json" else content)["name"] = copy
            file.write_text(json.dumps(content))
    forget_logits_digests(root)
    for which, variant in enumerate(VARIANTS):
        store = LogitStore.open(root / variant / "oof.zarr")
        height, width = store.shape[1:]
        for name in store.names:
            small = cv2.resize(truth_of(name).astype(np.uint8), (width, height), interpolation=cv2.INTER_AREA) * 6.0 - 3
            # so sure that it outvotes the two others in a mean of logits
            small[10 * which : 10 * which + 8, :100] = 12
            store.write(name, small[None].astype(np.float32))
    return data, runs


def test_a_vote_is_scored_as_it_blends_and_chosen_where_it_is_better(trained: tuple[Path, Path]) -> None:
    data, runs = trained
    fit.main(data=data, runs=runs, jobs=1, repairs="off", name="votes")
    blend = json.loads((runs / "carvana" / "votes" / "blend.json").read_text())
    assert blend["cv"]["nested"] == ["way", "weights", "threshold"]
    # two networks that are right outvote the one that is wrong, whatever its logit; of the votes the simplest is taken
    assert blend["kind"] == blend["vote"] == "probability"
    assert blend["threshold"] == 0
    assert blend["threshold_fit"] is None
    assert blend["cv"]["dice"] > blend["candidates"]["dice-weights"]["dice"] + 0.001
    scores = pd.read_csv(runs / "carvana" / "votes" / "oof_dice.csv").set_index("image")["nested"]
    stores = [LogitStore.open(runs / "carvana" / variant / "oof.zarr") for variant in VARIANTS]
    for name in scores.index[:4]:
        full = [naive.bilinear(store.read(name)[0], CARVANA.size) for store in stores]
        mask = naive_ensemble.mean_probability(full, [1, 1, 1]) > 0.5
        assert scores[name] == pytest.approx(naive.dice(mask, truth_of(name)), abs=1e-6)


def test_the_figure_is_of_a_choice_made_without_the_fold_that_is_scored(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, runs = trained
    fit.main(data=data, runs=runs, jobs=1, name="whole")
    printed = capsys.readouterr().out
    blend = json.loads((runs / "carvana" / "whole" / "blend.json").read_text())
    assert blend["cv"]["nested"] == ["way", "weights", "threshold", "repairs"]
    assert "chosen without the fold that is scored: way, weights, threshold, repairs" in printed
    assert "not over seeds" in printed
    assert all(figures["nested"] == ["weights"] for figures in blend["candidates"].values())
    scores = pd.read_csv(runs / "carvana" / "whole" / "oof_dice.csv")
    assert blend["cv"]["dice"] == pytest.approx(scores["nested"].mean(), abs=1e-6)
    # each image has the Dice of what was chosen without its fold, repairs and all
    fold_of = scores.set_index("image")["fold"]
    stores = {variant: LogitStore.open(runs / "carvana" / variant / "oof.zarr") for variant in VARIANTS}
    assert set(blend["chosen_without"]) == {str(k) for k in fold_of.unique()}
    for name, dice in zip(scores["image"], scores["nested"], strict=True):
        chosen = blend["chosen_without"][str(fold_of[name])]
        vote = {"probability": "probability"}.get(chosen["kind"], "logits")
        weights = [chosen["weights"][variant] for variant in VARIANTS]
        planes = [stores[variant].read(name)[0] for variant in VARIANTS]
        frames = [Frame(plane.shape) for plane in planes]
        assert chosen["threshold"] == 0
        mask = combination_of(vote)(planes, frames, weights, CARVANA.size) > 0
        mask = apply_kept(mask, chosen["postprocess_kept"])
        truth = truth_of(name)
        assert dice == pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()), abs=1e-6)


def test_files_and_words_name_the_competitions_own_metric(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COMPETITIONS, "carvana", replace(CARVANA, metric="mean_precision"))
    data, runs = trained
    fit.main(data=data, runs=runs, jobs=1, name="other", repairs="off")
    printed = capsys.readouterr().out
    assert "out-of-fold mean precision at full size" in printed and "dice" not in printed.lower()
    folder = runs / "carvana" / "other"
    assert "dice" not in (folder / "blend.json").read_text().lower()
    blend = json.loads((folder / "blend.json").read_text())
    scores = pd.read_csv(folder / "oof_mean_precision.csv").set_index("image")
    assert blend["cv"]["mean_precision"] == pytest.approx(scores["nested"].mean(), abs=1e-6)
    assert "mean-precision-weights" in blend["candidates"]
    store = LogitStore.open(runs / "carvana" / VARIANTS[0] / "oof.zarr")
    for name in scores.index[:2]:
        mask = Frame(store.shape[1:]).invert(store.read(name)[0], CARVANA.size) > 0
        assert scores[VARIANTS[0]][name] == pytest.approx(naive.mean_precision(mask, truth_of(name)), abs=1e-6)
    report.main(data=data, runs=runs, jobs=1, name="other")
    page = (folder / "report.html").read_text()
    assert "Every figure is mean precision at full size" in page and ">Dice<" not in page
    with pytest.raises(SystemExit, match=r"unknown way of blending 'dice-weights'; known: .*mean-precision-weights"):
        fit.main(data=data, runs=runs, blend="dice-weights")


def test_a_forced_way_is_no_choice_and_two_folds_nest_none(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, runs = trained
    fit.main(data=data, runs=runs, jobs=1, name="forced", blend="greedy", repairs="off")
    blend = json.loads((runs / "carvana" / "forced" / "blend.json").read_text())
    assert blend["cv"]["nested"] == ["weights", "threshold"]
    assert {chosen["kind"] for chosen in blend["chosen_without"].values()} == {"greedy"}
    train("carvana", "average-mask", data=data, runs=tmp_path, folds=2, jobs=1)
    fit.main(data=data, runs=tmp_path, jobs=1)
    blend = json.loads((tmp_path / "carvana" / "blend" / "blend.json").read_text())
    assert blend["cv"]["nested"] == ["weights"]
    assert blend["chosen_without"] == {}
    assert blend["cv"]["dice"] == blend["candidates"][blend["kind"]]["dice"]


def test_a_blend_of_before_is_tabled_and_says_less() -> None:
    blend = json.loads((TRAINED / "carvana" / "blend" / "blend.json").read_text())
    # as they were written before there was an outer loop
    del blend["cv"]["nested"]
    blend["expected"] = None
    lines = table_lines(blend)
    assert "the blend, chosen without the fold that is scored: weights" in lines
    assert not any("averages" in line for line in lines)


def test_gains_are_of_paired_differences(trained: tuple[Path, Path]) -> None:
    blend = json.loads((trained[1] / "carvana" / "votes" / "blend.json").read_text())
    of = blend["candidates"]
    for other in ("best-single", "equal-mean"):
        gain = blend["gains"][other]
        assert gain["gain"] == pytest.approx(blend["cv"]["dice"] - of[other]["dice"])
        assert gain["interval"][0] <= gain["gain"] <= gain["interval"][1]
        assert of[other]["gains"][other] == {"gain": 0, "interval": [0, 0]}
    # first the best member as it is, of one and the same pair in all images
    best = max(blend["member_cv"], key=lambda name: blend["member_cv"][name]["dice"])
    assert blend["gain_over_best"]["member"] == best
    assert blend["gain_over_best"]["gain"] == pytest.approx(blend["cv"]["dice"] - blend["member_cv"][best]["dice"])
    lines = table_lines(blend)
    first, nested = (next(i for i, line in enumerate(lines) if f"above {w}" in line) for w in (best, "best-single"))
    assert first < nested and "rather too small" in lines[first + 1] and "nested" in lines[nested + 1]
    # of twelve images, none lies below the limit
    assert blend["agreement"]["images"] == 12 and 0.5 < blend["agreement"]["limit"] < 1


def test_pixels_are_boosted_and_read_back_by_mixture_and_report(trained: tuple[Path, Path]) -> None:
    data, runs = trained
    fit.main(data=data, runs=runs, jobs=1, name="boosted", blend="pixels")
    folder = runs / "carvana" / "boosted"
    fitted = json.loads((folder / "blend.json").read_text())
    assert fitted["kind"] == fitted["vote"] == "pixels"
    assert fitted["members"] == sorted(VARIANTS)
    assert list(fitted["candidates"])[-1] == "pixels" and fitted["cv"]["nested"][0] == "weights"
    blend = find_blend(runs / "carvana", "boosted")
    assert blend.image_frames(CARVANA.size) == (Frame(CARVANA.size, "pad"),)
    assert blend.combination.label == f"pixels {fitted['stacker_digest']}"
    stores = [LogitStore.open(member.folder / "oof.zarr") for member in blend.members]
    dice = []
    for name in stores[0].names:
        images = load_for(blend.image_frames(CARVANA.size), data / "train" / name)[0]
        mask, truth = blend.mask([s.read(name)[0] for s in stores], CARVANA.size, images), truth_of(name)
        dice.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    # fitted on the very images, and yet no other blend
    assert abs(np.mean(dice) - fitted["cv"]["dice"]) < 0.02
    report.main(data=data, runs=runs, name="boosted", jobs=1)
    assert "At the boundary" in (folder / "report.html").read_text()
    # of another choice nothing is left of them, and the page tells of none
    assert len(list(folder.glob("pixels*"))) == 3
    fit.main(data=data, runs=runs, jobs=1, name="boosted", blend="equal-mean")
    assert not list(folder.glob("pixels*"))
    report.main(data=data, runs=runs, name="boosted", jobs=1)
    assert "At the boundary" not in (folder / "report.html").read_text()


def test_what_would_leak_or_lacks_images_is_refused_and_nothing_written(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    data, runs = trained
    before = runs / "carvana"

    def refused(sentence: str, change: Callable[[Path], None], members: str = "all") -> None:
        root = tmp_path / str(len(list(tmp_path.iterdir()))) / "carvana"
        shutil.copytree(before, root)
        change(root)
        with pytest.raises(SystemExit, match=sentence) as error:
            fit.main(data=data, runs=root.parent, jobs=1, repairs="off", name="new", members=members)
        assert str(error.value).count("error: ") == 1
        assert not (root / "new").exists()

    def manifests(root: Path, key: str, variant: str = "*") -> None:
        for path in root.glob(f"{variant}/fold*/manifest.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), key: "another"}))

    def other_split(root: Path) -> None:
        table = pd.read_csv(root / "folds.csv", dtype={"group": str})
        groups = table["group"].unique()
        swapped = table["group"].replace({groups[0]: groups[-1], groups[-1]: groups[0]})
        fold_of = table.drop_duplicates("group").set_index("group")["fold"]
        assert fold_of[groups[0]] != fold_of[groups[-1]]
        table["fold"] = swapped.map(fold_of)
        table.to_csv(root / "folds.csv", index=False)

    def unlike(root: Path) -> None:
        shutil.rmtree(root / "fpn-regnetx" / "oof.zarr")
        LogitStore.create(root / "fpn-regnetx" / "oof.zarr", ["x.jpg"], (1, 320, 480)).write(
            "x.jpg", np.zeros((1, 320, 480), np.float32)
        )

    refused(r"average-mask/fold0/manifest.json names other folds \(\w+\) than .*folds.csv holds \(\w+\)", other_split)
    refused(
        r"unet-mobilenetv3/fold0/manifest.json names other folds \(another\) than .*average-mask/fold0/manifest.json",
        lambda root: manifests(root, "folds_digest", "unet-mobilenetv3"),
    )
    refused(
        "unknown member 'unet-xyz'; trained in .*: average-mask, fpn-regnetx, unet-mobilenetv3",
        lambda root: None,
        "average-mask,unet-xyz",
    )
    refused("trained on other data than", lambda root: manifests(root, "data_digest"))
    refused(r"fpn-regnetx/oof.zarr holds other images than", unlike)
    refused(
        "fpn-regnetx/oof.zarr lacks the logits of 1 images",
        lambda root: next(iter((root / "fpn-regnetx" / "oof.zarr").glob("c.*"))).unlink(),
    )
