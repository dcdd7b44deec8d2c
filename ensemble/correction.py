"""The network of the convolutional stacker: what it adds to a linear blend, and what it is given."""

from __future__ import annotations

import numpy as np
import torch

# logits of this size become inputs of size 1
_SCALE = 4.0
# of the image's channels, 0 .. 255, red, green, blue: as encoders take them
_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
_STD = np.array([58.395, 57.12, 57.375], np.float32)


def stacked_inputs(logits: torch.Tensor, image: np.ndarray | None) -> torch.Tensor:
    """(B, M or M + 3, h, w) float32 from logits (B, M, h, w) and images (B, h, w, 3) uint8 RGB."""
    scaled = logits / _SCALE
    if image is None:
        return scaled
    colours = torch.from_numpy((image - _MEAN) / _STD).permute(0, 3, 1, 2)
    return torch.cat((scaled, colours), 1)


class Correction(torch.nn.Sequential):
    """(B, planes, h, w) to (B, 1, h, w); 0 everywhere until it is fitted."""

    def __init__(self, planes: int, channels: int) -> None:
        def convolution(inputs: int, outputs: int) -> torch.nn.Conv2d:
            return torch.nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate")

        last = convolution(channels, 1)
        torch.nn.init.zeros_(last.weight)
        assert last.bias is not None
        torch.nn.init.zeros_(last.bias)
        super().__init__(
            convolution(planes, channels), torch.nn.ReLU(), convolution(channels, channels), torch.nn.ReLU(), last
        )
