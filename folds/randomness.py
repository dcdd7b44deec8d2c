"""What is random in an epoch, such as dropout, follows from (seed, fold, epoch, rank), never from earlier draws.

So a run that was killed and goes on draws what it would have drawn. Order and augmentation have seeds of their own
(folds/samples.py, folds/augment.py).
"""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback


def epoch_seed(seed: int, fold: int, epoch: int, rank: int) -> int:
    """The seed of all generators in an epoch, 0 .. 2**32 - 1.

    Args:
        seed: of the run, 0 or more.
        fold: its number.
        epoch: numbered from 0.
        rank: of the process among those that share the fold.
    """
    return int(np.random.SeedSequence((seed, fold, epoch, rank)).generate_state(1)[0])


class SeededEpochs(Callback):
    """Seeds torch on every device, NumPy and Python before the first batch of each training epoch.

    Args:
        seed, fold: as `epoch_seed` takes them.
    """

    def __init__(self, seed: int, fold: int) -> None:
        self._seed = seed
        self._fold = fold

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin the epoch's own randomness.

        Not at the start of the epoch: there an uninterrupted run goes on to begin a new pass over the data, for which
        the loader draws a number, and a run that goes on has already done so.
        """
        if batch_idx == 0:
            drawn = epoch_seed(self._seed, self._fold, trainer.current_epoch, trainer.global_rank)
            lightning.seed_everything(drawn, verbose=False)
