"""Every architecture of the registry goes on from its state on disk to the very weights of an uninterrupted run."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import itertools
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import lightning
import numpy as np
import pytest
import safetensors.torch
import torch

from folds.fold import run_fold
from folds.module import SegmentationModule
from folds.randomness import SeededEpochs, epoch_seed
from models.variant import Variant
from models.variants import VARIANTS
from tests.conftest import write_ellipses
from tests.tiny_folds import QUICK, Make, maker

# the smallest of an encoder's family, of the same layers; other encoders stay as they are
SMALLEST = {
    "resnet34": "resnet18",
    "efficientnet-b3": "efficientnet-b0",
    "tu-convnext_tiny": "tu-convnext_atto",
    "mit_b2": "mit_b0",
}


def shrunk(variant: Variant) -> Variant:
    """The same architecture at 64x64, from scratch, as small as it can be made."""
    options = dict(variant.options)
    if "widths" in options or variant.network == "dilated-unet":
        options["widths"] = (4, 8, 8, 8)
    if variant.architecture in ("Unet", "UPerNet"):
        options["decoder_channels"] = (32, 16, 16, 8, 8) if variant.architecture == "Unet" else 32
    encoder = SMALLEST.get(variant.encoder, variant.encoder)
    # one picture and one head, as the small competition has them
    single: dict[str, Any] = {"in_channels": min(3, variant.in_channels), "heads": variant.heads[:1]}
    return replace(variant, size=(64, 64), weights="none", fit="resize", encoder=encoder, options=options, **single)


def families() -> Iterator[Variant]:
    """One small variant for each network, block, architecture and encoder family that is trained by gradient."""
    seen = set()
    for variant in map(shrunk, (each for each in VARIANTS.values() if not each.fitted)):
        family = (variant.network, variant.options.get("block"), variant.architecture, variant.encoder)
        if family not in seen:
            seen.add(family)
            yield variant


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Make:
    base = tmp_path_factory.mktemp("resume")
    return maker(write_ellipses(base / "data"), base)


@pytest.mark.parametrize("variant", [*families()], ids=lambda variant: variant.name)
def test_an_interruption_changes_no_bit(variant: Variant, task, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(QUICK, optimiser="sgd", learning_rate=0.02, keep="last")
    made = replace(task(variant, recipe, variant.name), train=np.arange(4), held_out=np.arange(8, 10))
    interrupted = made.folder.with_name("interrupted")
    step = SegmentationModule.training_step

    def copy_what_lies_there(self: SegmentationModule, batch, index: int):
        if (self.current_epoch, index) == (1, 0):
            shutil.copytree(made.folder, interrupted)
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationModule, "training_step", copy_what_lies_there)
        whole = run_fold(made)
    expected = safetensors.torch.load((made.folder / "weights.safetensors").read_bytes())
    curve = (made.folder / "metrics.csv").read_bytes()
    shutil.rmtree(made.folder)
    interrupted.rename(made.folder)
    again = run_fold(made)
    assert again["steps"] == whole["steps"] == 4
    assert (made.folder / "metrics.csv").read_bytes() == curve
    weights = safetensors.torch.load_file(made.folder / "weights.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in expected.items())
    assert again["dice"] == whole["dice"]
    shutil.rmtree(made.folder)


def drawn() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.random()), random.random()  # noqa: NPY002


def test_an_epoch_draws_the_same_whatever_was_drawn_before() -> None:
    trainer, module = lightning.Trainer(logger=False, accelerator="cpu"), lightning.LightningModule()
    callback = SeededEpochs(seed=1, fold=2)
    callback.on_train_batch_start(trainer, module, None, 0)
    first = drawn()
    callback.on_train_batch_start(trainer, module, None, 1)
    assert drawn() != first
    callback.on_train_batch_start(trainer, module, None, 0)
    assert drawn() == first


def test_seeds_differ_by_run_fold_epoch_and_rank() -> None:
    keys = list(itertools.product(range(3), range(5), range(20), range(4)))
    assert len({epoch_seed(*key) for key in keys}) == len(keys)
