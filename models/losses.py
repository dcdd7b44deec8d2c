"""Losses on logits, for soft targets (coverage 0..1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from command_line import UserError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def bce(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, mean over all pixels. `logits`, `target` (N, K, h, w), target 0..1; returns a scalar."""
    return F.binary_cross_entropy_with_logits(logits, target)


def soft_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Soft Dice coefficient per image, mean over images, as the competition averages it. Returns a scalar 0..1."""
    probability = logits.sigmoid()
    axes = tuple(range(1, logits.ndim))
    intersection = (probability * target).sum(axes)
    # 1 px keeps empty images defined and does not matter for others
    return ((2 * intersection + 1) / (probability.sum(axes) + target.sum(axes) + 1)).mean()


def bce_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """BCE + (1 - soft Dice). Returns a scalar."""
    return bce(logits, target) + 1 - soft_dice(logits, target)


LOSSES: dict[str, Loss] = {"bce": bce, "bce-dice": bce_dice}


def find_loss(name: str) -> Loss:
    """The loss of that name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    try:
        return LOSSES[name]
    except KeyError:
        raise UserError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}.") from None
