"""Losses on logits, for soft targets (coverage 0..1).

Every overlap is taken image by image and averaged, as the competition scores it; the losses of
segmentation-models-pytorch take it over the whole batch, so only those without an overlap come from there, and
Lovasz, which it offers image by image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F

from command_line import UserError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# a pixel counts as border where the coverage around it, in a square of this side, is neither all nor nothing
BORDER_PX = 11
# how much more a pixel at the border counts
BORDER_WEIGHT = 2.0

# side and standard deviation of the Gaussian window that SSIM is taken in
SSIM_WINDOW_PX, SSIM_SIGMA_PX = 11, 1.5
# where the smooth L1 loss turns from square to absolute; at the usual 1 it would be half the square throughout 0..1
SMOOTH_L1_BETA = 0.1


@cache
def _of_smp(name: str) -> Loss:
    # imported where such a loss is taken: it takes seconds, and whoever scores depth takes none
    import models.torchvision_compat  # noqa: F401

    from segmentation_models_pytorch.losses import FocalLoss, LovaszLoss

    loss: Loss = FocalLoss("binary", gamma=2.0) if name == "focal" else LovaszLoss("binary", per_image=True)
    return loss


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
    return _of_smp("lovasz")(logits, (target > 0.5).to(logits.dtype))


def bce_lovasz(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """BCE + half the Lovasz hinge: from random weights the hinge alone is slow to begin. Returns a scalar."""
    return bce(logits, target) + 0.5 * lovasz(logits, target)


def focal_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Focal loss (gamma 2, both classes alike) + (1 - soft Dice). Returns a scalar."""
    return _of_smp("focal")(logits, target) + 1 - soft_dice(logits, target)


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


def dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice. Returns a scalar."""
    return 1 - soft_dice(logits, target)


def mse(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the sigmoid of the logits, for targets such as depth. Returns a scalar."""
    return F.mse_loss(logits.sigmoid(), target)


def rmse(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Root of the mean squared error of each image, mean over images. Returns a scalar."""
    squares = (logits.sigmoid() - target).square().flatten(1).mean(1)
    # a root has no slope at 0
    return (squares + 1e-8).sqrt().mean()


def smooth_l1(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Absolute error of the sigmoid of the logits, squared below SMOOTH_L1_BETA. Returns a scalar."""
    return F.smooth_l1_loss(logits.sigmoid(), target, beta=SMOOTH_L1_BETA)


def ssim(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each image, (N,), -1..1: in a Gaussian window of 11x11, sigma 1.5, wherever it fits.

    It is scikit-image's with Gaussian weights, without its sample covariance.

    Args:
        values, target: (N, K, h, w) float in 0..1, h and w at least 11.
    """
    import pytorch_msssim  # late, like the losses above

    # mixed precision would convolve in 16 bits, and SSIM is the difference of large, nearly equal sums
    with torch.autocast(values.device.type, enabled=False):
        found: torch.Tensor = pytorch_msssim.ssim(
            values.float(),
            target.float(),
            data_range=1.0,
            size_average=False,
            win_size=SSIM_WINDOW_PX,
            win_sigma=SSIM_SIGMA_PX,
        )
    return found


def dssim(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Structural dissimilarity, (1 - SSIM) / 2 of the sigmoid of the logits. Returns a scalar 0..1."""
    return (1 - ssim(logits.sigmoid(), target).mean()) / 2


def bce_ssim(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy above its least (that of the target itself), + structural dissimilarity. Returns a scalar."""
    least = (torch.special.entr(target) + torch.special.entr(1 - target)).mean()
    return bce(logits, target) - least + dssim(logits, target)


LOSSES: dict[str, Loss] = {
    "bce": bce,
    "dice": dice,
    "bce-dice": bce_dice,
    "bce-log-dice": bce_log_dice,
    "bce-jaccard": bce_jaccard,
    "lovasz": lovasz,
    "bce-lovasz": bce_lovasz,
    "focal-dice": focal_dice,
    "border-bce-dice": border_bce_dice,
    "mse": mse,
    "rmse": rmse,
    "smooth-l1": smooth_l1,
    "ssim": dssim,
    "bce-ssim": bce_ssim,
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
