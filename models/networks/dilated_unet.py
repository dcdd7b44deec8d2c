"""The idea of Carvana's 3rd place: a shallow U-Net without batch norm whose centre sees far by dilation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def _conv(in_channels: int, channels: int, dilation: int = 1) -> torch.nn.Sequential:
    conv = torch.nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation)
    # nothing normalises the activations here, so their scale must survive every layer from the start
    torch.nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    torch.nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return torch.nn.Sequential(conv, torch.nn.ReLU(inplace=True))


def _pair(in_channels: int, channels: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(_conv(in_channels, channels), _conv(channels, channels))


class DilatedUNet(torch.nn.Module):
    """Three poolings only; the centre is a chain of dilated convolutions whose outputs are added up.

    No batch norm, so a batch may be one image. 8.5 M parameters with the default widths.
    Maps (N, in_channels, h, w) float to logits (N, out_channels, h, w); h and w divisible by `divisor`.

    Args:
        in_channels, out_channels: planes of input and logits.
        widths: planes of each level, full resolution first, the centre last.
        dilations: of the centre's convolutions, one after the other.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int] = (44, 88, 176, 352),
        dilations: Sequence[int] = (1, 2, 4, 8, 16, 32),
    ) -> None:
        super().__init__()
        before = (in_channels, *widths)
        self.down = torch.nn.ModuleList(_pair(before[i], width) for i, width in enumerate(widths[:-1]))
        self.centre = torch.nn.ModuleList(
            _conv(widths[-1] if i else widths[-2], widths[-1], dilation) for i, dilation in enumerate(dilations)
        )
        levels = list(reversed(range(len(widths) - 1)))
        self.widen = torch.nn.ModuleList(_conv(widths[i + 1], widths[i]) for i in levels)
        self.up = torch.nn.ModuleList(_pair(2 * widths[i], widths[i]) for i in levels)
        self.logits = torch.nn.Conv2d(widths[0], out_channels, 1)
        self._terms = len(dilations)

    @staticmethod
    def divisor(widths: Sequence[int] = (44, 88, 176, 352)) -> int:
        """What height and width must be divisible by."""
        return int(2 ** (len(widths) - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, h, w) to logits (N, out_channels, h, w)."""
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        total: torch.Tensor | None = None
        for conv in self.centre:
            x = conv(x)
            total = x if total is None else total + x
        assert total is not None
        # the mean rather than the sum keeps the scale of one branch
        x = total / self._terms
        for widen, block in zip(self.widen, self.up, strict=True):
            x = widen(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = block(torch.cat([skips.pop(), x], 1))
        return self.logits(x)
