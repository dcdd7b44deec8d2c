"""A loss that is no number ends the training at once, with the names of the images it was computed on."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import atomic
from command_line import UserError
from folds.recipes import Recipe
from folds.run_layout import DIVERGED_FILE
from models.precision import FLOAT32, Precision

# losses on a GPU are looked at this many steps late: looking at once would make every step wait for the GPU
_GPU_DELAY = 2


class LossWatch:
    """Looks at every loss; raises at the first that is NaN or infinite.

    Args:
        folder: of the fold; DIVERGED_FILE is written there.
        names: of all training images, by position.
        label: variant and fold, for the message.
        recipe: how the fold is trained.
        precision: what is computed in.
    """

    def __init__(self, folder: Path, names: Sequence[str], label: str, recipe: Recipe, precision: Precision) -> None:
        self._folder = folder
        self._names = names
        self._label = label
        self._recipe = recipe
        self._precision = precision
        self._waiting: deque[tuple[torch.Tensor, torch.Tensor, str, int, int]] = deque()

    def __deepcopy__(self, memo: dict[int, Any]) -> LossWatch:
        # averaging the weights copies the module; the copy watches nothing of its own
        return self

    def add(self, loss: torch.Tensor, positions: torch.Tensor, *, phase: str, epoch: int, batch: int) -> None:
        """Watch one loss.

        Args:
            loss: scalar.
            positions: (N,) of the batch's images.
            phase: "train" or "validation".
            epoch, batch: numbered from 0.

        Raises:
            UserError: this loss, or one of the two before it on a GPU, is NaN or infinite.
        """
        self._waiting.append((loss.detach(), positions, phase, epoch, batch))
        delay = _GPU_DELAY if loss.is_cuda else 0
        while len(self._waiting) > delay:
            self._check(*self._waiting.popleft())

    def flush(self) -> None:
        """Look at every loss that was added. Raises UserError as `add` does."""
        while self._waiting:
            self._check(*self._waiting.popleft())

    def _check(self, loss: torch.Tensor, positions: torch.Tensor, phase: str, epoch: int, batch: int) -> None:
        value = float(loss)
        if math.isfinite(value):
            return
        path = self._folder / DIVERGED_FILE
        images = [self._names[int(position)] for position in positions]
        atomic.write_json(
            path,
            {
                "loss": str(value),
                "phase": phase,
                "epoch": epoch,
                "batch": batch,
                "images": images,
                "learning_rate": self._recipe.learning_rate,
                "precision": self._precision,
            },
        )
        lower = f"--learning-rate {self._recipe.learning_rate / 4:.2g}"
        hint = lower if self._precision == FLOAT32 else f"--precision float32 or {lower}"
        raise UserError(
            f"the {phase} loss of {self._label} became {value} in epoch {epoch + 1}, batch {batch + 1}, whose images "
            f"{path} lists: train with {hint}, and look at those images if it happens again."
        )
