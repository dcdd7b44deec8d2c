"""The Lightning module: one network, its loss, its optimiser, and validation at the competition's own size."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

from collections.abc import Callable, Mapping
from typing import Any

import lightning
import numpy as np
import torch

from competition import Size
from folds import optimisation
from folds.divergence import LossWatch
from folds.heads import HeadTruth, find_rule
from folds.recipes import Recipe
from kernels.metrics import DICE, Metric
from models.depthwise import in_float32
from models.frame import Frame
from models.losses import find_loss
from models.network_input import normalise
from models.networks.windowed_unet import WindowedUNet
from models.precision import FLOAT32, Precision
from models.variant import Variant

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _planes_of(targets: torch.Tensor) -> torch.Tensor:
    """(N, K, h, w) float 0..1, from coverage: (N, h, w) of one plane, (N, h, w, K) of several."""
    return (targets[:, None] if targets.ndim == 3 else targets.permute(0, 3, 1, 2)).float() / 255


class SegmentationModule(lightning.LightningModule):
    """Trains a network on (image, coverage, position) batches; logs train_loss, val_loss and each head's score.

    Args:
        network: maps (N, C, h, w) to logits (N, K, h, w).
        variant, recipe: what it is, how it is trained.
        frame, truths, full: what full-size scores of each head need.
        watch: is shown every loss.
        metric: that masks are scored by.
        extra: first position of the images that count otherwise in the loss, and what each of them counts where others
            count 1; None where all count alike.
        precision: what it is trained in.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        variant: Variant,
        recipe: Recipe,
        frame: Frame,
        truths: Mapping[str, HeadTruth],
        full: Size,
        watch: LossWatch,
        metric: Metric = DICE,
        extra: tuple[int, float] | None = None,
        precision: Precision = FLOAT32,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        in_float32(self.network)
        self._variant = variant
        self._recipe = recipe
        self._watch = watch
        self._metric = metric
        self._extra = extra
        self._precision = precision
        self._heads = [head.name for head in variant.heads]
        rules = {head: find_rule(head, metric) for head in self._heads}
        self._logged = {head: f"val_{rule.metric}" for head, rule in rules.items()}
        self._planes = {head: variant.planes_of(head) for head in self._heads}

        def score(head: str, planes: np.ndarray, position: int) -> float:
            single = planes[0] if len(planes) == 1 else planes
            return rules[head].score(single, frame, truths[head].of(position), full)

        # a function, since averaging the weights copies the module, and a copy of the truth is large
        self._score = score
        # its method and not the network itself: validation, and all that comes after, would be compiled again for its
        # own mode and sizes, and a module's copies, as averaging makes one, would be compiled too
        self._compiled = torch.compile(self.network.forward) if recipe.compile else None
        self._losses = {
            head: find_loss(recipe.losses.get(head) or rule.loss or recipe.loss) for head, rule in rules.items()
        }

    def _logits_and_loss(
        self, batch: Batch, network: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        images, targets, positions = batch
        logits = network(normalise(images, self._variant))
        return logits, self._loss(logits, _planes_of(targets), positions)

    def _loss(self, logits: torch.Tensor, wanted: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The loss of a batch: where some images count otherwise, the mean over both kinds by what they count."""
        if self._extra is None:
            return self._loss_of(logits, wanted)
        first, weight = self._extra
        is_extra = positions >= first
        parts = [(part, factor) for part, factor in ((~is_extra, 1.0), (is_extra, weight)) if bool(part.any())]
        losses = [factor * part.float().mean() * self._loss_of(logits[part], wanted[part]) for part, factor in parts]
        return torch.stack(losses).sum()

    def _loss_of(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor | None = None
        for head, planes in self._planes.items():
            loss = self._losses[head](logits[:, planes].float(), wanted[:, planes])
            weight = self._recipe.loss_weights.get(head, 1.0)
            loss = loss if weight == 1 else weight * loss
            total = loss if total is None else total + loss
        assert total is not None
        return total

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """One step's loss, a scalar."""
        loss = self._logits_and_loss(batch, self._compiled or self.network)[1]
        self.log(
            "train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch[0]), sync_dist=True
        )
        if isinstance(self.network, WindowedUNet):
            loss = loss + self.network.finder_loss(_planes_of(batch[1]))
        self._watch.add(loss, batch[2], phase="train", epoch=self.current_epoch, batch=index)
        return loss

    def on_validation_start(self) -> None:
        """No weights that a loss was lost with are validated or saved."""
        self._watch.flush()
        # of this process: loss times images, each head's score, images
        self._sums = torch.zeros(2 + len(self._heads), dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, index: int) -> torch.Tensor:
        """Add up the loss at the network's size and each head's score at the competition's. Returns the logits."""
        logits, loss = self._logits_and_loss(batch, self.network)
        self._watch.add(loss, batch[2], phase="validation", epoch=self.current_epoch, batch=index)
        outputs = logits.float().cpu().numpy()
        self._watch.flush()
        positions = [int(position) for position in batch[2]]
        scores = [
            sum(
                self._score(head, output[planes], position) for output, position in zip(outputs, positions, strict=True)
            )
            for head, planes in self._planes.items()
        ]
        self._sums += self._sums.new_tensor([float(loss) * len(positions), *scores, len(positions)])
        return logits

    def on_validation_epoch_end(self) -> None:
        """Log the means over all held-out images, however many of them each process had."""
        loss, *scores, count = self.trainer.strategy.reduce(self._sums, reduce_op="sum").tolist()
        self.log("val_loss", loss / count)
        for head, score in zip(self._heads, scores, strict=True):
            self.log(self._logged[head], score / count, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser and schedule."""
        chosen = optimisation.optimiser(self.network.parameters(), self._recipe, self._precision)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = optimisation.schedule(chosen, self._recipe, steps, self._metric)
        return {"optimizer": chosen, "lr_scheduler": schedule} if schedule else chosen
