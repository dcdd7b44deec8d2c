"""A U-Net for small images that costs little: its pixels are folded into planes before the first convolution.

Squares of `fold` x `fold` pixels become planes of one pixel, and the planes of the last convolution become such squares
again, so the logits have the full resolution and no convolution has to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from models.networks.half_size_encoder import HalfSizeEncoder


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


def _doubling(weight: torch.Tensor) -> torch.Tensor:
    """Kernels (in, out, 4, 4) of a transposed convolution, stride 2, padding 1, which does to planes what a 3x3
    convolution by `weight` (out, in, 3, 3) does to them at twice the size, each pixel repeated two by two.

    A pixel meets the kernel once for each of its repetitions, at places one apart.
    """
    turned = weight.flip(2, 3)
    places = ((0, 1, 0, 1), (0, 1, 1, 0), (1, 0, 0, 1), (1, 0, 1, 0))
    return torch.stack([F.pad(turned, place) for place in places]).sum(0).transpose(0, 1)


class _Up(torch.nn.Sequential):
    """A 3x3 convolution of the planes from below, at twice their size, and of those beside them; norm; relu."""

    def __init__(self, below: int, beside: int, channels: int) -> None:
        super().__init__(*_conv(below + beside, channels))

    def forward(self, x: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """(N, below, h, w) and (N, beside, H, W) to (N, channels, H, W).

        In training on a CPU no plane is doubled: a transposed convolution does what the convolution would, with four
        multiplications for each value instead of nine, and nothing is copied. Values and gradients are the same up to
        rounding, a step takes 0.77 of the time (benchmarks/folded_steps.py). Otherwise the layers are plain ones, which
        exports and other runtimes know best; on a GPU the two have not been held against each other.
        """
        conv, norm, activation = self
        doubles = beside.shape[-2:] == (2 * x.shape[-2], 2 * x.shape[-1])
        if self.training and doubles and x.device.type == "cpu":
            weight: torch.Tensor = conv.weight  # type: ignore[assignment]
            planes = x.shape[1]
            below = F.conv_transpose2d(x, _doubling(weight[:, :planes]), stride=2, padding=1)
            out = below + F.conv2d(beside, weight[:, planes:], padding=1)
        else:
            # not twice the size where a scale of test-time augmentation makes one that pooling does not divide
            out = conv(torch.cat([F.interpolate(x, size=beside.shape[-2:]), beside], 1))
        activated: torch.Tensor = activation(norm(out))
        return activated


class FoldedUNet(torch.nn.Module):
    """A U-Net of residual blocks on folded pixels, with batch norm.

    Maps (N, in_channels, h, w) float to logits (N, out_channels, h, w); h and w divisible by `fold`, and where nothing
    is to be lost in pooling by `divisor`.

    Args:
        in_channels, out_channels: planes of input and logits.
        widths: planes of each level, the finest first, the centre last.
        fold: side of the squares of pixels that become planes.
        labels: logits of the whole image, from the centre; with them, `forward` returns masks and labels.
        encoder: timm's name of an encoder that sees the image at half its size and whose planes join those of the
            levels of their size on the way down; none where it is empty.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int],
        fold: int,
        labels: int = 0,
        encoder: str = "",
    ) -> None:
        super().__init__()
        self.fold = fold
        self.stem = _conv(in_channels * fold**2, widths[0])
        self.encoder = HalfSizeEncoder(encoder, in_channels) if encoder else None
        joined = self.encoder.planes if self.encoder else {}
        self.down = torch.nn.ModuleList(
            _Residual(before + joined.get(fold * 2**level, 0), width)
            for level, (before, width) in enumerate(zip((widths[0], *widths[:-1]), widths, strict=True))
        )
        self.up = torch.nn.ModuleList(
            _Up(widths[i + 1], widths[i], widths[i]) for i in reversed(range(len(widths) - 1))
        )
        self.logits = torch.nn.Conv2d(widths[0], out_channels * fold**2, 3, padding=1)
        self.labels = torch.nn.Linear(2 * widths[-1], labels) if labels else None

    @staticmethod
    def divisor(widths: Sequence[int], fold: int) -> int:
        """What height and width of a variant must be divisible by, so that every level is half of the one before."""
        return int(fold * 2 ** (len(widths) - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """(N, in_channels, h, w) to logits (N, out_channels, h, w); and with labels to those too, (N, labels)."""
        encoded = self.encoder(x) if self.encoder else {}
        x = self.stem(F.pixel_unshuffle(x, self.fold))
        kept: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            x = F.max_pool2d(x, 2) if level else x
            joins = encoded.get(self.fold * 2**level)
            if joins is not None:
                # another size where a scale of test-time augmentation makes one that pooling does not divide
                same = joins.shape[-2:] == x.shape[-2:]
                x = torch.cat([x, joins if same else F.interpolate(joins, size=x.shape[-2:])], 1)
            x = block(x)
            kept.append(x)
        x = kept.pop()
        centre = x
        for block in self.up:
            x = block(x, kept.pop())
        masks = F.pixel_shuffle(self.logits(x), self.fold)
        if self.labels is None:
            return masks
        # what is there somewhere, and what is there everywhere
        return masks, self.labels(torch.cat([centre.amax((2, 3)), centre.mean((2, 3))], 1))
