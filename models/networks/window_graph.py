"""A windowed network as a graph, for exports: the window is cut out where and as large as the image asks for.

Sizes that depend on what is in the image are symbols while the graph is made, so it computes what the network itself
does, window by window, and costs as little.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.networks.windowed_unet import OUTSIDE, SEEN, WindowedUNet, margin_px, unwindowed
from models.taps import counted, floor_div


def graph_of_network(network: torch.nn.Module) -> torch.nn.Module:
    """A windowed network in evaluation as one that can be exported, with some layers replaced; another as it is."""
    if not isinstance(network, WindowedUNet):
        return network
    _prepare(network)
    return WindowGraph(network)


class WindowGraph(torch.nn.Module):
    """A windowed network that computes one image, and whose operations do not depend on what is in it.

    Of a size that the network's step does not divide, as a scale of test-time augmentation makes it, the whole image is
    computed.

    Args:
        windowed: the network, in evaluation.
    """

    def __init__(self, windowed: WindowedUNet) -> None:
        super().__init__()
        self.windowed = windowed
        self._everywhere = unwindowed(windowed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, in_channels, h, w) to logits (1, out_channels, h, w)."""
        step = self.windowed.step
        if any(side % step for side in x.shape[2:]):
            whole: torch.Tensor = self._everywhere(x)
            return whole
        seen = self.windowed.finder(self.windowed.reduced(x))[0, 0] > SEEN
        margin = margin_px((x.shape[2], x.shape[3]))
        rows = _window(seen.any(1), x.shape[2], margin, step)
        columns = _window(seen.any(0), x.shape[3], margin, step)
        inner = self.windowed.network(x[:, :, rows][:, :, :, columns])
        return _put_back(_put_back(inner, rows, 2, x.shape[2]), columns, 3, x.shape[3])


def _window(seen: torch.Tensor, whole: int, margin: int, step: int) -> torch.Tensor:
    """The pixels of a row that the window holds, (n,) int64, n a multiple of `step`.

    Args:
        seen: (cells,) bool, of the finder.
        whole: pixels in the row, a multiple of `step`.
        margin: pixels that the window has at least around what is seen.
        step: pixels.
    """
    cells = len(seen)
    which = torch.arange(cells)
    first = torch.where(seen, which, cells).amin(0)
    last = torch.where(seen, which, -1).amax(0)
    start = (floor_div(first * whole, cells) - margin).clamp(min=0)
    stop = (-floor_div(-(last + 1) * whole, cells) + margin).clamp(max=whole)
    nowhere = last < 0
    start, stop = torch.where(nowhere, 0, start), torch.where(nowhere, whole, stop)
    steps = -floor_div(start - stop, step)
    length = steps * step
    begin = torch.minimum(floor_div(start + stop - length, 2).clamp(min=0), whole - length)
    return begin + torch.arange(step * counted(steps, whole // step))


def _put_back(planes: torch.Tensor, window: torch.Tensor, axis: int, whole: int) -> torch.Tensor:
    """Planes of a window along one axis as those of the whole, which say outside of it that nothing is there."""
    at = torch.arange(whole) - window[0]
    inside = (at >= 0) & (at < window.shape[0])
    found = planes.index_select(axis, torch.where(inside, at, 0))
    return torch.where(inside[:, None] if axis == 2 else inside, found, OUTSIDE)


class _SamePadding(torch.nn.Module):
    """A convolution padded as TensorFlow does it, for sizes that are symbols: those are multiples of its stride."""

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the convolution."""
        conv = self.conv
        sides: list[int] = []
        for size, kernel, stride, spread in zip(x.shape[2:], conv.kernel_size, conv.stride, conv.dilation, strict=True):
            steps_px = (-(-size // stride) - 1) * stride - size if isinstance(size, int) else -stride
            more = max(steps_px + spread * (kernel - 1) + 1, 0)
            sides = [more // 2, more - more // 2, *sides]
        return F.conv2d(F.pad(x, sides), conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def _prepare(network: torch.nn.Module) -> None:
    """Make a windowed network one whose graph is small: norms become a part of the convolutions before them, and those
    that compute their padding from the size do so from symbols too. Its logits stay the same up to rounding."""
    # they take seconds, and who exports nothing does without
    import models.torchvision_compat  # noqa: F401

    from timm.layers import Conv2dSame

    for part in list(network.modules()):
        # their order is that in which our own networks, and timm's of EfficientNet's kind, call them
        layers = list(part.named_children())
        for (name, layer), (after, norm) in pairwise([*layers, ("", None)]):
            if isinstance(layer, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                layer = fuse_conv_bn_eval(layer, norm)
                # timm's norms are followed by an activation of their own
                setattr(part, after, getattr(norm, "act", torch.nn.Identity()))
                setattr(part, name, layer)
            if isinstance(layer, Conv2dSame):
                setattr(part, name, _SamePadding(layer))
