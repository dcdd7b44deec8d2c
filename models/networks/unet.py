"""U-Nets from scratch, as systems A, B, C and E trained them: pooling down, skips concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F

Block = Literal["convs", "dense"]
Upsampling = Literal["nearest", "transposed"]


def _convs(in_channels: int, channels: int, count: int) -> torch.nn.Sequential:
    """`count` times: 3x3 convolution with bias, batch norm, relu."""
    layers: list[torch.nn.Module] = []
    for _ in range(count):
        layers += [
            torch.nn.Conv2d(in_channels, channels, 3, padding=1),
            torch.nn.BatchNorm2d(channels),
            torch.nn.ReLU(inplace=True),
        ]
        in_channels = channels
    return torch.nn.Sequential(*layers)


class DenseBlock(torch.nn.Module):
    """Convolutions whose output is concatenated with their input, brought back to `channels` planes by 1x1.

    Without the 1x1 the planes would pile up on the way to full resolution, where each is most expensive.
    """

    def __init__(self, in_channels: int, channels: int, count: int) -> None:
        super().__init__()
        self.convs = _convs(in_channels, channels, count)
        self.transition = torch.nn.Conv2d(in_channels + channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, h, w) to (N, channels, h, w)."""
        return self.transition(torch.cat([x, self.convs(x)], 1))


class UNet(torch.nn.Module):
    """A U-Net with batch norm.

    Maps (N, in_channels, h, w) float to logits (N, out_channels, h, w); h and w divisible by `divisor`.

    Args:
        in_channels, out_channels: planes of input and logits.
        widths: planes of each level, full resolution first, the centre last.
        down, up: convolutions of a level on the way down (and in the centre) and on the way up.
        block: "convs" in a row, or "dense".
        upsampling: "nearest" neighbour, or 3x3 "transposed" convolutions to the planes of the level they lead to.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int],
        down: int = 2,
        up: int = 2,
        block: Block = "convs",
        upsampling: Upsampling = "nearest",
    ) -> None:
        super().__init__()
        make = DenseBlock if block == "dense" else _convs
        before = (in_channels, *widths)
        self.down = torch.nn.ModuleList(make(before[i], width, down) for i, width in enumerate(widths))
        levels = list(reversed(range(len(widths) - 1)))
        transposed = upsampling == "transposed"
        self.up = torch.nn.ModuleList(make(widths[i] + widths[i + (not transposed)], widths[i], up) for i in levels)
        self.enlarge: torch.nn.ModuleList | None = None
        if transposed:
            self.enlarge = torch.nn.ModuleList(
                torch.nn.ConvTranspose2d(widths[i + 1], widths[i], 3, stride=2, padding=1, output_padding=1)
                for i in levels
            )
        self.logits = torch.nn.Conv2d(widths[0], out_channels, 1)

    @staticmethod
    def divisor(widths: Sequence[int]) -> int:
        """What height and width must be divisible by."""
        return int(2 ** (len(widths) - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, h, w) to logits (N, out_channels, h, w)."""
        skips = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for level, block in enumerate(self.up):
            larger = (
                F.interpolate(x, scale_factor=2.0, mode="nearest") if self.enlarge is None else self.enlarge[level](x)
            )
            x = block(torch.cat([skips.pop(), larger], 1))
        return self.logits(x)
