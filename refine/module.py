"""The Lightning module of a refiner: its loss in the band, and validation by full-size scores."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

from collections.abc import Callable
from typing import Any

import lightning
import torch

from ensemble.boundary import Boundary, BoundaryRefiner
from folds import optimisation
from folds.divergence import LossWatch
from folds.recipes import Recipe
from kernels.metrics import Metric
from models.losses import find_loss
from models.precision import FLOAT32, Precision

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class RefinerModule(lightning.LightningModule):
    """Trains a refiner's network on batches of `refine.tiles`; logs train_loss, val_loss and the score.

    Args:
        network: maps (N, 4, h, w) to what is added to logits, (N, 1, h, w).
        boundary: what the refiner is.
        recipe: how it is trained.
        score: the full-size score of the image at a position with a refiner.
        watch: is shown every loss.
        metric: that masks are scored by.
        precision: what it is trained, and scored, in.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        boundary: Boundary,
        recipe: Recipe,
        score: Callable[[int, BoundaryRefiner], float],
        watch: LossWatch,
        metric: Metric,
        precision: Precision = FLOAT32,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._boundary = boundary
        self._recipe = recipe
        self._score = score
        self._watch = watch
        self._metric = metric
        self._precision = precision
        self._loss = find_loss(recipe.loss)

    def _loss_of(self, batch: Batch) -> torch.Tensor:
        """The loss over the band's pixels of all tiles of a batch."""
        inputs, beside = (part.flatten(0, 1) for part in batch[:2])
        coarse, target, counted = beside.unbind(1)
        added = self.network(inputs.to(memory_format=torch.channels_last))[:, 0].float()
        there = counted > 0
        if not bool(there.any()):
            return added.sum() * 0
        # as one image of one row: the losses of the registry take images
        logits, wanted = ((coarse + added)[there], target[there])
        return self._loss(logits[None, None, None], wanted[None, None, None])

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """One step's loss, a scalar."""
        loss = self._loss_of(batch)
        self._watch.add(loss, batch[2], phase="train", epoch=self.current_epoch, batch=index)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def on_validation_start(self) -> None:
        """No weights that a loss was lost with are validated or saved."""
        self._watch.flush()
        state = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
        self._refiner = BoundaryRefiner(self._boundary, [state], "", (self._precision,))
        self._sums = [0.0, 0.0, 0]

    def validation_step(self, batch: Batch, index: int) -> None:
        """Add up the loss on tiles, and the score of whole images."""
        positions = [int(position) for position in batch[2]]
        self._sums[0] += float(self._loss_of(batch)) * len(positions)
        self._sums[1] += sum(self._score(position, self._refiner) for position in positions)
        self._sums[2] += len(positions)

    def on_validation_epoch_end(self) -> None:
        """Log the means over the images that are looked at."""
        loss, score, count = self._sums
        self.log("val_loss", loss / count)
        self.log(self._metric.logged, score / count, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser and schedule."""
        chosen = optimisation.optimiser(self.network.parameters(), self._recipe, self._precision)
        schedule = optimisation.schedule(
            chosen, self._recipe, int(self.trainer.estimated_stepping_batches), self._metric
        )
        return {"optimizer": chosen, "lr_scheduler": schedule} if schedule else chosen
