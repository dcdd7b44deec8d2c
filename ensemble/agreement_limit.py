"""How little networks of a blend may agree on a picture that they know: measured on its own training images.

`predict.agreement` asks all folds' networks about a picture that none of them has seen, and compares each two. Of a
training image there are no two such networks: one fold's alone has not seen it. But there is its true mask, drawn by
one who has seen it all. So what is measured is how far networks agree with the truth, by the same measure: pixels that
both call foreground, as a share of those that either does. Two networks of about the same errors, half of them in
common, agree as far with each other as each does with the truth; where more of them are in common, they agree farther.

The limit is what all but one in a hundred training images have. A picture below it has two networks that differ more
from each other than networks differ from the truth on the hardest of these images; one of the two is then wrong by at
least half of that, as the measure's complement is a distance. Where networks are often all wrong, as with tiny objects,
the limit is 0 or near it, and nothing is ever below: there, disagreement tells nothing.
"""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

from ensemble.oof_data import OofData
from folds.parallel import cut, in_parallel
from kernels import rle
from models.frame import Frame
from predict.agreement import grid_of

# of the training images, that may lie below the limit
SHARE = 0.01
_CHUNK = 16


def _agreements(oof: OofData, grid: Frame, positions: range) -> list[float]:
    cv2.setNumThreads(1)
    found = []
    for position in positions:
        # as coverage: foreground is where most of a pixel of the grid is
        truth = grid.apply_mask(rle.decode(oof.truth.of(position), oof.full).astype(bool)) > 127
        both = either = 0
        for frame, plane in zip(oof.frames, oof.planes(position), strict=True):
            mask = frame.transfer(plane, grid, oof.full) > 0
            both += int(np.count_nonzero(mask & truth))
            either += int(np.count_nonzero(mask | truth))
        found.append(both / either if either else 1.0)
    return found


def agreements_with_truth(oof: OofData, *, jobs: int = -1) -> np.ndarray:
    """How far the networks that have not seen it agree with the truth, of every image.

    Args:
        oof: of the networks of a blend.
        jobs: processes, as joblib counts them.

    Returns:
        (N,) 0..1: pixels, of the coarsest network, that a network and the truth both call foreground, as a share of
        those that either does, pixels summed over the networks; 1 where neither calls any so.
    """
    grid = grid_of([frame.of(oof.full) for frame in oof.frames], oof.full)
    count = len(oof.images)
    parts = in_parallel(partial(_agreements, oof, grid), cut(range(count), _CHUNK), count, label="agree", jobs=jobs)
    return np.array([agreement for part in parts for agreement in part])


def limit_of(agreements: np.ndarray) -> float:
    """The largest of some agreements (N,) below which at most one in a hundred of them lie.

    >>> round(limit_of(np.linspace(0.9, 1, 201)), 4)
    0.901
    """
    return float(np.sort(agreements)[int(SHARE * len(agreements) + 1e-9)])
