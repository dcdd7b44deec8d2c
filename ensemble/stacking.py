"""Ways to fit a convex blend on out-of-fold logits. All score through the disagreement index, at full size.

They keep scikit-learn's manners: parameters in the constructor, `fit(index, images)` returns self, learned state ends
in an underscore. What is learned is always `weights_` (M,), at least 0 and summing to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ensemble.index import DisagreementIndex
from kernels.metrics import Metric

# a gain in mean score below this is noise of rounding, not a better blend
_LEAST_GAIN = 1e-7
# of many networks, those that take mass best, and those that give it best, of which all pairs are tried
_BEST = 6
# Of many networks on many images, weightings are compared on so many images first, drawn evenly, and only as many as
# `_BEST` on all of them. What weightings differ by varies far less over images than what they score.
_FIRST_LOOK = 500


class Blender(Protocol):
    """Something that learns weights."""

    weights_: np.ndarray

    def fit(self, index: DisagreementIndex, images: np.ndarray) -> Blender:
        """Learn from the images at these positions of the index; returns self."""


def _mean_scores(index: DisagreementIndex, images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return index.scores(weights, images=images).mean(0)


def _near_scores(
    index: DisagreementIndex, images: np.ndarray, base: np.ndarray, factors: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    return index.scores_near(base, factors, weights, images=images).mean(0)


def _first_look(index: DisagreementIndex, images: np.ndarray) -> np.ndarray:
    """Some of the images, or all where they are few; mostly the same ones whatever is left out, so that what is known
    of them is known to all fits."""
    if len(images) < 2 * _FIRST_LOOK:
        return images
    drawn = np.random.default_rng(0).random(len(index.truths))[images]
    return images[np.argsort(drawn, kind="stable")[:_FIRST_LOOK]]


class _Looker:
    """Means of the scores of weightings on a fit's images, exact for all of them or for the likely best alone."""

    def __init__(self, index: DisagreementIndex, images: np.ndarray, *, sparing: bool) -> None:
        self.index = index
        self.images = images
        self._some = _first_look(index, images) if sparing else images

    def near(self, base: np.ndarray, factors: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(W,) of weightings around a common one, as `DisagreementIndex.scores_near` takes them; on a first look."""
        return _near_scores(self.index, self._some, base, factors, weights)

    def _exact(self, found: np.ndarray, score: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        if self._some is self.images:
            return found
        exact = np.full(len(found), -1.0)
        likely = np.sort(np.argsort(-found, kind="stable")[:_BEST])
        exact[likely] = score(likely)
        return exact

    def exact_near(self, found: np.ndarray, base: np.ndarray, factors: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(W,) scores on all images of what `near` found best, and -1 of the others."""
        return self._exact(found, lambda k: _near_scores(self.index, self.images, base, factors[k], weights[k]))

    def exact(self, weights: np.ndarray) -> np.ndarray:
        """(W,) scores on all images of those of some weightings that are best on a first look, and -1 of the others."""
        found = _mean_scores(self.index, self._some, weights)
        return self._exact(found, lambda k: _mean_scores(self.index, self.images, weights[k]))


class BestSingle:
    """The one network with the highest mean score."""

    def fit(self, index: DisagreementIndex, images: np.ndarray) -> BestSingle:
        """Learn from `images`; returns self."""
        members = index.members
        scores = _mean_scores(index, images, np.eye(members))
        self.weights_ = np.eye(members)[int(scores.argmax())]
        return self


class EqualMean:
    """The plain mean of all networks; nothing is learned."""

    def fit(self, index: DisagreementIndex, images: np.ndarray) -> EqualMean:
        """Returns self."""
        members = index.members
        self.weights_ = np.full(members, 1 / members)
        return self


class MeanOfBest:
    """The mean of the k best networks, for the k with the highest mean score."""

    def fit(self, index: DisagreementIndex, images: np.ndarray) -> MeanOfBest:
        """Learn from `images`; returns self."""
        members = index.members
        ranking = np.argsort(-_mean_scores(index, images, np.eye(members)), kind="stable")
        candidates = np.zeros((members, members))
        for k in range(1, members + 1):
            candidates[k - 1, ranking[:k]] = 1 / k
        scores = _mean_scores(index, images, candidates)
        self.weights_ = candidates[int(scores.argmax())]
        return self


class GreedySelection:
    """Greedy selection with replacement (Caruana et al. 2004, "Ensemble selection from libraries of models").

    Starting from the best network, the one whose addition raises the mean score most is added, the same one again if
    need be, so that weights are counts. The best ensemble met on the way is kept.

    With more than six networks and a thousand images, additions are compared on 500 of the images first, and those that
    are best there on all.

    Args:
        rounds: additions tried.
        patience: rounds without a new best after which it stops.
        all_images: networks up to which all additions are compared on all images.
    """

    def __init__(self, rounds: int = 40, patience: int = 8, all_images: int = 6) -> None:
        self.rounds = rounds
        self.patience = patience
        self.all_images = all_images

    def fit(self, index: DisagreementIndex, images: np.ndarray) -> GreedySelection:
        """Learn from `images`; returns self."""
        key = "greedy", self.rounds, self.patience, self.all_images
        # the search for weights starts from it too
        self.weights_ = index.fitted(key, images, lambda: self._fit(index, images))
        return self

    def _fit(self, index: DisagreementIndex, images: np.ndarray) -> np.ndarray:
        members = index.members
        look = _Looker(index, images, sparing=members > self.all_images)
        counts = np.zeros(members)
        best, best_score, since = counts, -1.0, 0
        for size in range(self.rounds):
            candidates = counts + np.eye(members)
            weights = candidates / candidates.sum(1, keepdims=True)
            if size:
                around = counts / size, np.full(members, size / (size + 1)), weights
                scores = look.exact_near(look.near(*around), *around)
            else:
                scores = _mean_scores(index, images, weights)
            pick = int(scores.argmax())
            counts = candidates[pick]
            if scores[pick] > best_score + _LEAST_GAIN:
                best, best_score, since = counts, float(scores[pick]), 0
            else:
                since += 1
                if since == self.patience:
                    break
        return np.asarray(best / best.sum())


class ScoreWeights:
    """Weights that maximise the mean score itself.

    The mean score is a step function of the weights, so gradients are of no use; a pattern search on the simplex is:
    mass is moved between pairs of networks by a step that is halved whenever no move gains. It starts from the best of
    the corners, the plain mean, and `draws` random weightings.

    Up to six networks, every pair is tried. With more, which would take the cube of their number, it starts from what
    greedy selection finds if that is better, and tries each network alone first, as one that takes from all others and
    as one that gives to them: only of those that are best at it are all pairs tried. On a thousand images and more, all
    this is done on 500 of them first, and only the best on all.

    Args:
        draws: random starting points tried.
        steps: the steps, largest first.
        seed: of the draws.
        all_pairs: networks up to which all pairs are tried.
    """

    def __init__(
        self,
        draws: int = 64,
        steps: tuple[float, ...] = (0.2, 0.1, 0.05, 0.025, 0.0125),
        seed: int = 0,
        all_pairs: int = 6,
    ) -> None:
        self.draws = draws
        self.steps = steps
        self.seed = seed
        self.all_pairs = all_pairs

    def fit(self, index: DisagreementIndex, images: np.ndarray) -> ScoreWeights:
        """Learn from `images`; returns self."""
        members = index.members
        rng = np.random.default_rng(self.seed)
        starts = np.vstack(
            [np.eye(members), np.full(members, 1 / members), rng.dirichlet(np.ones(members), self.draws)]
        )
        look = _Looker(index, images, sparing=members > self.all_pairs)
        scores = look.exact(starts)
        if members > self.all_pairs:
            greedy = GreedySelection().fit(index, images).weights_
            starts = np.vstack([starts, greedy])
            scores = np.append(scores, _mean_scores(index, images, greedy[None]))
        weights, best = starts[int(scores.argmax())], float(scores.max())
        for step in self.steps:
            while True:
                moved, score = self._best_move(look, weights, step)
                if score <= best + _LEAST_GAIN:
                    break
                weights, best = moved, score
        self.weights_ = weights / weights.sum()
        return self

    def _best_move(self, look: _Looker, weights: np.ndarray, step: float) -> tuple[np.ndarray, float]:
        """The move with the highest mean score, and that; the weights themselves and -1 if there is none to try."""
        members = len(weights)
        everyone, givers = range(members), np.flatnonzero(weights > 0).tolist()
        alone: list[np.ndarray] = []
        found, factors = np.empty(0), np.empty(0)
        pairs = [(i, j) for i in everyone for j in everyone]
        if members > self.all_pairs:
            # a network that takes from all, and one that gives to all, in proportion to what they have
            giving = [i for i in givers if weights[i] < 1]
            changed = [*everyone, *giving]
            taken = np.minimum(step, weights[giving])
            factors = np.concatenate([np.full(members, 1 - step), 1 / (1 - taken)])
            others = factors[:, None] * weights
            others[range(len(changed)), changed] += np.concatenate([np.full(members, step), -taken / (1 - taken)])
            alone = list(np.maximum(others, 0))
            found = look.near(weights, factors, np.array(alone))
            takers = np.argsort(-found[:members], kind="stable")[:_BEST]
            order = np.argsort(-found[members:], kind="stable")[:_BEST]
            pairs = [(changed[members + k], int(j)) for k in order for j in takers]
        moves = []
        for giver, taker in pairs:
            mass = min(step, weights[giver])
            if mass > 0 and giver != taker:
                moved = weights.copy()
                moved[giver] -= mass
                moved[taker] += mass
                moves.append(moved)
        if moves:
            found = np.append(found, look.near(weights, np.ones(len(moves)), np.array(moves)))
        if not len(found):
            return weights, -1.0
        changed_weights = np.array([*alone, *moves])
        exact = look.exact_near(found, weights, np.append(factors, np.ones(len(moves))), changed_weights)
        pick = int(exact.argmax())
        return changed_weights[pick], float(exact[pick])


class LogisticBlend:
    """Logistic regression on the logits of the pixels where networks disagree and a sample of the others, made convex.

    The others count as many times as makes them one half of all: what networks agree on must stay as it is.

    Coefficients below 0 are dropped and the rest refitted until none is left, since a blend that subtracts a network
    fits noise, and only convex blends are exact on the index. The intercept becomes nothing: the threshold is fitted
    elsewhere, in the same nested way for every blend.

    Args:
        pixels: open pixels drawn, at most.
        seed: of the draw.
    """

    def __init__(self, pixels: int = 200_000, seed: int = 0) -> None:
        self.pixels = pixels
        self.seed = seed

    def _drawn(self, index: DisagreementIndex, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(M, D) float32 logits and (D,) uint8 truth of open pixels, drawn evenly from all images together."""
        ends = np.cumsum([len(index.truths[i]) for i in images])
        count = int(ends[-1])
        # image by image: all open pixels of thousands of images at once would be gigabytes
        drawn = np.arange(count)
        if count > self.pixels:
            drawn = np.sort(np.random.default_rng(self.seed).choice(count, self.pixels, replace=False))
        parts = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
        starts = ends - [len(index.truths[i]) for i in images]
        rows = [(i, part - start) for i, part, start in zip(images, parts, starts, strict=True)]
        return (
            np.concatenate([index.open_logits(i, at=at) for i, at in rows], axis=1),
            np.concatenate([index.truths[i][at] for i, at in rows]),
        )

    def fit(self, index: DisagreementIndex, images: np.ndarray) -> LogisticBlend:
        """Learn from `images`; returns self."""
        members = index.members
        logits, truths = self._drawn(index, images)
        self.weights_ = np.full(members, 1 / members)
        if not len(truths):
            # networks that agree everywhere
            return self
        counts = np.ones(len(truths))
        if index.agreed_logits:
            agreed = np.concatenate([index.agreed_logits[i] for i in images], axis=1)
            counts = np.append(counts, np.full(agreed.shape[1], len(truths) / max(1, agreed.shape[1])))
            logits = np.hstack([logits, agreed])
            truths = np.concatenate([truths, *(index.agreed_truths[i] for i in images)])
        active = np.arange(members)
        if len(np.unique(truths)) < 2:
            return self
        # it takes a second, and is needed by nothing else
        from sklearn.linear_model import LogisticRegression

        while len(active):
            model = LogisticRegression().fit(logits[active].T, truths, counts)
            coefficients = model.coef_[0]
            if (coefficients > 0).all():
                self.weights_ = np.zeros(members)
                self.weights_[active] = coefficients / coefficients.sum()
                break
            active = active[coefficients > 0]
        return self


# the way that searches for the highest mean score; it goes by the name of what it searches with
SEARCHED = "dice-weights"


def way_name(way: str, metric: Metric) -> str:
    """What a way of blending, a key of `BLENDERS` or of `ensemble.selection.VOTING_WAYS`, is called in a competition.

    >>> from kernels.metrics import DICE, METRICS
    >>> way_name("dice-weights", METRICS["mean_precision"]), way_name("dice-weights", DICE), way_name("greedy", DICE)
    ('mean-precision-weights', 'dice-weights', 'greedy')
    """
    return f"{metric.name.replace('_', '-')}-weights" if way == SEARCHED else way


# simplest first: of blends that are within noise of the best, the first is chosen
BLENDERS: dict[str, Callable[[], Blender]] = {
    "best-single": BestSingle,
    "equal-mean": EqualMean,
    "mean-of-best": MeanOfBest,
    "greedy": GreedySelection,
    "logistic": LogisticBlend,
    SEARCHED: ScoreWeights,
}
