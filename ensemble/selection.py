"""What each way of blending is really worth: nested cross-validation over the folds, and the choice from it.

Out-of-fold logits are honest about the networks, but weights fitted on them are not honest about themselves: they
have seen the pixels they are scored on. So each way of blending is fitted on the images of all folds but one and
scored on that one; the Dice that is reported comes from images that no part of the fit has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensemble.index import DisagreementIndex, fold_rows
from ensemble.stacking import BLENDERS, Blender

RESAMPLES = 1000
_THRESHOLDS = 21


def group_means(values: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """(RESAMPLES,) means of `values` (N,) over bootstrap draws of whole `groups` (N,): images of a car are drawn
    together, as they resemble each other. The same seed draws the same groups, so that differences are paired."""
    _, member = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(member, weights=values), np.bincount(member)
    draws = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    means: np.ndarray = sums[draws].sum(1) / counts[draws].sum(1)
    return means


def bootstrap_interval(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of `values` (N,) by bootstrap over `groups` (N,)."""
    low, high = np.percentile(group_means(values, groups), (2.5, 97.5))
    return float(low), float(high)


def expected_interval(values: np.ndarray, groups: np.ndarray, count: int, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean Dice over `count` groups that nobody has seen.

    Wider than `bootstrap_interval`, which is about the mean of all groups there could be: a test set is a draw of its
    own. Each resample draws groups as the bootstrap does, and the test set's groups from those.

    Args:
        values: (N,) Dice of the images at hand, out of fold.
        groups: (N,) their groups.
        count: groups of the test set, at least 1.
        seed: of the draws.
    """
    _, member = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(member, weights=values), np.bincount(member)
    random = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        at_hand = random.integers(0, len(sums), len(sums))
        drawn = at_hand[random.integers(0, len(sums), count)]
        means[i] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def figures(values: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Mean, interval and lowest of per-image Dice `values` (N,), JSON-able."""
    return {
        "dice": float(values.mean()),
        "interval": list(bootstrap_interval(values, groups)),
        "worst": float(values.min()),
    }


def gains(nested: np.ndarray, candidates: list[Candidate], groups: np.ndarray) -> dict[str, Any]:
    """What nested Dice (N,) is above that of the two simplest ways, the best network and the plain mean; JSON-able.

    Returns:
        By way: gain, the mean of the paired differences, and its 95 % interval by bootstrap over groups.
    """
    differences = {c.name: nested - c.nested for c in candidates if c.name in ("best-single", "equal-mean")}
    return {
        name: {"gain": float(difference.mean()), "interval": list(bootstrap_interval(difference, groups))}
        for name, difference in differences.items()
    }


def best_threshold(index: DisagreementIndex, weights: np.ndarray, images: np.ndarray) -> float:
    """The threshold of the index's band with the highest mean Dice on `images`; 0 unless another gains."""
    candidates = np.linspace(*index.band, _THRESHOLDS)
    candidates = np.concatenate(([0.0], candidates[candidates != 0]))
    scores = index.dice(np.repeat(weights[None], len(candidates), 0), candidates, images=images).mean(0)
    return float(candidates[int(scores.argmax())])


@dataclass(frozen=True)
class Candidate:
    """One way of blending and its worth.

    Attributes:
        name: key of `BLENDERS`, of `VOTED`, or another's own.
        weights: (M,) fitted on all images; what would be used on the test set.
        nested: (N,) Dice of every image under weights fitted without its fold.
        nested_weights: (M,) weights fitted without a fold, by fold.
        vote: what is done with weights and networks: "logits" for their weighted mean, a key of
            `ensemble.voting.VOTES`, or the name of a stacker.
    """

    name: str
    weights: np.ndarray
    nested: np.ndarray
    nested_weights: dict[int, np.ndarray]
    vote: str = "logits"


def evaluate(name: str, make: Callable[[], Blender], index: DisagreementIndex, fold: np.ndarray) -> Candidate:
    """Fit one way of blending within each fold's complement and on everything.

    Args:
        name: for the result.
        make: makes an unfitted blender.
        index: of all images.
        fold: (N,) the fold each image was held out in.
    """
    nested = np.empty(len(fold))
    nested_weights = {}
    for held_out in map(int, np.unique(fold)):
        seen, unseen = fold_rows(fold, held_out)
        nested_weights[held_out] = make().fit(index, seen).weights_
        nested[unseen] = index.dice(nested_weights[held_out], images=unseen)[:, 0]
    return Candidate(name, make().fit(index, np.arange(len(fold))).weights_, nested, nested_weights)


def evaluate_vote(name: str, vote: str, linear: Candidate, index: DisagreementIndex, fold: np.ndarray) -> Candidate:
    """The worth of a vote with the weights of a linear candidate; the vote itself has nothing to learn.

    Args:
        name: for the result.
        vote: key of `ensemble.voting.VOTES`.
        linear: its weights without a fold are those that the images of that fold are scored with.
        index, fold: as `evaluate`.
    """
    nested = np.empty(len(fold))
    for held_out, weights in linear.nested_weights.items():
        unseen = fold_rows(fold, held_out)[1]
        nested[unseen] = index.vote_dice(vote, weights, images=unseen)
    return Candidate(name, linear.weights, nested, linear.nested_weights, vote)


# votes by name: whose weights they take, and how they combine; each follows the linear blend that it resembles
VOTED = {
    "probability": ("equal-mean", "probability"),
    "geometric": ("equal-mean", "geometric"),
    "majority": ("equal-mean", "majority"),
    "weighted-probability": ("dice-weights", "probability"),
    "weighted-geometric": ("dice-weights", "geometric"),
    "weighted-majority": ("dice-weights", "majority"),
}


@dataclass(frozen=True)
class FittedThreshold:
    """A threshold on the blended logits and its worth.

    Attributes:
        value: fitted on all images.
        nested: (N,) Dice of every image under weights and a threshold fitted without its fold.
    """

    value: float
    nested: np.ndarray


def fit_threshold(candidate: Candidate, index: DisagreementIndex, fold: np.ndarray) -> FittedThreshold:
    """Fit the threshold of a blend, in the same nested way as its weights."""
    nested = np.empty(len(fold))
    for held_out, weights in candidate.nested_weights.items():
        seen, unseen = fold_rows(fold, held_out)
        nested[unseen] = index.dice(weights, best_threshold(index, weights, seen), images=unseen)[:, 0]
    return FittedThreshold(best_threshold(index, candidate.weights, np.arange(len(fold))), nested)


def evaluate_all(
    index: DisagreementIndex, fold: np.ndarray, blenders: Mapping[str, Callable[[], Blender]] = BLENDERS
) -> list[Candidate]:
    """Every way of blending, simplest first: the linear ones, each followed by the votes that resemble it."""
    candidates = []
    for name, make in blenders.items():
        linear = evaluate(name, make, index, fold)
        candidates.append(linear)
        candidates += [
            evaluate_vote(its_name, vote, linear, index, fold)
            for its_name, (weights_of, vote) in VOTED.items()
            if weights_of == name
        ]
    return candidates


def choose(candidates: list[Candidate], groups: np.ndarray) -> Candidate:
    """The simplest candidate that is within noise of the best.

    Noise is one standard error of the difference to the best, by bootstrap over groups of the paired difference: cars
    differ far more from each other than blends do, and that part of the spread is common to both.

    Args:
        candidates: simplest first.
        groups: (N,) group of every image.
    """
    best = max(candidates, key=lambda candidate: candidate.nested.mean())
    for candidate in candidates:
        loss = best.nested - candidate.nested
        if loss.mean() <= group_means(loss, groups).std():
            return candidate
    return best
