"""What a perfect network of each input size would score: true masks reduced to it and brought back to full size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from command_line import UserError
from competition import Competition, Size
from ensemble.intervals import mean_interval
from folds.parallel import cut, in_parallel
from kernels.dice import counts
from kernels.metrics import find_metric
from models.frame import Frame
from models.variants import VARIANTS
from report.explore.listing import Pictures

# the mean over so many masks is known to far less than two sizes differ by
_MASKS = 64
_CHUNK = 8
_FRACTIONS = (2, 3, 4, 6, 8, 12, 16)
_LEAST_PX = 16


@dataclass(frozen=True)
class Ceiling:
    """The score at one input size.

    Attributes:
        size: (h, w) of the input.
        score: the competition's metric, mean over masks.
        interval: 95 %, over groups.
        worst: of one mask.
        variants: names of the networks of that size, none for a size that is a plain fraction of the full one.
    """

    size: Size
    score: float
    interval: tuple[float, float]
    worst: float
    variants: tuple[str, ...]


def sizes(competition: Competition) -> dict[Size, tuple[str, ...]]:
    """Input sizes that are worth asking after, by area, the largest first, and the variants that have each.

    >>> from competition import COMPETITIONS
    >>> list(sizes(COMPETITIONS["salt"]))[-1]
    (17, 17)
    """
    height, width = competition.size
    found: dict[Size, tuple[str, ...]] = {}
    for fraction in _FRACTIONS:
        if min(size := (round(height / fraction), round(width / fraction))) >= _LEAST_PX:
            found[size] = ()
    for variant in VARIANTS.values():
        # what pads loses nothing, and what is as large as the image neither; grey networks take colours too
        suits = variant.in_channels in (1, competition.channels)
        if suits and variant.fit == "resize" and variant.size[0] * variant.size[1] < height * width:
            found[variant.size] = (*found.get(variant.size, ()), variant.name)
    return dict(sorted(found.items(), key=lambda item: -item[0][0] * item[0][1]))


def back_and_forth(mask: np.ndarray, size: Size) -> np.ndarray:
    """A mask (H, W) bool as a network of input `size` would give it whose logits follow the true coverage exactly."""
    frame = Frame(size)
    logits = frame.apply_mask(mask).astype(np.float32) - 127.5
    return frame.invert(logits, (mask.shape[0], mask.shape[1])) > 0


def _scores(pictures: Pictures, metric: str, sizes: Sequence[Size], names: Sequence[str]) -> list[list[float] | None]:
    cv2.setNumThreads(1)
    assert pictures.training is not None
    found: list[list[float] | None] = []
    for name in names:
        try:
            mask = pictures.training.mask(name)
        except UserError:
            # named by the survey
            found.append(None)
            continue
        found.append([find_metric(metric).of(counts(back_and_forth(mask, size), mask)) for size in sizes])
    return found


def ceilings(pictures: Pictures, competition: Competition, *, jobs: int = -1) -> tuple[list[Ceiling], int]:
    """The ceiling at each of `sizes`, and on how many masks, drawn evenly over the set, it was taken.

    Args:
        pictures: training images.
        competition: its facts.
        jobs: processes, as joblib counts them.
    """
    wanted = sizes(competition)
    picked = np.unique(np.linspace(0, len(pictures.names) - 1, min(_MASKS, len(pictures.names))).round().astype(int))
    names = [pictures.names[i] for i in picked]
    score = partial(_scores, pictures, competition.metric, list(wanted))
    scored = in_parallel(
        score, cut(names, _CHUNK), len(names), label="ceilings", unit="mask", few=4 * _CHUNK, jobs=jobs
    )
    rows = [row for part in scored for row in part]
    groups = np.array([pictures.groups[i] for i, row in zip(picked, rows, strict=True) if row is not None])
    scores = np.array([row for row in rows if row is not None])
    found = [
        Ceiling(size, float(own.mean()), mean_interval(own, groups, bounds=(0.0, 1.0)), float(own.min()), variants)
        for (size, variants), own in zip(wanted.items(), scores.T, strict=True)
    ]
    return found, len(scores)
