"""A classifier of groups' labels (the make of a car) from features of a network, cross-fitted by the network's folds.

Networks of two folds speak of the same image in features of their own, so a held-out group is judged by a classifier
that was fitted on what its own fold's network, which has not seen the group, says of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.intervals import mean_interval

TOP = (1, 3)
# principal components that the classifier sees, and how much it trusts them: set beforehand, not searched
_COMPONENTS, _C = 128, 0.1


@dataclass(frozen=True)
class Figure:
    """How often the truth is among the first so many: a mean over images or groups (0..1), and its 95 % interval."""

    share: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Judged:
    """What classifiers say of groups that neither they nor the networks have seen.

    Attributes:
        labels: all that there are, in order.
        groups: (N,) str, of each image.
        truth: (N,) int, positions in `labels`.
        probabilities: (N, L) float64, of each image; of a label that the classifier was never shown, 0.
        frequencies: (N, L) float64: of each label, its share of the groups that the image's classifier was fitted on.
    """

    labels: tuple[str, ...]
    groups: np.ndarray
    truth: np.ndarray
    probabilities: np.ndarray
    frequencies: np.ndarray

    def by_group(self) -> Judged:
        """The same of whole groups: the mean of their images' log-probabilities."""
        names, first, member = np.unique(self.groups, return_index=True, return_inverse=True)
        logs = np.log(np.maximum(self.probabilities, 1e-9))
        means = np.stack([np.bincount(member, weights=column) for column in logs.T], 1) / np.bincount(member)[:, None]
        probabilities = np.exp(means - means.max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
        return Judged(self.labels, names, self.truth[first], probabilities, self.frequencies[first])

    def guesses(self, count: int) -> np.ndarray:
        """(N, count) int: the likeliest labels, likeliest first."""
        order: np.ndarray = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return order

    def figure(self, top: int) -> Figure:
        """How often the truth is among the `top` likeliest; the interval is over groups."""
        return self._figure((self.guesses(top) == self.truth[:, None]).any(1))

    def by_frequency(self, top: int) -> Figure:
        """The same of whoever always names the `top` labels that are the most frequent of all here, with hindsight.

        Of the other folds alone they would be too easy to beat: a label that is frequent there is rarer in the fold.
        """
        counts = np.bincount(self.truth, minlength=len(self.labels))
        return self._figure(np.isin(self.truth, np.argsort(-counts, kind="stable")[:top]))

    @property
    def learnable(self) -> float:
        """The share whose label other groups have too, which no classifier can exceed."""
        return float((self.frequencies[np.arange(len(self.truth)), self.truth] > 0).mean())

    def _figure(self, right: np.ndarray) -> Figure:
        values = right.astype(np.float64)
        return Figure(float(values.mean()), mean_interval(values, self.groups, bounds=(0.0, 1.0)))

    def confusion(self) -> np.ndarray:
        """(L, L) int: of each true label (row), how many have each one (column) as the likeliest."""
        counts = np.zeros((len(self.labels), len(self.labels)), np.int64)
        np.add.at(counts, (self.truth, self.guesses(1)[:, 0]), 1)
        return counts


def _fitted(features: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """From features (N, D) to probabilities (N, of the labels in `truth`, in order)."""
    # seconds to import
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    components = min(_COMPONENTS, *features.shape)
    steps = StandardScaler(), PCA(components, whiten=True, random_state=0), LogisticRegression(C=_C, max_iter=300)
    pipeline = make_pipeline(*steps)
    pipeline.fit(features, truth, logisticregression__sample_weight=weights)
    said: Callable[[np.ndarray], np.ndarray] = pipeline.predict_proba
    return said


def cross_fitted(features: Sequence[np.ndarray], folds: np.ndarray, groups: np.ndarray, labels: np.ndarray) -> Judged:
    """Judge every image by a classifier that has not seen its group.

    Args:
        features: per fold, (N, D) float32 of all images by that fold's network.
        folds: (N,) int: the fold whose network has not seen an image.
        groups: (N,) str, of each image; those of one group have one label and one fold.
        labels: (N,) str, of each image; two or more different ones among the others of every fold.
    """
    names, truth = np.unique(labels, return_inverse=True)
    probabilities, frequencies = (np.zeros((len(truth), len(names))) for _ in range(2))
    for fold, own in enumerate(features):
        held_out = folds == fold
        if not held_out.any():
            continue
        others = ~held_out
        _, first, member = np.unique(groups[others], return_index=True, return_inverse=True)
        # a group counts as one, however many images it has
        weights = len(member) / len(first) / np.bincount(member)[member]
        known = np.unique(truth[others])
        said = _fitted(own[others], truth[others], weights)(own[held_out])
        probabilities[np.ix_(held_out, known)] = said
        frequencies[held_out] = np.bincount(truth[others][first], minlength=len(names)) / len(first)
    return Judged(tuple(map(str, names)), groups, truth, probabilities, frequencies)
