"""Training itself, on a few images at a small size: that it learns, resumes and averages as it says."""

from __future__ import annotations

import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from command_line import UserError
from competition import COMPETITIONS
from folds.fold import run_fold
from folds.heads import HEADS
from folds.module import SegmentationModule
from folds.recipes import Recipe
from folds.run_layout import WEIGHTS_FILE
from folds.scoring import full_size_score
from folds.spent import Spent
from folds.states import load_state
from folds.store import LogitStore
from folds.task_list import is_done
from models.frame import frame_of
from models.variant import Variant
from models.variants import VARIANTS
from tests.modes import check_modes, umask
from tests.tiny_folds import QUICK, TINY, Make, maker

CARVANA = COMPETITIONS["carvana"]


@pytest.fixture
def task(ellipses: Path, tmp_path: Path) -> Make:
    return maker(ellipses, tmp_path)


def curve(folder: Path, column: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


@pytest.mark.parametrize(
    "variant",
    [
        replace(VARIANTS["a-cnn-128"], size=(64, 96)),
        replace(VARIANTS["dilated-unet-1024x1536"], size=(64, 96), options={"widths": (8, 16, 16, 32)}),
        replace(VARIANTS["b-dense-unet-768"], size=(64, 96), options={"widths": (8, 16), "block": "dense"}),
        replace(VARIANTS["unet-mobilenetv3"], size=(64, 96)),
    ],
    ids=lambda variant: variant.name,
)
def test_the_loss_falls(variant: Variant, task) -> None:
    made = task(variant, QUICK)
    manifest = run_fold(made)
    losses = curve(made.folder, "train_loss")
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert manifest["steps"] == 8
    # what was trained on is left to the other folds
    assert set(LogitStore.open(made.store).missing()) == set(made.training.names[:8])


def test_others_may_read_what_the_umask_lets_them(task) -> None:
    with umask():
        made = task(TINY, QUICK)
        run_fold(made)
    assert (made.folder / WEIGHTS_FILE).exists()
    check_modes(made.folder.parent)


RESUMED = {
    "averaged, cosine": replace(QUICK, ema=0.9, schedule="cosine", augment="flip-affine-hsv"),
    "rmsprop, plateau, accumulated": replace(
        QUICK, optimiser="rmsprop", schedule="plateau", plateau_patience=0, accumulate=2, monitor="val_loss", patience=5
    ),
}


@pytest.mark.parametrize("recipe", RESUMED.values(), ids=RESUMED)
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    recipe: Recipe, task, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(recipe, epochs=3)
    whole = task(TINY, recipe, "whole")
    manifest = run_fold(whole)

    stopped = task(TINY, recipe, "stopped")
    step = SegmentationModule.training_step

    def fail_in_the_third_epoch(self: SegmentationModule, batch, index: int):
        if self.current_epoch == 2 and index == 1:
            raise RuntimeError("stopped here")
        return step(self, batch, index)

    monkeypatch.setattr(SegmentationModule, "training_step", fail_in_the_third_epoch)
    with pytest.raises(RuntimeError, match="stopped here"):
        run_fold(stopped)
    monkeypatch.setattr(SegmentationModule, "training_step", step)
    spent = Spent(*next(own["spent"] for own in load_state(stopped.last_state)["callbacks"].values() if "spent" in own))
    again = run_fold(stopped)
    assert again["steps"] == manifest["steps"]
    assert again["dice"] == manifest["dice"]
    # the kept weights may be of an epoch before the stop; the curve has every epoch, once
    assert (stopped.folder / "metrics.csv").read_bytes() == (whole.folder / "metrics.csv").read_bytes()
    # what the process before has spent is not forgotten
    assert again["seconds"] > spent.seconds > 0
    assert again["cpu_seconds"] > spent.cpu_seconds > 0
    assert len(curve(whole.folder, "val_dice")) == 3
    expected = safetensors.torch.load_file(whole.folder / "weights.safetensors")
    for name, tensor in safetensors.torch.load_file(stopped.folder / "weights.safetensors").items():
        assert torch.equal(tensor, expected[name]), name


def test_two_batches_accumulated_are_one_step(task) -> None:
    assert run_fold(task(TINY, QUICK, "one"))["steps"] == 8
    assert run_fold(task(TINY, replace(QUICK, accumulate=2), "two"))["steps"] == 4


def test_averaging_keeps_other_weights_than_the_last(task) -> None:
    plain, averaged = task(TINY, QUICK, "plain"), task(TINY, replace(QUICK, ema=0.9), "averaged")
    run_fold(plain)
    run_fold(averaged)
    first, second = (safetensors.torch.load_file(t.folder / "weights.safetensors") for t in (plain, averaged))
    # training itself is the same, so what differs is what was kept and validated
    assert curve(plain.folder, "train_loss") == curve(averaged.folder, "train_loss")
    assert curve(plain.folder, "val_loss") != curve(averaged.folder, "val_loss")
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_the_weights_kept_are_the_best_or_the_last_epochs_and_both_are_scored(
    task, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = itertools.count()
    recipe = replace(QUICK, epochs=3, ema=0.3, learning_rate=2e-2)
    best, last = task(TINY, recipe, "best"), task(TINY, replace(recipe, keep="last"), "last")
    with monkeypatch.context() as patch:
        # the first epoch is the best; four images are held out
        falling = replace(HEADS["mask"], score=lambda *_: 1 - (next(epochs) // 4 % 3) / 10)
        patch.setitem(HEADS, "mask", falling)
        kept, ended = run_fold(best), run_fold(last)
    assert (kept["best_epoch"], kept["epochs_run"]) == (ended["best_epoch"], ended["epochs_run"]) == (0, 3)
    assert curve(best.folder, "val_dice") == pytest.approx([1, 0.9, 0.8])
    assert kept["dice"] != kept["last_dice"]
    assert ended["dice"] == ended["last_dice"] == kept["last_dice"]
    # what was scored beside it is nowhere kept
    first = task(TINY, replace(recipe, epochs=1), "first")
    assert run_fold(first)["dice"] == kept["dice"]
    for made in (best, first):
        store, state = LogitStore.open(made.store), made.folder / "weights.safetensors"
        scores = [
            full_size_score(store.head(made.training.names[p]), frame_of(TINY), made.truths["mask"].of(p), CARVANA.size)
            for p in made.held_out
        ]
        assert np.mean(scores) == kept["dice"]
        weights = safetensors.torch.load_file(state)
        expected = safetensors.torch.load_file(best.folder / "weights.safetensors")
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())


def test_early_stopping_needs_more_than_its_least_gain(task) -> None:
    recipe = replace(QUICK, epochs=6, patience=1, min_delta=1.0, monitor="val_loss")
    assert run_fold(task(TINY, recipe))["epochs_run"] == 2


def test_a_fold_from_before_a_field_existed_is_still_finished(task) -> None:
    made = task(TINY, QUICK)
    run_fold(made)
    assert is_done(made)
    path = made.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for field in ("accumulate", "ema", "keep", "optimiser", "precision"):
        del manifest["recipe"][field]
    del manifest["best_epoch"], manifest["last_dice"]
    path.write_text(json.dumps(manifest))
    assert is_done(made)
    with pytest.raises(UserError, match="another recipe"):
        is_done(replace(made, recipe=replace(QUICK, ema=0.9)))
