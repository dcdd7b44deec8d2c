"""Folds of a few small images, to train in a test's time; what a test's child processes run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from command_line import program
from competition import COMPETITIONS
from folds.fold import run_fold
from folds.images import find_training_set
from folds.inputs import Inputs, load_inputs
from folds.recipes import RECIPES, Recipe
from folds.store import LogitStore
from folds.task import FoldTask
from folds.truth import load_truth
from models.frame import frame_of
from models.variant import Variant
from models.variants import VARIANTS

# a few steps at a high rate: enough to see the loss fall
QUICK = replace(
    RECIPES["demo"], epochs=2, batch=2, learning_rate=5e-3, schedule="constant", patience=0, keep="best", clip=0.0
)
TINY = replace(VARIANTS["a-unet-128"], name="tiny", size=(32, 48), options={"widths": (4, 8)})
# with dropout and batch norm
DROPPING = replace(
    VARIANTS["fpn-regnetx"],
    name="dropping",
    size=(32, 64),
    options={"encoder_depth": 3, "upsampling": 1, "decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
)

Make = Callable[..., FoldTask]


def maker(data: Path, root: Path) -> Make:
    """A function (variant, recipe, folder) -> task of fold 0: eight images to train on, four held out."""
    training = find_training_set(COMPETITIONS["carvana"], data)
    truth = load_truth(training, root / "cache", jobs=1)

    def make(variant: Variant, recipe: Recipe, folder: str = "run") -> FoldTask:
        store = root / folder / "oof.zarr"
        LogitStore.create(store, training.names, (1, *variant.size))
        return FoldTask(
            training=training,
            truths={"mask": truth},
            inputs=load_inputs(training, frame_of(variant), {"mask": truth}, root / "cache", jobs=1),
            variant=variant,
            recipe=recipe,
            fold=0,
            train=np.arange(8),
            held_out=np.arange(8, 12),
            folder=root / folder / "fold0",
            store=store,
            folds_digest="",
            seed=0,
            # two threads on so little work wait for each other most of the time
            threads=1,
            bar=False,
        )

    return make


@dataclass
class SlowInputs:
    """Inputs of which each costs so many processor seconds, and the one after `last` fails."""

    inputs: Inputs
    seconds: float
    last: int
    read: int = 0

    def image(self, position: int) -> np.ndarray:
        self.read += 1
        if self.read > self.last:
            raise ArithmeticError("one too many")
        end = time.process_time() + self.seconds
        while time.process_time() < end:
            pass
        return self.inputs.image(position)

    def target(self, position: int) -> np.ndarray:
        return self.inputs.target(position)


@dataclass(frozen=True)
class DyingInputs:
    """Inputs that end the process that reads them, unless it is the one that made them."""

    inputs: Inputs
    owner: int

    def image(self, position: int) -> np.ndarray:
        if os.getpid() != self.owner:
            os._exit(7)
        return self.inputs.image(position)

    def target(self, position: int) -> np.ndarray:
        return self.inputs.target(position)


@program
def train_in_child(task: FoldTask) -> None:
    """What a test's child process does."""
    run_fold(task)
