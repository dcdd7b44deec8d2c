"""Padding and tiles as a part of a network's graph, for exports: what predict/photographs.py does, for any size."""

from __future__ import annotations

import math

import torch

from competition import Size
from models.frame import Frame
from models.frame_graph import FrameGraph, as_bytes
from models.taps import Taps, counted, enlarged, floor_div, linear, number, resampled, single, where
from models.variant import ENLARGED
from predict.tiles import OVERLAP

# tiles that a pixel lies in at most, along one side: those of more than two begin at least three eighths of a tile
# apart, and where they begin is rounded
_MOST = 4


def graph_of(frame: Frame, full: Size) -> FrameGraph | TileGraph:
    """A frame as a part of a graph, for an image of `full` (H, W), which may be symbols."""
    graph = FrameGraph if frame.fit == "resize" or frame.whole else TileGraph
    return graph(frame, full)


class _Side:
    """How one side of an image lies in a frame that pads, and in how many tiles, if it exceeds that.

    Args:
        side: pixels of the image.
        factor: by which it is enlarged before.
        tile: pixels of the frame.
        fit: of the frame.
    """

    def __init__(self, side: int, factor: int, tile: int, fit: str) -> None:
        self.side, self.length, self.tile, self.fit = side, factor * side, tile, fit
        beyond = (number(self.length) - tile).clamp(min=0)
        step = tile - int(OVERLAP * tile)
        # between the first and the last
        steps = floor_div(beyond + step - 1, step)
        self.count = counted(steps + 1)
        # as tile_starts rounds
        self.starts = (torch.arange(self.count).double() * beyond / steps.clamp(min=1)).round().long()

    @property
    def before(self) -> torch.Tensor:
        """Pixels of padding before an image that fits, () int64."""
        return number(0) if self.fit == "pad" else floor_div((self.tile - number(self.length)).clamp(min=0), 2)

    def tile_rows(self) -> torch.Tensor:
        """(count * tile,) int64: the rows of the enlarged image that all tiles hold, one after the other."""
        return (self.starts[:, None] + torch.arange(self.tile)).flatten()

    def padded_rows(self) -> torch.Tensor:
        """The same where an image fits, and is padded."""
        rows = torch.arange(self.tile).repeat(self.count) - self.before
        if self.fit == "pad":
            return rows
        # back and forth, with neither end twice
        period = (2 * number(self.length) - 2).clamp(min=1)
        rows = rows - floor_div(rows, period) * period
        return torch.minimum(rows, period - rows)

    def merged(self) -> Taps:
        """What each row of the enlarged image is made of, of all tiles' rows: as predict.tiles weighs them."""
        rows = torch.arange(self.length)
        last = (self.starts <= rows[:, None]).sum(1) - 1
        tiles = last[:, None] - torch.arange(_MOST)
        within = rows[:, None] - self.starts[tiles.clamp(min=0)]
        window = torch.sin(math.pi * (within.double() + 0.5) / self.tile) ** 2
        weight = torch.where((tiles >= 0) & (within < self.tile), window, 0.0)
        index = tiles.clamp(min=0) * self.tile + within.clamp(max=self.tile - 1)
        return Taps(index, (weight / weight.sum(1, keepdim=True)).float())


class TileGraph:
    """A frame that pads, for one image, which may be larger: then tiles of it go through the network as one batch.

    Args:
        frame: the network's.
        full: (H, W) of the image; while a graph is made, symbols that stand for them.
    """

    def __init__(self, frame: Frame, full: Size) -> None:
        self._factor = ENLARGED[frame.fit]
        self._sides = [_Side(side, self._factor, own, frame.fit) for side, own in zip(full, frame.size, strict=True)]
        exceeds = [number(side.length) > side.tile for side in self._sides]
        self._exceeds = exceeds[0] | exceeds[1]

    def to_input(self, image: torch.Tensor) -> torch.Tensor:
        """(N, h, w, 3) uint8, a tile each, from (H, W, 3) uint8 RGB; one where the image fits."""
        rows, columns = self._sides
        down, across = (self._wanted(side) for side in self._sides)
        if self._factor == 1:
            placed = as_bytes(resampled(image, single(down, rows.side, 1), single(across, columns.side, 1)))
        else:
            placed = as_bytes(enlarged(image, down, across, (rows.length, columns.length)))
        tiles = placed.reshape(rows.count, rows.tile, columns.count, columns.tile, image.shape[2])
        return tiles.transpose(1, 2).flatten(0, 1)

    def _wanted(self, side: _Side) -> torch.Tensor:
        """Which rows of the enlarged image the frame's are, one tile after the other."""
        wanted = torch.where(self._exceeds, side.tile_rows(), side.padded_rows())
        return torch.minimum(wanted.clamp(min=0), number(side.length - 1))

    def to_full(self, logits: torch.Tensor) -> torch.Tensor:
        """(H, W) float32 logits, from (N, h, w) of the tiles."""
        rows, columns = self._sides
        tiles = logits.reshape(rows.count, columns.count, rows.tile, columns.tile).transpose(1, 2)
        together = tiles.flatten(2, 3).flatten(0, 1)[..., None]
        found = resampled(together, self._merged(rows), self._merged(columns))
        if self._factor > 1:
            back = (linear(torch.arange(side.side), side.length, side.side) for side in self._sides)
            found = resampled(found, *back)
        return found[..., 0]

    def _merged(self, side: _Side) -> Taps:
        cropped = single(torch.arange(side.length) + side.before, side.tile, _MOST)
        return where(self._exceeds, side.merged(), cropped)
