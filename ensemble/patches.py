"""Small windows of several networks' logits with the truth, all on one grid: what a stacker that looks at a pixel's
surroundings is fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from competition import Size
from ensemble.oof_data import OofData
from folds.inputs import Inputs
from folds.parallel import cut, in_parallel
from kernels import rle
from models.frame import Frame

_CHUNK = 8
# every so many windows, one lies anywhere and not where networks disagree: what they agree on must be left alone
_ANYWHERE = 4


def grid_of(frames: Sequence[Frame]) -> Frame:
    """The frame with the most pixels; of equal ones the first."""
    return max(frames, key=lambda frame: frame.size[0] * frame.size[1])


def on_grid(logits: Sequence[np.ndarray], frames: Sequence[Frame], grid: Frame, full: Size) -> np.ndarray:
    """Networks' logits, (h, w) float32 each at its own size, as (M, h, w) float32 at the size of `grid`."""
    return np.stack([frame.transfer(plane, grid, full) for plane, frame in zip(logits, frames, strict=True)])


@dataclass(frozen=True)
class Patches:
    """Windows of many images.

    Attributes:
        inputs: (P, M, s, t) float16 logits.
        targets: (P, s, t) uint8 coverage by the truth, 0 .. 255.
        image: (P,) int64 position of the image that each comes from.
        images: (P, s, t, 3) uint8 RGB, what the image shows there; None if it was not asked for.
    """

    inputs: np.ndarray
    targets: np.ndarray
    image: np.ndarray
    images: np.ndarray | None = None


def _windows(
    oof: OofData, each: int, side_px: int, seed: int, pictures: Inputs | None, positions: range
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    cv2.setNumThreads(1)
    grid = grid_of(oof.frames)
    height, width = (min(side_px, side) for side in grid.size)
    inputs, targets, images = [], [], []
    for position in positions:
        # an image's windows depend on nothing but the image, however the work is spread
        rng = np.random.default_rng((seed, position))
        planes = on_grid(oof.planes(position), oof.frames, grid, oof.full)
        coverage = grid.apply_mask(rle.decode(oof.truth.of(position), oof.full))
        picture = None if pictures is None else pictures.image(position)
        signs = (planes > 0).sum(0)
        disputed = np.flatnonzero((signs > 0) & (signs < len(planes)))
        if not len(disputed):
            doubt = np.abs(planes).min(0).ravel()
            disputed = np.argpartition(doubt, min(each, len(doubt) - 1))[: each + 1]
        for k in range(each):
            at = rng.integers(coverage.size) if k % _ANYWHERE == _ANYWHERE - 1 else rng.choice(disputed)
            y, x = divmod(int(at), coverage.shape[1])
            top = min(max(0, y - height // 2), coverage.shape[0] - height)
            left = min(max(0, x - width // 2), coverage.shape[1] - width)
            window = np.s_[top : top + height, left : left + width]
            inputs.append(planes[:, *window].astype(np.float16))
            targets.append(coverage[window].copy())
            if picture is not None:
                images.append(picture[window].copy())
    return np.array(inputs), np.array(targets), np.array(images)


def gather(
    oof: OofData,
    *,
    total: int = 8000,
    side_px: int = 64,
    seed: int = 0,
    pictures: Inputs | None = None,
    jobs: int = -1,
) -> Patches:
    """Draw windows from stored out-of-fold logits, most of them around pixels where networks disagree.

    Args:
        oof: the networks' logits, and the truth.
        total: windows of all images together, about; every image gives the same number, from 1 to 16.
        side_px: height and width of a window on the largest network's grid; less where that is smaller.
        seed: of the draws.
        pictures: the training images in the largest network's frame (`grid_of`), if the windows are to have them.
        jobs: processes, as joblib counts them.
    """
    count = len(oof.images)
    each = int(np.clip(total // count, 1, 16))
    draw, parts = partial(_windows, oof, each, side_px, seed, pictures), cut(range(count), _CHUNK)
    drawn = in_parallel(draw, parts, count, label="draw windows", few=0, jobs=jobs)
    inputs, targets, images = zip(*drawn, strict=True)
    shown = None if pictures is None else np.concatenate(images)
    return Patches(np.concatenate(inputs), np.concatenate(targets), np.repeat(np.arange(count), each), shown)
