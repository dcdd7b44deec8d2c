"""The second baseline of system A: three convolutions, no pooling."""

from __future__ import annotations

import torch


class SimpleCNN(torch.nn.Sequential):
    """3x3 to 16 planes, 3x3 to 32, 5x5 to the logits; sees 9 px around.

    Maps (N, in_channels, h, w) float to logits (N, out_channels, h, w) of any size.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            torch.nn.Conv2d(in_channels, 16, 3, padding=1),
            torch.nn.ReLU(inplace=True),
            torch.nn.Conv2d(16, 32, 3, padding=1),
            torch.nn.ReLU(inplace=True),
            torch.nn.Conv2d(32, out_channels, 5, padding=2),
        )
