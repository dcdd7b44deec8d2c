"""What each way of blending is really worth: nested cross-validation over the folds, and the choice from it.

Out-of-fold logits are honest about the networks, but weights fitted on them are not honest about themselves: they
have seen the pixels they are scored on. So each way of blending is fitted on the images of all folds but one and
scored on that one; the score that is reported comes from images that no part of the fit has seen.

The best of several such figures is no longer honest: it was the best on these very images. What the choice itself is
worth is for `ensemble.procedure` to say, which makes it again without each fold. It needs every way as it would be
without that fold, its own nested figures included: `Candidate.inner`. What is fitted without folds a and b is the
same whichever of them is scored, so F folds take F (F - 1) / 2 more fits.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from ensemble.index import DisagreementIndex, fold_rows
from ensemble.intervals import mean_interval, standard_error
from ensemble.stacking import BLENDERS, SEARCHED, Blender, way_name
from ensemble.voting import Combination, combination_of

_THRESHOLDS = 21


def best_threshold(index: DisagreementIndex, weights: np.ndarray, images: np.ndarray) -> float:
    """The threshold of the index's band with the highest mean score on `images`; 0 unless another gains."""
    candidates = np.linspace(*index.band, _THRESHOLDS)
    candidates = np.concatenate(([0.0], candidates[candidates != 0]))
    scores = index.scores(np.repeat(weights[None], len(candidates), 0), candidates, images=images).mean(0)
    return float(candidates[int(scores.argmax())])


@dataclass(frozen=True)
class Candidate:
    """One way of blending and its worth on N images.

    Attributes:
        name: key of `BLENDERS`, of `VOTING_WAYS`, or another's own.
        weights: (M,) fitted on all images; what would be used on the test set.
        nested: (N,) scores of every image under weights fitted without its fold.
        nested_weights: (M,) weights fitted without a fold, by fold.
        vote: what is done with weights and networks: "logits" for their weighted mean, a key of
            `ensemble.voting.VOTES`, or the name of a stacker.
        stacker: fitted on all images, where the vote is one; nested_stackers: fitted without a fold, by fold.
        inner: by fold, the same way on the images of all other folds alone; empty where that was not evaluated.
    """

    name: str
    weights: np.ndarray
    nested: np.ndarray
    nested_weights: Mapping[int, np.ndarray]
    vote: str = "logits"
    stacker: Combination | None = None
    nested_stackers: Mapping[int, Combination] = field(default_factory=dict)
    inner: Mapping[int, Candidate] = field(default_factory=dict)

    @property
    def combine(self) -> Combination:
        """How it makes one of the networks' logits."""
        return combination_of(self.vote) if self.stacker is None else self.stacker

    def without(self, held_out: int) -> Candidate:
        """It as it is without a fold. Where `inner` lacks that, what is fitted is there and `nested` is empty."""
        if held_out in self.inner:
            return self.inner[held_out]
        stacker = self.nested_stackers.get(held_out)
        return Candidate(self.name, self.nested_weights[held_out], np.empty(0), {}, self.vote, stacker)


def evaluate(
    name: str, make: Callable[[], Blender], index: DisagreementIndex, fold: np.ndarray, *, inner: bool = False
) -> Candidate:
    """Fit one way of blending within each fold's complement and on everything.

    Args:
        name: for the result.
        make: makes an unfitted blender.
        index: of all images.
        fold: (N,) the fold each image was held out in.
        inner: do the same once more without each fold, for `Candidate.inner`. There must be three folds.
    """

    @cache
    def weights(left_out: frozenset[int]) -> np.ndarray:
        return make().fit(index, np.flatnonzero(~np.isin(fold, list(left_out)))).weights_

    def without(left_out: frozenset[int], deeper: bool) -> Candidate:
        nested = np.full(len(fold), np.nan)
        there = ~np.isin(fold, list(left_out))
        others = list(map(int, np.unique(fold[there])))
        nested_weights = {k: weights(left_out | {k}) for k in others}
        for k in others:
            unseen = np.flatnonzero(fold == k)
            nested[unseen] = index.scores(nested_weights[k], images=unseen)[:, 0]
        its_inner = {k: without(left_out | {k}, False) for k in others} if deeper else {}
        return Candidate(name, weights(left_out), nested[there], nested_weights, inner=its_inner)

    return without(frozenset(), inner)


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
        nested[unseen] = index.vote_scores(vote, weights, images=unseen)
    inner = {}
    for held_out, its_linear in linear.inner.items():
        seen = fold_rows(fold, held_out)[0]
        inner[held_out] = evaluate_vote(name, vote, its_linear, index.of(seen), fold[seen])
    return Candidate(name, linear.weights, nested, linear.nested_weights, vote, inner=inner)


# votes by name: whose weights they take, and how they combine; each follows the linear blend that it resembles
VOTING_WAYS = {
    "probability": ("equal-mean", "probability"),
    "geometric": ("equal-mean", "geometric"),
    "majority": ("equal-mean", "majority"),
    "weighted-probability": (SEARCHED, "probability"),
    "weighted-geometric": (SEARCHED, "geometric"),
    "weighted-majority": (SEARCHED, "majority"),
}


@dataclass(frozen=True)
class FittedThreshold:
    """A threshold on the blended logits and its worth.

    Attributes:
        value: fitted on all images.
        nested: (N,) scores of every image under weights and a threshold fitted without its fold.
    """

    value: float
    nested: np.ndarray


def fit_threshold(candidate: Candidate, index: DisagreementIndex, fold: np.ndarray) -> FittedThreshold:
    """Fit the threshold of a blend, in the same nested way as its weights."""
    nested = np.empty(len(fold))
    for held_out, weights in candidate.nested_weights.items():
        seen, unseen = fold_rows(fold, held_out)
        nested[unseen] = index.scores(weights, best_threshold(index, weights, seen), images=unseen)[:, 0]
    return FittedThreshold(best_threshold(index, candidate.weights, np.arange(len(fold))), nested)


def evaluate_all(
    index: DisagreementIndex,
    fold: np.ndarray,
    blenders: Mapping[str, Callable[[], Blender]] = BLENDERS,
    *,
    inner: Container[str] = (),
) -> list[Candidate]:
    """Every way of blending, simplest first: the linear ones, each followed by the votes that resemble it.

    Args:
        index, fold: as `evaluate`.
        blenders: the linear ways.
        inner: names of the ways that are also evaluated without each fold.
    """
    candidates = []
    for name, make in blenders.items():
        votes = [(its_name, vote) for its_name, (weights_of, vote) in VOTING_WAYS.items() if weights_of == name]
        called = way_name(name, index.metric)
        deeper = called in inner or any(its_name in inner for its_name, _ in votes)
        linear = evaluate(called, make, index, fold, inner=deeper)
        candidates.append(linear)
        candidates += [evaluate_vote(its_name, vote, linear, index, fold) for its_name, vote in votes]
    return candidates


def choose(candidates: list[Candidate], groups: np.ndarray) -> Candidate:
    """The simplest candidate that is within noise of the best.

    Noise is one standard error of the difference to the best, over groups and of the paired difference: cars differ
    far more from each other than blends do, and that part of the spread is common to both.

    Args:
        candidates: simplest first.
        groups: (N,) group of every image.
    """
    best = max(candidates, key=lambda candidate: candidate.nested.mean())
    for candidate in candidates:
        loss = best.nested - candidate.nested
        if loss.mean() <= standard_error(loss, groups):
            return candidate
    return best


def gain_over_best(nested: np.ndarray, singles: np.ndarray, names: Sequence[str], groups: np.ndarray) -> dict[str, Any]:
    """What nested scores (N,) are above those of the best network as it is; JSON-able.

    The network is the best of these very images, so the gain is a little too small rather than too large. The pair that
    is compared is one and the same in all images, so that the interval holds what intervals of differences do (0.95 or
    a little more); `gains`, with another network in each fold, is right on average, but noisier, and its interval holds
    about 0.90. `tests/test_ensemble_selection.py` simulates both.

    Args:
        nested: of the blend.
        singles: (N, M) of each network.
        names: theirs.
        groups: (N,) of the images.

    Returns:
        member, the network's name; gain, the mean of the paired differences; its 95 % interval over groups.
    """
    best = int(singles.mean(0).argmax())
    difference = nested - singles[:, best]
    interval = list(mean_interval(difference, groups))
    return {"member": names[best], "gain": float(difference.mean()), "interval": interval}


def gains(nested: np.ndarray, candidates: list[Candidate], groups: np.ndarray) -> dict[str, Any]:
    """What nested scores (N,) are above those of the two simplest ways, the best network and the plain mean; JSON-able.

    The best network of each fold is the one that the other folds call the best: `gain_over_best` has the same network
    in all.

    Returns:
        By way: gain, the mean of the paired differences, and its 95 % interval over groups.
    """
    differences = {c.name: nested - c.nested for c in candidates if c.name in ("best-single", "equal-mean")}
    return {
        name: {"gain": float(difference.mean()), "interval": list(mean_interval(difference, groups))}
        for name, difference in differences.items()
    }
