"""A recipe's optimiser, schedule and weight averaging, as torch and Lightning take them."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import math
from collections.abc import Iterable
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim import lr_scheduler

from folds.recipes import Recipe
from kernels.metrics import DICE, Metric
from models.precision import FLOAT32, Precision

# Lightning's names
_LIGHTNING: dict[Precision, str] = {"bf16": "bf16-mixed", "fp16": "16-mixed", "float32": "32-true"}


def lightning_precision(precision: Precision) -> Any:
    """Lightning's name of a precision."""
    return _LIGHTNING[precision]


def optimiser(
    parameters: Iterable[torch.nn.Parameter], recipe: Recipe, precision: Precision = FLOAT32
) -> torch.optim.Optimizer:
    """The recipe's optimiser over `parameters`, of a network that is trained in `precision`."""
    given = list(parameters)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimiser == "rmsprop":
        # 0.9 is the smoothing that the published systems' library takes
        return torch.optim.RMSprop(given, rate, alpha=0.9, weight_decay=decay)
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(given, rate, momentum=0.9, nesterov=True, weight_decay=decay)
    # fp16's loss scaling and gradient clipping together do not work with the fused step
    fused = all(p.device.type in ("cpu", "cuda") for p in given) and precision != "fp16"
    adam = torch.optim.AdamW(given, rate, weight_decay=decay, fused=fused)
    # no loss is scaled where it is fused; Lightning refuses to clip the gradients of a step that could undo a scaling
    adam._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return adam


def cosine(step: int, *, steps: int, warmup: float) -> float:
    """Share of the learning rate at `step` of `steps`: linearly up in the first `warmup` share, half a cosine down.

    >>> [round(cosine(step, steps=8, warmup=0.25), 2) for step in range(8)]
    [0.5, 1.0, 1.0, 0.93, 0.75, 0.5, 0.25, 0.07]
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising))))


def schedule(chosen: torch.optim.Optimizer, recipe: Recipe, steps: int, metric: Metric = DICE) -> dict[str, Any] | None:
    """The recipe's schedule in Lightning's form; None where the learning rate is constant.

    Args:
        chosen: the optimiser.
        recipe: how to train.
        steps: optimiser steps in the whole run.
        metric: the competition's.
    """
    if recipe.schedule == "constant":
        return None
    if recipe.schedule == "plateau":
        watched, mode = recipe.watched(metric)
        plateau = lr_scheduler.ReduceLROnPlateau(
            chosen,
            mode=mode,
            factor=recipe.plateau_factor,
            patience=recipe.plateau_patience,
            threshold=recipe.plateau_threshold,
            threshold_mode="abs",
        )
        return {"scheduler": plateau, "interval": "epoch", "monitor": watched}
    scheduler: lr_scheduler.LRScheduler
    if recipe.schedule == "step":
        scheduler = lr_scheduler.StepLR(chosen, recipe.step_epochs, recipe.plateau_factor)
        return {"scheduler": scheduler, "interval": "epoch"}
    if recipe.schedule == "one-cycle":
        total = max(2, steps)
        # torch divides by the lengths of the rise and the fall: the last step falls, and a rise of one step is none
        warmup = min(recipe.warmup, (total - 1) / total)
        if warmup * total == 1:
            warmup = 0.0
        scheduler = lr_scheduler.OneCycleLR(chosen, recipe.learning_rate, total_steps=total, pct_start=warmup)
    else:
        scheduler = lr_scheduler.LambdaLR(chosen, lambda step: cosine(step, steps=steps, warmup=recipe.warmup))
    return {"scheduler": scheduler, "interval": "step"}


class MovingAverage(WeightAveraging):
    """Exponential moving average of parameters and batch-norm statistics; validated and saved in their place.

    The decay rises to `decay` over the first steps, so that short runs do not keep their random start.
    Its state is in Lightning's checkpoints, so a resumed run goes on as if it had not stopped.
    """

    def __init__(self, decay: float) -> None:
        def update(averaged: Any, current: Any, count: Any) -> None:
            if not averaged[0].is_floating_point():
                # counters of batches
                torch._foreach_copy_(averaged, current)
                return
            done = float(count)
            torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + done) / (10 + done)))

        super().__init__(multi_avg_fn=torch.no_grad()(update))

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Make the average where the network will train: at this moment it is still on the CPU."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
