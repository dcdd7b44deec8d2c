"""What boosted pixels are worth: fitted on the images of all folds but one, and scored at full size on that one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np

from competition import Size
from ensemble.oof_data import OofData
from ensemble.pixels import NAME, Band, BoostedPixels, band_of
from ensemble.selection import Candidate
from ensemble.trees import Growth, grow
from ensemble.voting import LINEAR
from folds.inputs import Inputs
from folds.parallel import cut, in_parallel
from folds.scoring import score_of
from kernels.bands import in_bands
from kernels.rle import decode

_CHUNK = 8
# widths of the band that are looked at, in logits: up to 8, in quarters
_PER_UNIT, _BANDS = 4, 32
_WIDTHS = np.arange(1, _BANDS + 1) / _PER_UNIT
# images that tell how wide it is, for each fold
_SURVEYED = 60
# the band shall hold so much of the pixels that the networks get wrong, and no more pixels than so many times the sum
# of the frame's sides: a boundary grows with these, and not with the area
_WRONG_WITHIN = 0.9
_MOST_PER_SIDE = 9

# the folds that something was fitted without
Without = frozenset[int]
Weights = tuple[float, ...]


class NoBandError(ValueError):
    """There is nothing to learn from; says why."""


@dataclass(frozen=True)
class PixelFit:
    """How boosted pixels are fitted.

    Attributes:
        pixels: of all images together, about.
        of_image: at most, of a single one: its pixels are much alike.
        growth: of the trees.
        seed: of the draws.
    """

    pixels: int = 200_000
    of_image: int = 500
    growth: Growth = field(default_factory=Growth)
    seed: int = 0


def some_of_each_fold(fold: np.ndarray, most: int) -> list[int]:
    """Positions of at most so many images of each fold, evenly spaced.

    >>> some_of_each_fold(np.array([0, 0, 0, 1]), 2)
    [0, 2, 3]
    """
    each = [np.flatnonzero(fold == k) for k in np.unique(fold)]
    return [int(p) for own in each for p in own[:: -(-len(own) // most)]]


def _weights_without(linear: Candidate) -> dict[Without, Weights]:
    """The linear candidate's weights by the folds that they were fitted without."""
    found = {frozenset(): linear.weights, **{frozenset({k}): w for k, w in linear.nested_weights.items()}}
    for outer, inner in linear.inner.items():
        found |= {frozenset({outer, k}): weights for k, weights in inner.nested_weights.items()}
    return {without: tuple(map(float, weights)) for without, weights in found.items()}


def _survey(oof: OofData, weightings: Sequence[Weights], positions: Sequence[int]) -> list[np.ndarray]:
    """Of each image (weightings, widths, 2) int64: pixels in a band of each width, and those of them that are wrong;
    the last width stands for all pixels."""
    cv2.setNumThreads(1)
    found = []
    for p in positions:
        planes, truth = oof.planes(p), decode(oof.truth.of(p), oof.full)
        per_width = [
            in_bands(LINEAR(planes, oof.frames, weights, oof.full), truth, per_unit=_PER_UNIT, bands=_BANDS)
            for weights in weightings
        ]
        found.append(np.array(per_width))
    return found


def _width(counts: np.ndarray, full: Size) -> float:
    """The width of the band for images of (H, W) `full` whose counts, (N, widths, 2), are these.

    Raises:
        NoBandError: the networks get nothing wrong, or no pixel is in any band.
    """
    total = counts.sum(0)
    if not total[-1, 1]:
        raise NoBandError("the networks get no pixel wrong")
    share_wrong = total[:-1, 1] / total[-1, 1]
    narrow = total[:-1, 0] <= _MOST_PER_SIDE * sum(full) * len(counts)
    enough = share_wrong >= _WRONG_WITHIN
    at = int(enough.argmax()) if enough.any() else len(_WIDTHS) - 1
    if not narrow[at]:
        at = int(np.flatnonzero(narrow)[-1]) if narrow.any() else 0
    if not total[at, 1]:
        raise NoBandError("the networks are sure of every pixel that they get wrong")
    return float(_WIDTHS[at])


@dataclass(frozen=True)
class _Plan:
    """What is combined, and in what width of a band, without some folds."""

    weights: Weights
    width: float


def _band(oof: OofData, pictures: Inputs, p: int, plan: _Plan, some: int = 0, seed: int = 0) -> Band:
    return band_of(
        oof.planes(p),
        oof.frames,
        plan.weights,
        oof.full,
        pictures.image(p),
        width=plan.width,
        trained_on=oof.full,
        some=some,
        seed=(seed, p),
    )


def _draw(
    oof: OofData, pictures: Inputs, plans: Sequence[_Plan], some: int, seed: int, positions: range
) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Of each image and plan: features (P, F) and truth (P,) of some pixels in the band."""
    cv2.setNumThreads(1)
    found = []
    for p in positions:
        truth, of_plans = decode(oof.truth.of(p), oof.full), []
        for plan in plans:
            band = _band(oof, pictures, p, plan, some, seed)
            of_plans.append((band.features, truth[band.rows, band.columns].astype(bool)))
        found.append(of_plans)
    return found


@dataclass(frozen=True)
class _Drawn:
    """Pixels of all images under one plan.

    Attributes:
        features, truth: (P, F) float32 and (P,) bool.
        image: (P,) int64 position of the image that each comes from.
    """

    features: np.ndarray
    truth: np.ndarray
    image: np.ndarray


def _fit(
    drawn: Mapping[_Plan, _Drawn], oof_full: Size, fit: PixelFit, task: tuple[_Plan, np.ndarray]
) -> BoostedPixels | None:
    """What is learned from some images; None where their pixels are of one kind."""
    plan, images = task
    pixels = drawn[plan]
    may = np.isin(pixels.image, images)
    truth = pixels.truth[may]
    if truth.all() or not truth.any():
        return None
    trees = grow(pixels.features[may], truth, fit.growth, seed=fit.seed)
    return BoostedPixels(trees, plan.weights, plan.width, oof_full)


def _scores(
    fitted: Mapping[Without, BoostedPixels], oof: OofData, pictures: Inputs, positions: range
) -> list[dict[Without, float]]:
    """Of every image, its score by each fit that has not seen its fold."""
    cv2.setNumThreads(1)
    scores = []
    for p in positions:
        bands: dict[Weights, Band] = {}
        found = {}
        for without, pixels in fitted.items():
            if int(oof.fold[p]) not in without:
                continue
            own = pixels.weights
            if own not in bands:
                # a pixel's features do not depend on which others are looked at: one look serves all widths
                width = max(each.width for each in fitted.values() if each.weights == own)
                bands[own] = _band(oof, pictures, p, _Plan(own, width))
            decided = bands[own].within(pixels.width).decided_by(pixels.trees)
            found[without] = score_of(decided, oof.truth.of(p), oof.metric)
        scores.append(found)
    return scores


def evaluate_pixels(
    linear: Candidate, oof: OofData, pictures: Inputs, fit: PixelFit = PixelFit(), *, jobs: int = -1
) -> Candidate:
    """Fit boosted pixels within each fold's complement and on everything.

    Args:
        linear: its weights, fitted without each fold and on everything, make the combined logits. Where it was
            evaluated without each fold too (`Candidate.inner`), so are the pixels: F (F - 1) / 2 more fits, and every
            image is scored F times.
        oof: the networks' logits, the truth and the folds.
        pictures: the training images in the frame of `ensemble.pixels.full_frame`.
        fit: how.
        jobs: processes, as joblib counts them.

    Returns:
        The candidate, whose nested score of an image comes from trees that have seen no image of its fold.

    Raises:
        NoBandError: there is nothing to learn from; says why.
    """
    fold, count = oof.fold, len(oof.images)
    weights = _weights_without(linear)
    weightings = list(dict.fromkeys(weights.values()))

    # 1) how wide the band is, for each fit by its own images
    looked_at = some_of_each_fold(fold, _SURVEYED)
    survey = partial(_survey, oof, weightings)
    surveyed = in_parallel(survey, cut(looked_at, _CHUNK), len(looked_at), label="survey the band", few=0, jobs=jobs)
    counts = np.array([each for part in surveyed for each in part])
    plans = {}
    for without, own in weights.items():
        seen = ~np.isin(fold[looked_at], list(without))
        plans[without] = _Plan(own, _width(counts[seen, weightings.index(own)], oof.full))

    # 2) pixels to learn from, drawn for each width apart: a width is found on images that another fit may not see
    parts, different = cut(range(count), _CHUNK), list(dict.fromkeys(plans.values()))
    some = max(1, min(fit.of_image, fit.pixels // count))
    draw = partial(_draw, oof, pictures, different, some, fit.seed)
    drawn_parts = in_parallel(draw, parts, count, label="draw pixels", few=0, jobs=jobs)
    of_images = [each for part in drawn_parts for each in part]
    drawn = {
        plan: _Drawn(
            np.concatenate([image[k][0] for image in of_images]),
            np.concatenate([image[k][1] for image in of_images]),
            np.repeat(np.arange(count), [len(image[k][1]) for image in of_images]),
        )
        for k, plan in enumerate(different)
    }

    # 3) trees, each from the images that it may see
    tasks = [(plan, np.flatnonzero(~np.isin(fold, list(without)))) for without, plan in plans.items()]
    fit_one = partial(_fit, drawn, oof.full, fit)
    fits = list(
        in_parallel(fit_one, tasks, len(tasks), label="grow trees", unit="fit", size=lambda _: 1, few=0, jobs=jobs)
    )
    if any(each is None for each in fits):
        raise NoBandError("all pixels that the networks are unsure of are foreground, or all are background")
    fitted = {without: each for without, each in zip(plans, fits, strict=True) if each is not None}

    # 4) what they score on the images that they have not seen
    score = partial(_scores, fitted, oof, pictures)
    scored = in_parallel(score, parts, count, label="score pixels", few=0, jobs=jobs)
    scores = [each for part in scored for each in part]

    def candidate(linear: Candidate, without: Without) -> Candidate:
        there = [p for p in range(count) if int(fold[p]) not in without]
        return Candidate(
            NAME,
            linear.weights,
            np.array([scores[p][without | {int(fold[p])}] for p in there]),
            linear.nested_weights,
            NAME,
            fitted[without],
            {k: fitted[without | {k}] for k in linear.nested_weights},
            {k: candidate(inner, without | {k}) for k, inner in linear.inner.items()},
        )

    return candidate(linear, frozenset())
