"""Losses on logits, for soft targets (coverage 0..1).

Every overlap is taken image by image and averaged, as the competition scores it; the losses of
segmentation-models-pytorch take it over the whole batch, so only those without an overlap come from there, and
Lovasz, which it offers image by image.
"""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F

from command_line import UserError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# a pixel counts as border where the coverage around it, in a square of this side, is neither all nor nothing
BORDER_PX = 11
# how much more a pixel at the border counts
BORDER_WEIGHT = 2.0

_focal = smp.losses.FocalLoss("binary", gamma=2.0)
_lovasz = smp.losses.LovaszLoss("binary", per_image=True)


def bce(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, mean over all pixels. `logits`, `target` (N, K, h, w), target 0..1; returns a scalar."""
    return F.binary_cross_entropy_with_logits(logits, target)


def _overlap(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft intersection and sum of areas, each (N,), in pixels."""
    probability = logits.sigmoid()
    axes = tuple(range(1, logits.ndim))
    return (probability * target).sum(axes), probability.sum(axes) + target.sum(axes)


def _dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Soft Dice of each image, (N,)."""
    intersection, areas = _overlap(logits, target)
    # 1 px keeps empty images defined and does not matter for others
    return (2 * intersection + 1) / (areas + 1)


def soft_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Soft Dice coefficient per image, mean over images, as the competition averages it. Returns a scalar 0..1."""
    return _dice(logits, target).mean()


def bce_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """BCE + (1 - soft Dice). Returns a scalar."""
    return bce(logits, target) + 1 - soft_dice(logits, target)


def bce_log_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """BCE - log(soft Dice), the logarithm image by image: images that are far off pull harder. Returns a scalar."""
    return bce(logits, target) - _dice(logits, target).log().mean()


def bce_jaccard(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """BCE + (1 - soft Jaccard coefficient), per image. Returns a scalar."""
    intersection, areas = _overlap(logits, target)
    return bce(logits, target) + 1 - ((intersection + 1) / (areas - intersection + 1)).mean()


def lovasz(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Lovasz hinge, the convex surrogate of the Jaccard index, per image. Returns a scalar.

    It is defined for hard masks only, so the target is thresholded at a coverage of 0.5.
    """
    return _lovasz(logits, (target > 0.5).to(logits.dtype))


def bce_lovasz(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """BCE + half the Lovasz hinge: from random weights the hinge alone is slow to begin. Returns a scalar."""
    return bce(logits, target) + 0.5 * lovasz(logits, target)


def focal_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Focal loss (gamma 2, both classes alike) + (1 - soft Dice). Returns a scalar."""
    return _focal(logits, target) + 1 - soft_dice(logits, target)


def border_weights(target: torch.Tensor) -> torch.Tensor:
    """What each pixel counts in `border_bce_dice`.

    Args:
        target: (N, K, h, w) coverage 0..1.

    Returns:
        Of the same shape: 1, and 1 + BORDER_WEIGHT within about half of BORDER_PX of the mask's border, then scaled
        to a mean of 1 over each image, so that the learning rate means the same as with plain BCE.
    """
    # pixels outside the image do not count, or its edges would be borders
    near = F.avg_pool2d(target, BORDER_PX, stride=1, padding=BORDER_PX // 2, count_include_pad=False)
    weights = 1 + BORDER_WEIGHT * ((near > 0.005) & (near < 0.995)).to(target.dtype)
    return weights / weights.mean(dim=(1, 2, 3), keepdim=True)


def border_bce_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """BCE that weighs the mask's border more, + (1 - soft Dice). Returns a scalar."""
    weighted = F.binary_cross_entropy_with_logits(logits, target, weight=border_weights(target))
    return weighted + 1 - soft_dice(logits, target)


LOSSES: dict[str, Loss] = {
    "bce": bce,
    "bce-dice": bce_dice,
    "bce-log-dice": bce_log_dice,
    "bce-jaccard": bce_jaccard,
    "lovasz": lovasz,
    "bce-lovasz": bce_lovasz,
    "focal-dice": focal_dice,
    "border-bce-dice": border_bce_dice,
}


def find_loss(name: str) -> Loss:
    """The loss of that name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    try:
        return LOSSES[name]
    except KeyError:
        raise UserError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}.") from None
