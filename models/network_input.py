"""From decoded images to what a network takes."""

from __future__ import annotations

import torch

from models.variant import Variant

# of red, green and blue, ITU-R BT.601: what a grey image is
_LUMA = (0.299, 0.587, 0.114)


def _by_channel(values: tuple[float, ...], variant: Variant) -> tuple[float, ...]:
    """One value a channel; those of one image serve for each of several that are stacked."""
    if variant.in_channels % len(values):
        raise ValueError(f"{variant.name} has {len(values)} values for {variant.in_channels} channels")
    return values * (variant.in_channels // len(values))


def normalise(images: torch.Tensor, variant: Variant) -> torch.Tensor:
    """Scale to 0..1, subtract the variant's mean, divide by its standard deviation.

    Args:
        images: (N, h, w, C) uint8, on any device.
        variant: whose mean and std.

    Returns:
        (N, C, h, w) float32 on the same device, in channels_last memory format.
    """
    mean = torch.tensor(_by_channel(variant.mean, variant), device=images.device) * 255
    scale = 1 / (torch.tensor(_by_channel(variant.std, variant), device=images.device) * 255)
    values = images.float()
    if variant.in_channels == 1 and values.shape[3] == 3:
        values = (values * values.new_tensor(_LUMA)).sum(3, keepdim=True)
    # the permuted view of a (N, h, w, C) tensor is channels_last already: no copy
    return values.sub_(mean).mul_(scale).permute(0, 3, 1, 2)
