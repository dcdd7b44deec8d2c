"""`Frame` as a part of a network's graph, for exports: from an image of any size to an input, and from logits back."""

from __future__ import annotations

import torch

from competition import Size
from models.frame import NEARLY, Frame
from models.taps import Taps, area, enlarged, linear, number, resampled, single, where


def as_bytes(image: torch.Tensor) -> torch.Tensor:
    """Values of any dtype rounded to uint8, as OpenCV rounds what it resizes."""
    return image.round().clamp(0, 255).to(torch.uint8)


class FrameGraph:
    """A frame that images go through whole, for one image: it resizes, or resizes what it does not nearly fit.

    An image is reduced by area from all its pixels, as `Frame.apply` does. `Frame.load` has the JPEG codec do the first
    halvings, which moves a value by 0.2 of 255 on average, and a mask's edge now and then.

    Args:
        frame: the network's.
        full: (H, W) of the image; while a graph is made, symbols that stand for them.

    Raises:
        ValueError: images larger than the frame go through it in tiles (predict/tile_graph.py).
    """

    def __init__(self, frame: Frame, full: Size) -> None:
        if frame.fit != "resize" and not (frame.whole and frame.fit == "pad"):
            raise ValueError(f"images larger than {frame} go through it in tiles")
        self._full, self._own = full, frame.size
        self._pads = None if frame.fit == "resize" else _nearly_fits(full, frame.size)

    def to_input(self, image: torch.Tensor) -> torch.Tensor:
        """(1, h, w, 3) uint8, from (H, W, 3) uint8 RGB."""
        small = [number(side) < own for side, own in zip(self._full, self._own, strict=True)]
        grows = small[0] | small[1]
        if self._pads is not None:
            grows = grows & ~self._pads
        rows, columns = (self._input_taps(side, own) for side, own in zip(self._full, self._own, strict=True))
        grown = enlarged(image, torch.arange(self._own[0]), torch.arange(self._own[1]), self._own)
        return as_bytes(torch.where(grows, grown, resampled(image, rows, columns)))[None]

    def _input_taps(self, side: int, own: int) -> Taps:
        """What each of the `own` rows is made of, of the `side` that an image has which is reduced or padded."""
        taps = side // own + 2
        reduced = area(side, own, taps)
        return reduced if self._pads is None else where(self._pads, single(torch.arange(own), side, taps), reduced)

    def to_full(self, logits: torch.Tensor) -> torch.Tensor:
        """(H, W) float32 logits, from (1, h, w)."""
        rows, columns = (self._full_taps(side, own) for side, own in zip(self._full, self._own, strict=True))
        return resampled(logits[0][..., None], rows, columns)[..., 0]

    def _full_taps(self, side: int, own: int) -> Taps:
        """What each of an image's `side` rows is made of, of the `own` of the logits."""
        rows = torch.arange(side)
        resized = linear(rows, own, side)
        return resized if self._pads is None else where(self._pads, single(rows, own, 2), resized)


def _nearly_fits(full: Size, own: Size) -> torch.Tensor:
    """Whether an image is padded instead of resized, () bool, as `Frame.of` decides."""
    fits = [
        (number(side) <= most) & (number(side).double() >= NEARLY * most) for side, most in zip(full, own, strict=True)
    ]
    return fits[0] & fits[1]
