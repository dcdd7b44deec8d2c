"""A folded U-Net on the part of the frame that matters, which a small one beside it finds in a reduced frame.

Objects fill a part of their frames: cars with a margin 0.42 of Carvana's. The rest costs as much as they do and teaches
nothing; without it a step takes 0.54 of the time, a prediction 0.44 (benchmarks/windows.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from competition import Size
from models.networks.folded_unet import FoldedUNet

Pass = Callable[[torch.Tensor], torch.Tensor]

# pixels in a row that the finder sees as one
_REDUCTION = 8
# logit above which the finder's cell holds something. A lower one loses no less with as large windows, but the finder
# says 0.2 everywhere until it has seen more than a thousand images
SEEN = 0.0
# what a window has at least around it, as the finder misses what is small: a part of the longer side, 48 of 1920 px
_MARGIN = 1 / 40
# the logit of what lies outside of the window: 6e-6
OUTSIDE = -12.0
# images that train on windows of one size: more of them waste pixels, and batch norm takes its statistics from them
_TOGETHER = 2


def margin_px(size: Size) -> int:
    return round(max(size) * _MARGIN)


def _span(cells: torch.Tensor, whole: int, margin: int) -> tuple[int, int]:
    """First pixel and the one after the last that a window must hold, from (n,) bool over `whole` pixels in a row.

    >>> _span(torch.tensor([False, False, True, False, False, False, False, False, False, False]), 300, 48)
    (12, 138)
    """
    seen = cells.nonzero().flatten().tolist()
    if not seen:
        return 0, whole
    first, last = seen[0] * whole / len(cells), (seen[-1] + 1) * whole / len(cells)
    return max(math.floor(first) - margin, 0), min(math.ceil(last) + margin, whole)


def _slices(spans: Sequence[tuple[int, int]], whole: int, step: int) -> list[slice]:
    """Windows of one length, a multiple of `step` unless that is more than `whole`, each with its span in it.

    >>> _slices([(28, 122), (200, 300)], 300, 32)
    [slice(11, 139, None), slice(172, 300, None)]
    """
    length = min(max(-(-(stop - start) // step) for start, stop in spans) * step, whole)
    starts = (min(max((start + stop - length) // 2, 0), whole - length) for start, stop in spans)
    return [slice(start, start + length) for start in starts]


class WindowedUNet(torch.nn.Module):
    """A folded U-Net on a window of each image, and the small one that finds it.

    Maps (N, in_channels, h, w) float to logits (N, out_channels, h, w), which outside of the window say that nothing is
    there. Where the finder sees nothing, the window is the whole image: so it is until it has learned.

    In training the finder learns from `finder_loss`, which takes the targets of the last pass, and images of a batch
    that have similar windows get windows of one size, two by two. In prediction every image has its own, and its logits
    do not depend on the others'.

    Args:
        in_channels, out_channels: planes of input and logits.
        widths, fold, encoder: of the network (models/networks/folded_unet.py).
        finder_widths, finder_fold: of the finder.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int],
        fold: int,
        finder_widths: Sequence[int],
        finder_fold: int,
        encoder: str = "",
    ) -> None:
        super().__init__()
        self.finder = FoldedUNet(in_channels, 1, widths=finder_widths, fold=finder_fold)
        self.network = FoldedUNet(in_channels, out_channels, widths=widths, fold=fold, encoder=encoder)
        self.step = FoldedUNet.divisor(widths, fold)
        self._finder_step = FoldedUNet.divisor(finder_widths, finder_fold)
        self._found: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, h, w) to logits (N, out_channels, h, w)."""
        return self.through(self.finder, self.network, x)

    def through(self, finder: Pass, network: Pass, x: torch.Tensor) -> torch.Tensor:
        """The same, where something else computes the two networks."""
        found = finder(self.reduced(x))
        if self.training:
            self._found = found
        logits: dict[int, torch.Tensor] = {}
        for numbers, windows in self._windows(found, (x.shape[-2], x.shape[-1])):
            inner = network(torch.cat([x[n : n + 1, :, r, c] for n, (r, c) in zip(numbers, windows, strict=True)]))
            for n, (r, c), plane in zip(numbers, windows, inner, strict=True):
                sides = (c.start, x.shape[-1] - c.stop, r.start, x.shape[-2] - r.stop)
                logits[n] = F.pad(plane, sides, value=OUTSIDE)
        return torch.stack([logits[n] for n in range(len(x))])

    def share(self, x: torch.Tensor) -> float:
        """The share of (N, in_channels, h, w) that its windows hold, 0..1."""
        groups = self._windows(self.finder(self.reduced(x)), (x.shape[-2], x.shape[-1]))
        held = sum((r.stop - r.start) * (c.stop - c.start) for _, windows in groups for r, c in windows)
        return held / (len(x) * x.shape[-2] * x.shape[-1])

    def reduced(self, x: torch.Tensor) -> torch.Tensor:
        """What the finder sees of (N, in_channels, h, w)."""
        step = self._finder_step
        height, width = (max(1, round(side / _REDUCTION / step)) * step for side in x.shape[-2:])
        return F.interpolate(x, size=(height, width), mode="area")

    def _windows(self, found: torch.Tensor, size: Size) -> list[tuple[list[int], list[tuple[slice, slice]]]]:
        """Images by number, and the rows and columns of each, in groups whose windows have one size.

        Args:
            found: (N, 1, h', w') logits of the finder.
            size: (h, w) of the images.
        """
        if found.is_meta:
            # where nothing is computed but shapes, all see all
            whole = slice(0, size[0]), slice(0, size[1])
            return [([n], [whole]) for n in range(len(found))]
        cells = (found.detach()[:, 0] > SEEN).cpu()
        margin = margin_px(size)
        spans = [(_span(one.any(1), size[0], margin), _span(one.any(0), size[1], margin)) for one in cells]
        order = list(range(len(spans)))
        together = 1
        if self.training:
            together = _TOGETHER
            order.sort(key=lambda n: [stop - start for start, stop in reversed(spans[n])])
        groups = []
        for first in range(0, len(order), together):
            numbers = order[first : first + together]
            rows, columns = (_slices([spans[n][axis] for n in numbers], size[axis], self.step) for axis in range(2))
            groups.append((numbers, list(zip(rows, columns, strict=True))))
        return groups

    def finder_loss(self, wanted: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of what the finder said in the last pass of training, a scalar; that is forgotten then.

        Args:
            wanted: (N, K, h, w) targets 0..1. A cell holds something where any of its pixels does, in any plane.
        """
        assert self._found is not None
        found, self._found = self._found.float(), None
        cells = F.adaptive_max_pool2d(wanted.amax(1, keepdim=True), found.shape[-2:])
        return F.binary_cross_entropy_with_logits(found, cells)


def unwindowed(network: torch.nn.Module) -> torch.nn.Module:
    """A windowed network as one that computes the whole image; another as it is.

    Its shapes do not depend on what is in the image, so it can be exported, and its planes have an image's proportions.
    """
    return _Everywhere(network) if isinstance(network, WindowedUNet) else network


class _Everywhere(torch.nn.Module):
    """A windowed network without windows: the whole image is computed, and what lies outside is overwritten.

    Near the border of the window logits are a little other ones than with it, as the network sees beyond.
    """

    def __init__(self, windowed: WindowedUNet) -> None:
        super().__init__()
        self.windowed = windowed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, h, w) to logits (N, out_channels, h, w)."""
        seen = (self.windowed.finder(self.windowed.reduced(x)) > SEEN).to(x.dtype)
        margin = margin_px((x.shape[-2], x.shape[-1]))
        rows = _between(seen.amax(3), x.shape[-2], margin)[:, :, :, None]
        columns = _between(seen.amax(2), x.shape[-1], margin)[:, :, None, :]
        return torch.where((rows * columns) > 0, self.windowed.network(x), OUTSIDE)


def _between(seen: torch.Tensor, whole: int, margin: int) -> torch.Tensor:
    """(N, 1, whole) of 1 from the first 1 to the last of (N, 1, n), with the margin; all 1 where there is none."""
    after = seen.cumsum(2)
    before = seen.flip(2).cumsum(2).flip(2)
    inside = ((after * before > 0) | (seen.amax(2, keepdim=True) == 0)).to(seen.dtype)
    spread = F.interpolate(inside, size=whole, mode="nearest")
    return F.max_pool1d(spread, 2 * margin + 1, stride=1, padding=margin)
