"""What a stacker is really worth: fitted on the images of all folds but one, and scored at full size on that one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, TypeVar

import cv2
import numpy as np

from ensemble.conv_stacker import NAME
from ensemble.oof_data import OofData
from ensemble.patches import Patches, gather
from ensemble.selection import Candidate
from ensemble.voting import Combination
from folds.inputs import Inputs
from folds.parallel import cut, in_parallel
from folds.scoring import score_of

_CHUNK = 8


class Stacker(Combination, Protocol):
    """Something that learns from windows and then combines logits."""

    def fit(self, patches: Patches, images: np.ndarray, weights: np.ndarray) -> Stacker:
        """Learn from the windows of the images at these positions; returns self."""


Made = TypeVar("Made", bound=Stacker)


def _scores(
    stackers: Mapping[frozenset[int], Stacker], oof: OofData, pictures: Inputs | None, positions: range
) -> list[dict[frozenset[int], float]]:
    """Of every image, its score by each stacker that was fitted without its fold, by the folds that one left out."""
    cv2.setNumThreads(1)
    equal = [1 / len(oof.stores)] * len(oof.stores)
    scores = []
    for p in positions:
        planes = oof.planes(p)
        image = None if pictures is None else pictures.image(p)
        found = {}
        for left_out, stacker in stackers.items():
            if int(oof.fold[p]) in left_out:
                logits = stacker(planes, oof.frames, equal, oof.full, image)
                found[left_out] = score_of(np.ascontiguousarray(logits), oof.truth.of(p), oof.metric)
        scores.append(found)
    return scores


def _starts(linear: Candidate) -> dict[frozenset[int], np.ndarray]:
    """The linear candidate's weights by the folds that they were fitted without."""
    starts = {frozenset(): linear.weights, **{frozenset({k}): w for k, w in linear.nested_weights.items()}}
    for outer, inner in linear.inner.items():
        starts |= {frozenset({outer, k}): weights for k, weights in inner.nested_weights.items()}
    return starts


def _fit(patches: Patches, begun: tuple[Stacker, np.ndarray, np.ndarray]) -> Stacker:
    """An unfitted stacker after it has learned from some images' windows; beside it, which images, and its weights."""
    stacker, images, weights = begun
    return stacker.fit(patches, images, weights)


def evaluate_stacker(
    linear: Candidate,
    oof: OofData,
    *,
    make: Callable[[], Made],
    name: str = NAME,
    pictures: Inputs | None = None,
    jobs: int = -1,
) -> Candidate:
    """Fit a stacker within each fold's complement and on everything.

    Args:
        linear: its weights, fitted without each fold and on everything, are what each stacker starts from. Where it was
            evaluated without each fold too (`Candidate.inner`), so is the stacker: F (F - 1) / 2 more fits, and every
            image is scored F times.
        oof: the networks' logits, the truth and the folds.
        make: makes an unfitted stacker.
        name: for the result.
        pictures: the training images in the frame of `ensemble.patches.grid_of`, for stackers that look at them.
        jobs: processes, as joblib counts them.

    Returns:
        The candidate, whose nested score of an image comes from a stacker that has seen no image of its fold.
    """
    fold, count = oof.fold, len(oof.images)
    patches = gather(oof, pictures=pictures, jobs=jobs)
    starts = _starts(linear)
    begun = ((make(), np.flatnonzero(~np.isin(fold, list(left_out))), w) for left_out, w in starts.items())
    fit, one = partial(_fit, patches), lambda _: 1
    fits = in_parallel(fit, begun, len(starts), label="fit stacker", unit="fit", size=one, few=0, jobs=jobs)
    fitted = dict(zip(starts, fits, strict=True))
    score, parts = partial(_scores, fitted, oof, pictures), cut(range(count), _CHUNK)
    scored = in_parallel(score, parts, count, label="score stacker", few=0, jobs=jobs)
    scores = [each for part in scored for each in part]

    def stacked(linear: Candidate, left_out: frozenset[int]) -> Candidate:
        there = [p for p in range(count) if int(fold[p]) not in left_out]
        return Candidate(
            name,
            linear.weights,
            np.array([scores[p][left_out | {int(fold[p])}] for p in there]),
            linear.nested_weights,
            name,
            fitted[left_out],
            {k: fitted[left_out | {k}] for k in linear.nested_weights},
            {k: stacked(inner, left_out | {k}) for k, inner in linear.inner.items()},
        )

    return stacked(linear, frozenset())
