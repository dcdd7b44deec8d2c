"""From decoded frames to what a network takes."""

from __future__ import annotations

import torch

from models.variants import Variant


def normalise(frames: torch.Tensor, variant: Variant) -> torch.Tensor:
    """Scale to 0..1, subtract the variant's mean, divide by its standard deviation.

    Args:
        frames: (N, h, w, C) uint8, on any device.
        variant: whose mean and std.

    Returns:
        (N, C, h, w) float32 on the same device, in channels_last memory format.
    """
    mean = torch.tensor(variant.mean, device=frames.device) * 255
    scale = 1 / (torch.tensor(variant.std, device=frames.device) * 255)
    # the permuted view of a (N, h, w, C) tensor is channels_last already: no copy
    return ((frames.float() - mean) * scale).permute(0, 3, 1, 2)
