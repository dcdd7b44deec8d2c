"""`Frame` as a part of a network's graph, for exports: from a full image to an input, and from logits back."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from competition import Size
from models.frame import Frame


def area_weights(source: int, target: int) -> np.ndarray:
    """What each of `source` pixels in a row counts in each of `target` pixels that cover the same length.

    Returns:
        (target, source) float32; each row sums to 1.

    >>> area_weights(4, 2).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    edges = np.arange(target + 1) * source / target
    low, high = edges[:-1, None], edges[1:, None]
    pixels = np.arange(source)
    overlap = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None)
    return (overlap * target / source).astype(np.float32)


class FrameGraph(torch.nn.Module):
    """`Frame` for images of one size, in operations that every runtime has.

    A resized image is reduced by area from all its pixels, as `Frame.apply` does. `Frame.load` has the JPEG codec do
    the first halvings, which moves a value by 0.2 of 255 on average, and a mask's edge now and then.

    Args:
        frame: the network's.
        full: (H, W) of the images.

    Raises:
        UserError: the frame pads, and images of that size do not fit into it.
    """

    def __init__(self, frame: Frame, full: Size) -> None:
        super().__init__()
        self._frame, self._full = frame, full
        self._rows, self._columns = frame.inside(full) if frame.fit != "resize" else (slice(None), slice(None))
        self._reduces = frame.fit == "resize" and frame.size != full and all(map(np.less_equal, frame.size, full))
        if self._reduces:
            for name, source, target in zip(("down", "across"), full, frame.size, strict=True):
                self.register_buffer(name, torch.from_numpy(area_weights(source, target)))

    def to_input(self, image: torch.Tensor) -> torch.Tensor:
        """(1, h, w, 3) uint8, from (H, W, 3) uint8 RGB."""
        values = image.permute(2, 0, 1).float()
        if self._frame.fit == "resize":
            if self._reduces:
                values = self.down @ values @ self.across.T  # type: ignore[operator, union-attr]
            elif self._frame.size != self._full:
                values = self._bilinear(values, self._frame.size)
        else:
            height, width = self._frame.enlarged(self._full)
            if (height, width) != self._full:
                values = self._bilinear(values, (height, width))
            sides = (
                self._columns.start,
                self._frame.size[1] - self._columns.stop,
                self._rows.start,
                self._frame.size[0] - self._rows.stop,
            )
            values = functional.pad(values[None], sides, "replicate" if self._frame.fit == "pad" else "reflect")[0]
        return values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)[None]

    def to_full(self, logits: torch.Tensor) -> torch.Tensor:
        """(H, W) float32 logits, from (h, w)."""
        inner = logits[self._rows, self._columns]
        return inner if tuple(inner.shape) == self._full else self._bilinear(inner[None], self._full)[0]

    @staticmethod
    def _bilinear(planes: torch.Tensor, size: Size) -> torch.Tensor:
        """(C, h', w') float32 of (C, h, w), pixel centres aligned."""
        return functional.interpolate(planes[None], size=size, mode="bilinear", align_corners=False)[0]
