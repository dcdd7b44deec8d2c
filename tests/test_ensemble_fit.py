"""The program that chooses a blend: votes and stackers through to blend.json, and on to those who read it."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from competition import COMPETITIONS
from ensemble import fit
from ensemble.conv_stacker import ConvStacker
from ensemble.mixture import find_mixture
from ensemble.report import write as report
from ensemble.voting import VOTES
from folds.store import LogitStore
from folds.train import main as train
from models import checkpoint
from models.frame import Frame
from tests.conftest import CARS, ellipse

CARVANA = COMPETITIONS["carvana"]
VARIANTS = ("average-mask", "unet-mobilenetv3", "fpn-regnetx")


def truth_of(name: str) -> np.ndarray:
    car, view = name.removesuffix(".jpg").split("_")
    return ellipse(10 * CARS.index(car) + int(view) - 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A competition folder and a runs folder of three variants, each wrong in a place of its own and sure of it."""
    from tests.conftest import ellipses

    base = tmp_path_factory.mktemp("fit")
    data = ellipses.__wrapped__(base)
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
    fit.main(data=data, runs=runs, jobs=1, postprocess="off", name="votes")
    blend = json.loads((runs / "carvana" / "votes" / "blend.json").read_text())
    # two networks that are right outvote the one that is wrong, whatever its logit; of the votes the simplest is taken
    assert blend["kind"] == blend["vote"] == "probability"
    assert blend["threshold"] == 0
    assert blend["threshold_fit"] is None
    assert blend["cv"]["dice"] > blend["candidates"]["dice-weights"]["dice"] + 0.001
    scores = pd.read_csv(runs / "carvana" / "votes" / "oof_dice.csv").set_index("image")["nested"]
    stores = [LogitStore.open(runs / "carvana" / variant / "oof.zarr") for variant in VARIANTS]
    frames = [Frame(store.shape[1:]) for store in stores]
    for name in scores.index[:4]:
        mask = VOTES["probability"]([s.read(name)[0] for s in stores], frames, [1, 1, 1], CARVANA.size)
        truth = truth_of(name)
        assert scores[name] == pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()), abs=1e-6)


def test_a_forced_stacker_is_in_the_blend_and_read_back_by_mixture_and_report(
    trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, runs = trained
    folder = runs / "carvana" / "stacked"
    quick = functools.partial(fit.evaluate_stacker, make=lambda: ConvStacker(steps=10, batch=4))
    monkeypatch.setattr(fit, "evaluate_stacker", quick)
    fit.main(data=data, runs=runs, jobs=1, postprocess="off", name="stacked", blend="conv-stacker")
    blend = json.loads((folder / "blend.json").read_text())
    assert blend["kind"] == blend["vote"] == "conv-stacker"
    assert blend["members"] == sorted(VARIANTS)
    assert list(blend["candidates"])[-1] == "conv-stacker"
    assert blend["cv"] == {k: v for k, v in blend["candidates"]["conv-stacker"].items() if k != "weights"}
    mixture = find_mixture(runs / "carvana", "stacked")
    stores = [LogitStore.open(member.folder / "oof.zarr") for member in mixture.members]
    dice = []
    for name in stores[0].names:
        planes, frames = [s.read(name)[0] for s in stores], [m.frame for m in mixture.members]
        mask, truth = mixture.combine(planes, frames, mixture.weights, CARVANA.size) > 0, truth_of(name)
        dice.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    # fitted on the very images, and yet no other blend
    assert abs(np.mean(dice) - blend["cv"]["dice"]) < 0.02
    assert blend["stacker_digest"] in mixture.state()["vote"]
    report.main(data=data, runs=runs, name="stacked", jobs=1)
    assert "conv-stacker" in (folder / "report.html").read_text()
