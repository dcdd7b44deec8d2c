"""The registry of heads: what each output of a network is trained towards, and how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from command_line import UserError
from competition import Competition, Size
from folds.composites import NearTruth
from folds.depth import full_size_rmse
from folds.images import TrainingSet
from folds.scoring import full_size_score
from folds.truth import load_truth
from kernels import rle
from kernels.metrics import DICE, Metric
from models.frame import Frame
from models.variant import PRESENCE_HEAD, Variant


class HeadTruth(Protocol):
    """A head's truth for every training image, at full size."""

    def of(self, position: int) -> np.ndarray:
        """The truth of the image at `position` in `TrainingSet.names`, in the form that the head's rule takes."""


@dataclass(frozen=True)
class HeadRule:
    """One head.

    Attributes:
        metric: what validation logs, as `val_<metric>`.
        load: reads the truth, given the training set, its cache folder (`runs/<competition>/cache`) and joblib's
            number of processes.
        target: what the network is trained towards, from an image's truth, the network's frame and the full size:
            (h, w) or (h, w, c) uint8, where 255 is 1.
        loss: name in models/losses.py, where the recipe names none for the head; None for the recipe's own.
        score: of one image at full size, from its logits (h, w) or (c, h, w) float32, the network's frame, its truth,
            and the full size.
    """

    metric: str
    load: Callable[[TrainingSet, Path, int], HeadTruth]
    target: Callable[[np.ndarray, Frame, Size], np.ndarray]
    score: Callable[[np.ndarray, Frame, np.ndarray, Size], float]
    loss: str | None = None


def _coverage(runs: np.ndarray, frame: Frame, full: Size) -> np.ndarray:
    return frame.apply_mask(rle.decode(runs, full))


# the head of a binary mask: training is watched, and blends are made, by the competition's metric of it
MASK_HEAD = "mask"
DEPTH_HEAD = "depth"

HEADS: dict[str, HeadRule] = {
    MASK_HEAD: HeadRule(
        metric=DICE.name,
        load=lambda training, cache, jobs: load_truth(training, cache, jobs=jobs),
        target=_coverage,
        score=full_size_score,
    ),
    PRESENCE_HEAD: HeadRule(
        metric="presence_accuracy",
        load=lambda training, cache, jobs: load_truth(training, cache, jobs=jobs),
        target=lambda runs, frame, full: np.full(frame.size, 255 if len(runs) else 0, np.uint8),
        score=lambda logits, frame, runs, full: float((logits.mean() > 0) == (len(runs) > 0)),
        loss="bce",
    ),
    # nearness, 0 far .. 1 near
    DEPTH_HEAD: HeadRule(
        metric="depth_rmse",
        load=lambda training, cache, jobs: NearTruth(training).checked(),
        target=lambda near, frame, full: frame.apply(near),
        score=full_size_rmse,
    ),
}


def find_rule(head: str, metric: Metric) -> HeadRule:
    """The rule of a head of `HEADS` in a competition: masks are scored by its metric, other heads by their own."""
    rule = HEADS[head]
    if head != MASK_HEAD or metric.name == rule.metric:
        return rule
    return replace(rule, metric=metric.name, score=partial(full_size_score, metric=metric))


def load_truths(variant: Variant, training: TrainingSet, cache: Path, *, jobs: int = -1) -> dict[str, HeadTruth]:
    """The truth of each of a variant's heads, by head.

    Args:
        variant: whose heads.
        training: the images.
        cache: `runs/<competition>/cache`.
        jobs: processes, as joblib counts them.

    Raises:
        UserError: a truth cannot be used; the message names the file.
    """
    return {head.name: HEADS[head.name].load(training, cache, jobs) for head in variant.heads}


def targets(
    heads: Sequence[str], truths: Mapping[str, HeadTruth], position: int, frame: Frame, full: Size
) -> np.ndarray:
    """What heads are trained towards, in their order: (h, w) uint8, or (h, w, K) where they have several planes."""
    return targets_of(heads, {head: truths[head].of(position) for head in heads}, frame, full)


def targets_of(heads: Sequence[str], truths: Mapping[str, np.ndarray], frame: Frame, full: Size) -> np.ndarray:
    """As `targets`, from each head's truth of one image."""
    each = [HEADS[head].target(truths[head], frame, full) for head in heads]
    if len(each) == 1:
        return each[0]
    return np.concatenate([plane.reshape(*frame.size, -1) for plane in each], axis=-1)


def check_heads(variant: Variant, competition: Competition) -> None:
    """Refuse a network that the competition's data cannot train, before any image is read.

    Raises:
        UserError: the competition has no truth for a head, nobody knows how to score it, or the network takes other
            channels than the images have.
    """
    for head in variant.heads:
        if head.name not in HEADS:
            raise UserError(
                f"{variant.name} has the head {head.name!r}; known: {', '.join(HEADS)} (add one in folds/heads.py)."
            )
        if head.name not in competition.targets:
            raise UserError(
                f"{variant.name} has the head {head.name!r}, and {competition.name} has truth for "
                f"{', '.join(competition.targets)} alone: choose another variant."
            )
    if variant.in_channels not in (1, competition.channels):
        raise UserError(
            f"{variant.name} takes {variant.in_channels} channels, and an image of {competition.name} has "
            f"{competition.channels}: choose a variant of {competition.channels}, or of 1 for grey."
        )
