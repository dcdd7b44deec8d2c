"""A U-Net for small images that costs little: its pixels are folded into planes before the first convolution.

Squares of `fold` x `fold` pixels become planes of one pixel, and the planes of the last convolution become such squares
again, so the logits have the full resolution and no convolution has to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def _conv(in_channels: int, channels: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(channels),
        torch.nn.ReLU(inplace=True),
    )


class _Residual(torch.nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.first = _conv(in_channels, channels)
        self.second = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(channels)
        same = in_channels == channels
        self.shortcut = torch.nn.Identity() if same else torch.nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.shortcut(x) + self.norm(self.second(self.first(x))))


class FoldedUNet(torch.nn.Module):
    """A U-Net of residual blocks on folded pixels, with batch norm.

    Maps (N, in_channels, h, w) float to logits (N, out_channels, h, w); h and w divisible by `fold`, and where nothing
    is to be lost in pooling by `divisor`.

    Args:
        in_channels, out_channels: planes of input and logits.
        widths: planes of each level, the finest first, the centre last.
        fold: side of the squares of pixels that become planes.
        labels: logits of the whole image, from the centre; with them, `forward` returns masks and labels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, widths: Sequence[int], fold: int, labels: int = 0
    ) -> None:
        super().__init__()
        self.fold = fold
        self.stem = _conv(in_channels * fold**2, widths[0])
        self.down = torch.nn.ModuleList(
            _Residual(before, width) for before, width in zip((widths[0], *widths[:-1]), widths, strict=True)
        )
        self.up = torch.nn.ModuleList(
            _conv(widths[i] + widths[i + 1], widths[i]) for i in reversed(range(len(widths) - 1))
        )
        self.logits = torch.nn.Conv2d(widths[0], out_channels * fold**2, 3, padding=1)
        self.labels = torch.nn.Linear(2 * widths[-1], labels) if labels else None

    @staticmethod
    def divisor(widths: Sequence[int], fold: int) -> int:
        """What height and width of a variant must be divisible by, so that every level is half of the one before."""
        return int(fold * 2 ** (len(widths) - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """(N, in_channels, h, w) to logits (N, out_channels, h, w); and with labels to those too, (N, labels)."""
        x = self.stem(F.pixel_unshuffle(x, self.fold))
        kept: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            kept.append(x)
        x = kept.pop()
        centre = x
        for block in self.up:
            beside = kept.pop()
            # twice the size, but where scales of test-time augmentation make one that pooling does not divide
            x = block(torch.cat([F.interpolate(x, size=beside.shape[-2:]), beside], 1))
        masks = F.pixel_shuffle(self.logits(x), self.fold)
        if self.labels is None:
            return masks
        # what is there somewhere, and what is there everywhere
        return masks, self.labels(torch.cat([centre.amax((2, 3)), centre.mean((2, 3))], 1))
