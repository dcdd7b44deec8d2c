"""From a variant to a network."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch

from command_line import UserError
from models.networks.average_mask import AverageMask
from models.variants import Variant

# our own networks; each takes the variant and returns a module (N, C, h, w) -> logits (N, K, h, w)
NETWORKS: dict[str, Callable[[Variant], torch.nn.Module]] = {
    "average-mask": lambda variant: AverageMask(variant.size),
}


def build(variant: Variant, *, pretrained: bool = True) -> torch.nn.Module:
    """Build a variant's network.

    Args:
        variant: what to build.
        pretrained: start the encoder from `variant.weights`; False leaves it at random, as when a checkpoint is
            loaded next.

    Returns:
        Module that maps (N, in_channels, h, w) float to logits (N, out_channels, h, w).

    Raises:
        UserError: the network is unknown, or the encoder's weights cannot be had.
    """
    if variant.network != "smp":
        if variant.network not in NETWORKS:
            raise UserError(f"unknown network {variant.network!r}; known: smp, {', '.join(NETWORKS)}.")
        return NETWORKS[variant.network](variant)
    weights = None if variant.weights == "none" or not pretrained else variant.weights
    return smp.create_model(
        variant.architecture,
        encoder_name=variant.encoder,
        encoder_weights=weights,
        in_channels=variant.in_channels,
        classes=variant.out_channels,
        **variant.options,
    )


def parameter_count(network: torch.nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
