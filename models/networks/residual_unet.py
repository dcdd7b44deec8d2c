"""A residual U-Net with one encoder and a decoder for each head, after system D; small widths make it fit a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F


class ResidualBlock(torch.nn.Module):
    """Two 3x3 convolutions with batch norm beside a way past them, 1x1 where the number of planes changes."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.convs = torch.nn.Sequential(
            torch.nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(channels),
            torch.nn.ReLU(inplace=True),
            torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(channels),
        )
        self.past: torch.nn.Module = torch.nn.Identity()
        if in_channels != channels:
            self.past = torch.nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, h, w) to (N, channels, h, w)."""
        return F.relu(self.convs(x) + self.past(x))


class Decoder(torch.nn.Module):
    """From the features of every level to a head's logits: 2x2 transposed convolutions up, skips concatenated."""

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        levels = list(reversed(range(len(widths) - 1)))
        self.up = torch.nn.ModuleList(torch.nn.ConvTranspose2d(widths[i + 1], widths[i], 2, stride=2) for i in levels)
        self.blocks = torch.nn.ModuleList(ResidualBlock(2 * widths[i], widths[i]) for i in levels)
        self.logits = torch.nn.Conv2d(widths[0], channels, 1)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """(N, widths[i], h / 2^i, w / 2^i) of every level to (N, channels, h, w)."""
        x = features[-1]
        for up, block, skip in zip(self.up, self.blocks, reversed(features[:-1]), strict=True):
            x = block(torch.cat([skip, up(x)], 1))
        return self.logits(x)


class ResidualUNet(torch.nn.Module):
    """Residual blocks, 3x3 convolutions of stride 2 down, and a decoder of its own for each head.

    Maps (N, in_channels, h, w) float to logits (N, sum(heads), h, w); h and w divisible by `divisor`.

    Args:
        in_channels: planes of the input.
        heads: planes of each head, in the order of the output.
        widths: planes of each level, full resolution first.
    """

    def __init__(self, in_channels: int, heads: Sequence[int], *, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = ResidualBlock(in_channels, widths[0])
        self.down = torch.nn.ModuleList(
            torch.nn.Conv2d(before, width, 3, stride=2, padding=1) for before, width in pairwise(widths)
        )
        self.blocks = torch.nn.ModuleList(ResidualBlock(width, width) for width in widths[1:])
        self.decoders = torch.nn.ModuleList(Decoder(widths, channels) for channels in heads)

    @staticmethod
    def divisor(widths: Sequence[int]) -> int:
        """What height and width must be divisible by."""
        return int(2 ** (len(widths) - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, h, w) to logits (N, sum(heads), h, w)."""
        features = [self.stem(x)]
        for down, block in zip(self.down, self.blocks, strict=True):
            features.append(block(F.relu(down(features[-1]))))
        return torch.cat([decoder(features) for decoder in self.decoders], 1)
