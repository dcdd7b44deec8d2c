"""The Lightning module: one network, its loss, its optimiser, and validation at the competition's own size."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

from collections.abc import Callable
from typing import Any

import lightning
import torch

from competition import Size
from folds import optimisation
from folds.cache import Truth
from folds.divergence import LossWatch
from folds.recipes import Recipe
from folds.scoring import full_size_dice
from models.frame import Frame
from models.losses import find_loss
from models.network_input import normalise
from models.variants import Variant

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class SegmentationModule(lightning.LightningModule):
    """Trains a network on (image, coverage, position) batches; logs train_loss, val_loss and val_dice.

    Args:
        network: maps (N, C, h, w) to logits (N, K, h, w).
        variant, recipe: what it is, how it is trained.
        frame, truth, full: what full-size validation Dice needs.
        watch: is shown every loss.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        variant: Variant,
        recipe: Recipe,
        frame: Frame,
        truth: Truth,
        full: Size,
        watch: LossWatch,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._variant = variant
        self._recipe = recipe
        self._watch = watch
        # a function, since averaging the weights copies the module, and a copy of the truth is large
        self._dice = lambda plane, position: full_size_dice(plane, frame, truth.of(position), full)
        # its method and not the network itself: validation, and all that comes after, would be compiled again for its
        # own mode and sizes, and a module's copies, as averaging makes one, would be compiled too
        self._compiled = torch.compile(self.network.forward) if recipe.compile else None
        self._loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = find_loss(recipe.loss)

    def _logits_and_loss(
        self, batch: Batch, network: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        images, masks, _ = batch
        logits = network(normalise(images, self._variant))
        return logits, self._loss(logits.float(), masks[:, None].float() / 255)

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """One step's loss, a scalar."""
        loss = self._logits_and_loss(batch, self._compiled or self.network)[1]
        self._watch.add(loss, batch[2], phase="train", epoch=self.current_epoch, batch=index)
        self.log(
            "train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch[0]), sync_dist=True
        )
        return loss

    def on_validation_start(self) -> None:
        """No weights that a loss was lost with are validated or saved."""
        self._watch.flush()
        # of this process: loss times images, Dice, images
        self._sums = torch.zeros(3, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, index: int) -> torch.Tensor:
        """Add up the loss at the network's size and the Dice at the competition's. Returns the logits."""
        logits, loss = self._logits_and_loss(batch, self.network)
        self._watch.add(loss, batch[2], phase="validation", epoch=self.current_epoch, batch=index)
        planes = logits[:, 0].float().cpu().numpy()
        self._watch.flush()
        scores = [self._dice(plane, int(position)) for plane, position in zip(planes, batch[2], strict=True)]
        self._sums += self._sums.new_tensor([float(loss) * len(scores), sum(scores), len(scores)])
        return logits

    def on_validation_epoch_end(self) -> None:
        """Log the means over all held-out images, however many of them each process had."""
        loss, dice, count = self.trainer.strategy.reduce(self._sums, reduce_op="sum").tolist()
        self.log("val_loss", loss / count)
        self.log("val_dice", dice / count, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser and schedule."""
        chosen = optimisation.optimiser(self.network.parameters(), self._recipe)
        schedule = optimisation.schedule(chosen, self._recipe, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": chosen, "lr_scheduler": schedule} if schedule else chosen
