"""What a refiner is trained on: tiles of training images that lie on the band around the blend's boundary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ensemble.band import Tile, band_of, cut
from ensemble.boundary import Boundary, inputs_of
from folds.inputs import Inputs
from refine.planes import CoarsePlanes

# inputs (T, 4, h, w) float32; logits, coverage 0..1 and whether a pixel counts, (T, 3, h, w) float32; position
Sample = tuple[np.ndarray, np.ndarray, int]

# how much likelier a tile lies on a pixel that the blend has wrong than on another of the band
_WRONG = 5.0
# a tile's centre lies at most so far from that pixel, as a share of the tile's side
_JITTER = 1 / 6


@dataclass(frozen=True)
class Tiles(torch.utils.data.Dataset[Sample]):
    """Some tiles of an image by (epoch, position); they follow from seed, epoch and position alone.

    Attributes:
        boundary: what the refiner is.
        planes: the blend's logits in the refiner's frame.
        inputs: images and coverage in the refiner's frame.
        count: tiles of an image.
        seed: of the draws.
        augmented: drawn anew each epoch, and half of them mirrored; otherwise the same always, as they are.
    """

    boundary: Boundary
    planes: CoarsePlanes
    inputs: Inputs
    count: int
    seed: int
    augmented: bool

    def _drawn(self, band: np.ndarray, wrong: np.ndarray, rng: np.random.Generator) -> list[Tile]:
        """Tiles around pixels of the band; anywhere, where there is none."""
        side, whole = self.boundary.variant().size, band.shape
        rows, columns = np.nonzero(band)
        if not len(rows):
            rows, columns = np.array([whole[0] // 2]), np.array([whole[1] // 2])
        likelihood = np.where(wrong[rows, columns], _WRONG, 1.0)
        chosen = rng.choice(len(rows), self.count, p=likelihood / likelihood.sum())
        tiles = []
        for k in chosen:
            starts = []
            for at, length, total in zip((rows[k], columns[k]), side, whole, strict=True):
                reach = round(length * _JITTER)
                start = int(at) - length // 2 + int(rng.integers(-reach, reach + 1))
                starts.append(min(max(0, start), max(0, total - length)))
            seen = (slice(starts[0], starts[0] + side[0]), slice(starts[1], starts[1] + side[1]))
            tiles.append(Tile(seen, seen))
        return tiles

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, position = key
        rng = np.random.default_rng((self.seed, epoch if self.augmented else 0, position))
        coarse = self.planes.of(position)
        image = np.asarray(self.inputs.image(position))
        coverage = np.asarray(self.inputs.target(position))
        # at the refiner's size, where it costs a tenth of what it does at full size; to half a pixel it is the same
        scale = min(side / own for side, own in zip(self.boundary.size, self.boundary.full, strict=True))
        band = band_of(coarse > 0, max(1.0, self.boundary.reach_px * scale))
        inputs, beside = [], []
        for tile in self._drawn(band, (coarse > 0) != (coverage > 127), rng):
            logits = cut(coarse, tile)
            seen = inputs_of(self.boundary, cut(image, tile), logits)
            target = cut(coverage, tile).astype(np.float32) / 255
            planes = np.stack([logits, target, _counted(band, tile)])
            if self.augmented and rng.random() < 0.5:
                seen, planes = seen[..., ::-1], planes[..., ::-1]
            inputs.append(seen)
            beside.append(planes)
        return np.stack(inputs), np.stack(beside), position


def _counted(band: np.ndarray, tile: Tile) -> np.ndarray:
    """(h, w) float32: 1 where a tile sees the band, 0 elsewhere and beyond the image."""
    counted = np.zeros([part.stop - part.start for part in tile.seen], np.float32)
    part = band[tile.seen]
    counted[: part.shape[0], : part.shape[1]] = part
    return counted
