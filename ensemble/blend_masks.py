"""Full-size out-of-fold masks of several blends of the same networks, in one pass over the logits.

An image's logits are read once for all blends. Most tiles of a frame are decided at the networks' own sizes
(kernels/tiles.py); only the others are brought to full size. The masks are those of `Combination`, to the pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from ensemble.oof_data import OofData
from ensemble.pixels import Band, BoostedPixels
from ensemble.voting import LINEAR, Combination, Vote, WeightedLogits, vote_mask
from folds.inputs import Inputs
from folds.parallel import cut, in_parallel
from kernels import rle
from kernels.blend import weighted_sums
from kernels.tiles import spread, tile_areas, tile_ranges, tile_signs
from models.frame import Frame

_CHUNK = 8
# beyond what logits that are enlarged and summed in float32 are rounded by
_SLACK = np.float32(1e-3)


@dataclass(frozen=True)
class MaskBlend:
    """What a mask is made by.

    Attributes:
        members: positions of the networks that it blends.
        weights: in the same order.
        threshold: the mask is where what `combine` gives is above it.
        combine: how the networks' logits become the blend's.
        pictures: the training images, where `combine` needs them (`Combination.image_frame`).
    """

    members: tuple[int, ...]
    weights: tuple[float, ...]
    threshold: float = 0.0
    combine: Combination = LINEAR
    pictures: Inputs | None = None

    def used(self) -> list[tuple[int, float]]:
        """Networks of a weight other than 0, with these."""
        return [(m, weight) for m, weight in zip(self.members, self.weights, strict=True) if weight != 0]


class _Image:
    """One image's logits and what follows from them, each computed once for all blends."""

    def __init__(self, oof: OofData, blends: Sequence[MaskBlend], position: int) -> None:
        self._oof = oof
        self._blends = blends
        self._position = position
        wanted = sorted({m for blend in blends for m in blend.members})
        self._planes = {m: oof.stores[m].head(oof.images[position]) for m in wanted}
        self._signs: dict[int, np.ndarray] = {}
        self._bands: dict[tuple[object, ...], Band] = {}
        self._sums = self._linear_sums()

    def _linear_sums(self) -> Mapping[int, dict[Frame, np.ndarray]]:
        """Of every linear blend, by its position, the weighted sums of the networks of one frame: those of
        `WeightedLogits`, whose order of frames and of networks it keeps."""
        linear = {k: dict(b.used()) for k, b in enumerate(self._blends) if isinstance(b.combine, WeightedLogits)}
        sums: dict[int, dict[Frame, np.ndarray]] = {
            k: {self._oof.frames[m]: np.empty(0, np.float32) for m in weights} for k, weights in linear.items()
        }
        for frame in {frame for its_sums in sums.values() for frame in its_sums}:
            members = [m for m in self._planes if self._oof.frames[m] == frame]
            takers = [k for k in sums if frame in sums[k]]
            weights = np.array([[linear[k].get(m, 0.0) for m in members] for k in takers], np.float32)
            found = weighted_sums([self._planes[m] for m in members], weights)
            for k, total in zip(takers, found, strict=True):
                sums[k][frame] = total
        return sums

    def runs(self, which: int) -> np.ndarray:
        """(R, 2) int64 runs of a blend's mask."""
        blend = self._blends[which]
        if which in self._sums:
            return rle.encode(self._linear(self._sums[which], np.float32(blend.threshold)))
        if isinstance(blend.combine, Vote) and blend.threshold == 0:
            return rle.encode(self._vote(blend.combine.label, blend.used()))
        if isinstance(blend.combine, BoostedPixels) and blend.pictures is not None:
            band = self._band(blend, blend.combine).within(blend.combine.width)
            return rle.encode(band.decided_by(blend.combine.trees) > blend.threshold)
        oof = self._oof
        planes, frames = [self._planes[m] for m in blend.members], [oof.frames[m] for m in blend.members]
        image = None if blend.pictures is None else blend.pictures.image(self._position)
        return rle.encode(blend.combine(planes, frames, blend.weights, oof.full, image) > blend.threshold)

    def _band(self, blend: MaskBlend, pixels: BoostedPixels) -> Band:
        """What trees decide on, the same for all that were grown on the same logits."""
        key = (blend.members, *pixels.band_key())
        if key not in self._bands:
            assert blend.pictures is not None
            alike = [
                b.combine for b in self._blends if b.members == blend.members and isinstance(b.combine, BoostedPixels)
            ]
            widest = max((each for each in alike if each.band_key() == key[1:]), key=lambda each: each.width)
            oof, members = self._oof, blend.members
            planes, frames = [self._planes[m] for m in members], [oof.frames[m] for m in members]
            self._bands[key] = widest.band(planes, frames, oof.full, blend.pictures.image(self._position))
        return self._bands[key]

    def _linear(self, sums: Mapping[Frame, np.ndarray], threshold: np.float32) -> np.ndarray:
        full = self._oof.full
        ranges = [
            tile_ranges(plane if frame.grows(full) else np.ascontiguousarray(frame.invert(plane, full)), full)
            for frame, plane in sums.items()
        ]
        lowest, highest = (np.sum([each[k] for each in ranges], 0) for k in (0, 1))
        above = lowest > threshold + _SLACK
        chosen = ~(above | (highest <= threshold - _SLACK))
        total = np.empty(0, np.float32)
        for frame, plane in sums.items():
            part = np.empty(int(tile_areas(full)[chosen].sum()), np.float32)
            frame.invert_tiles(plane, full, chosen, part)
            total = total + part if len(total) else part
        return spread(above, chosen, total > threshold, full)

    def _vote(self, vote: str, used: Sequence[tuple[int, float]]) -> np.ndarray:
        full, frames = self._oof.full, self._oof.frames
        for m, _ in used:
            if m not in self._signs:
                plane = self._planes[m]
                whole = plane if frames[m].grows(full) else np.ascontiguousarray(frames[m].invert(plane, full))
                self._signs[m] = tile_signs(whole, full, low=0.0, high=0.0)
        signs = np.stack([self._signs[m] for m, _ in used])
        above = (signs == 1).all(0)
        chosen = ~(above | (signs == -1).all(0))
        logits = np.empty((len(used), int(tile_areas(full)[chosen].sum())), np.float32)
        for row, (m, _) in zip(logits, used, strict=True):
            frames[m].invert_tiles(self._planes[m], full, chosen, row)
        # where all are surely of one sign, so is every vote
        mask = logits.min(0) > _SLACK
        open_px = np.flatnonzero(~mask & (logits.max(0) > -_SLACK))
        mask[open_px] = vote_mask(vote, list(logits[:, open_px]), [weight for _, weight in used])
        return spread(above, chosen, mask, full)


def _runs_of(oof: OofData, blends: Sequence[MaskBlend], positions: range) -> list[list[np.ndarray]]:
    cv2.setNumThreads(1)
    found = []
    for position in positions:
        image = _Image(oof, blends, position)
        found.append([image.runs(k).astype(np.int32) for k in range(len(blends))])
    return found


def masks_of(oof: OofData, blends: Sequence[MaskBlend], *, jobs: int = -1) -> list[list[np.ndarray]]:
    """The masks of blends.

    Args:
        oof: the networks' logits.
        blends: of these networks.
        jobs: processes, as joblib counts them.

    Returns:
        By blend and image (R, 2) int32 row-major runs, as `kernels.rle.encode` has them.
    """
    count = len(oof.images)
    parts = in_parallel(
        partial(_runs_of, oof, blends), cut(range(count), _CHUNK), count, label="blend", few=0, jobs=jobs
    )
    masks: list[list[np.ndarray]] = [[] for _ in blends]
    for part in parts:
        for runs in part:
            for its_masks, its_runs in zip(masks, runs, strict=True):
                its_masks.append(its_runs)
    return masks
