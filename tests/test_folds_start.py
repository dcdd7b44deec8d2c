"""Starting from another run's weights: what is loaded, what is refused, and that it is part of what a run is."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from huggingface_hub import constants

from command_line import UserError
from competition import COMPETITIONS
from folds import split
from folds.fold import run_fold
from folds.images import find_training_set
from folds.module import SegmentationModule
from folds.recipes import RECIPES
from folds.start import Start, load_start
from folds.task import FoldTask, read_manifest
from folds.train import main
from models import checkpoint
from models.build import build
from models.variants import VARIANTS
from tests.tiny_folds import QUICK, TINY, maker

# steps that move no weight by more than a rounding
STILL = 1e-12


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    monkeypatch.setitem(VARIANTS, "larger", replace(TINY, name="larger", size=(64, 96)))
    monkeypatch.setitem(VARIANTS, "wider", replace(TINY, name="wider", options={"widths": (4, 16)}))
    monkeypatch.setitem(RECIPES, TINY.recipe, QUICK)


@pytest.fixture
def runs(ellipses: Path, tmp_path: Path) -> Path:
    """A runs folder with both folds of the tiny network."""
    train(tmp_path / "runs", ellipses, variant="tiny")
    return tmp_path / "runs"


def train(runs: Path, data: Path, **arguments: Any) -> None:
    main(**{"data": data, "runs": runs, "folds": 2, "epochs": 1, "jobs": 1, **arguments})


def refusal(runs: Path, data: Path, **arguments: Any) -> str:
    with pytest.raises(SystemExit) as caught:
        train(runs, data, **arguments)
    return str(caught.value.code)


def kernels(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that only an optimiser changes."""
    state = safetensors.torch.load_file(folder / checkpoint.WEIGHTS_FILE)
    return {name: tensor for name, tensor in state.items() if tensor.ndim == 4}


def alike(first: Path, second: Path) -> bool:
    expected = kernels(second)
    return all(torch.allclose(tensor, expected[name], atol=1e-6) for name, tensor in kernels(first).items())


def test_every_fold_of_a_larger_network_goes_on_from_its_own(
    runs: Path, ellipses: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, larger = runs / "carvana" / "tiny", runs / "carvana" / "larger"
    higher = {"variant": "larger,average-mask", "init_from": source, "learning_rate": STILL}
    train(runs, ellipses, **higher)
    for fold in (0, 1):
        assert alike(larger / f"fold{fold}", source / f"fold{fold}")
        assert not alike(larger / f"fold{fold}", source / f"fold{1 - fold}")
        manifest = read_manifest(larger / f"fold{fold}")
        assert manifest is not None
        assert manifest["recipe"]["init_from"].startswith(f"tiny fold {fold} ")
    # what a run starts from is part of what it is
    assert "another recipe" in refusal(runs, ellipses, **{**higher, "init_from": None})
    capsys.readouterr()
    shutil.rmtree(source)
    train(runs, ellipses, **higher)
    assert capsys.readouterr().out.count("is finished") == 4
    assert f"{source / 'fold0'} has no manifest.json" in refusal(runs, ellipses, variant="wider", init_from=source)


def test_weights_that_saw_what_a_fold_holds_out_are_refused(runs: Path, ellipses: Path, tmp_path: Path) -> None:
    fold0 = runs / "carvana" / "tiny" / "fold0"
    table = split.read(runs / "carvana" / "folds.csv", find_training_set(COMPETITIONS["carvana"], ellipses))
    said = refusal(runs, ellipses, variant="larger", fold="1", init_from=fold0)
    assert f"{fold0} was trained on {table['image'][table['fold'] == 1].iloc[0]}" in said
    assert "which fold 1 holds out (6 of 6 images)" in said
    train(runs, ellipses, variant="larger", fold="0", init_from=fold0)
    # of another split of the same images, every fold has seen some
    said = refusal(tmp_path / "others", ellipses, variant="larger", seed=5, init_from=fold0.parent)
    assert "images): start fold 0 from a run" in said
    # another view of a car is as bad: here every second one is new
    for name in sorted(p.name for p in (ellipses / "train").iterdir())[::2]:
        stem, new = name.removesuffix(".jpg"), name.replace("_01", "_03").removesuffix(".jpg")
        (ellipses / "train" / name).rename(ellipses / "train" / f"{new}.jpg")
        (ellipses / "train_masks" / f"{stem}_mask.gif").rename(ellipses / "train_masks" / f"{new}_mask.gif")
    assert "or its group" in refusal(tmp_path / "views", ellipses, variant="larger", seed=5, init_from=fold0.parent)


def test_without_the_source_s_folds_its_manifest_decides(runs: Path, ellipses: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "tiny"
    shutil.copytree(runs / "carvana" / "tiny", alone)
    train(runs, ellipses, variant="larger", fold="0", init_from=alone / "fold0")
    said = refusal(runs, ellipses, variant="larger", fold="1", init_from=alone / "fold0")
    assert "trained on the same data with another split or as fold 0" in said
    said = refusal(tmp_path / "others", ellipses, variant="larger", seed=5, init_from=alone)
    assert "has seen images that fold 0 holds out" in said
    # other data is another matter, unless the source had a start of its own
    path = alone / "fold1" / "manifest.json"
    manifest = json.loads(path.read_text()) | {"data_digest": "other"}
    path.write_text(json.dumps(manifest))
    train(runs, ellipses, variant="larger", fold="1", init_from=alone)
    manifest["recipe"]["init_from"] = "older fold 3 abc"
    path.write_text(json.dumps(manifest))
    said = refusal(tmp_path / "others", ellipses, variant="larger", fold="1", init_from=alone)
    assert "itself started from other weights (older fold 3 abc)" in said
    # a table that the source was not trained by tells nothing
    shutil.copy(tmp_path / "others" / "carvana" / "folds.csv", alone.parent / "folds.csv")
    assert "is not the split" in refusal(runs, ellipses, variant="wider", fold="0", init_from=alone)


def test_another_network_and_weights_that_changed_are_refused(runs: Path, ellipses: Path) -> None:
    source = runs / "carvana" / "tiny"
    said = refusal(runs, ellipses, variant="wider", init_from=source)
    assert "do not fit the network of wider" in said
    assert not (runs / "carvana" / "wider").exists()
    with pytest.raises(UserError, match="have changed meanwhile"):
        load_start(build(TINY), TINY, Start(source / "fold0", "tiny fold 0 0123456789abcdef"))
    (source / "fold0" / checkpoint.WEIGHTS_FILE).write_bytes(b"damaged")
    assert "cannot be loaded" in refusal(runs, ellipses, variant="larger", init_from=source)


@pytest.fixture
def started(ellipses: Path, tmp_path: Path) -> tuple[FoldTask, FoldTask]:
    """A finished fold, and one of a larger network that shall start from it."""
    make = maker(ellipses, tmp_path)
    source = make(TINY, QUICK, "source")
    run_fold(source)
    recipe = replace(QUICK, epochs=3, init_from=weights_identity(source.folder))
    return source, replace(make(VARIANTS["larger"], recipe, "larger"), start=source.folder)


def weights_identity(folder: Path) -> str:
    data = (folder / checkpoint.WEIGHTS_FILE).read_bytes()
    return f"tiny fold 0 {hashlib.blake2b(data, digest_size=8).hexdigest()}"


def test_a_run_that_goes_on_does_not_read_its_start_again(
    started: tuple[FoldTask, FoldTask], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, task = started
    whole = replace(task, folder=task.folder.parent / "whole")
    run_fold(whole)
    step = SegmentationModule.training_step

    def stop_in_the_second_epoch(self: SegmentationModule, batch, index: int):
        if self.current_epoch:
            raise RuntimeError("stopped here")
        return step(self, batch, index)

    def stop(made: FoldTask) -> None:
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped here"):
            patch.setattr(SegmentationModule, "training_step", stop_in_the_second_epoch)
            run_fold(made)

    other = replace(task, folder=task.folder.parent / "other")
    stop(replace(other, recipe=replace(other.recipe, init_from=""), start=None))
    run_fold(other)
    assert "begun with another recipe or start" in capsys.readouterr().out
    stop(task)
    shutil.rmtree(source.folder)
    run_fold(task)
    expected = kernels(whole.folder)
    for made in (task, other):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in kernels(made.folder).items())


def test_no_encoder_weights_are_fetched_for_a_network_that_starts_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    runs, data = tmp_path / "runs", tmp_path / "no-data"
    assert "--weights none" in refusal(runs, data, variant="unet-resnet34-512")
    assert "no-data" in refusal(runs, data, variant="unet-resnet34-512", init_from=tmp_path)
