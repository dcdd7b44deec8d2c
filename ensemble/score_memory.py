"""An index that computes nothing twice: fits that leave out different folds ask for the same weightings of an image.

A fit on all folds but two scores the same starting points as one on all folds but one, on images that both have. Of
all that a choice of the blend asks for, with every fold and every pair of folds left out, most is asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from ensemble.index import DisagreementIndex

# beyond this, what is new is computed and forgotten
_LIMIT_BYTES = 3 << 27

# from positions in the list of keys, and positions of images, to scores (images, keys)
Compute = Callable[[np.ndarray, np.ndarray], np.ndarray]


class ScoreMemory:
    """Scores of images under whatever a key stands for.

    Args:
        count: N images.
        limit_bytes: the most that is remembered.

    Attributes:
        fits: what was fitted, by what and on which images (`RememberingIndex.fitted`).
    """

    def __init__(self, count: int, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._count = count
        self._most = limit_bytes // (8 * max(1, count))
        self._known: dict[Hashable, np.ndarray] = {}
        self.fits: dict[Hashable, np.ndarray] = {}

    def _row(self, key: Hashable) -> np.ndarray:
        row = self._known.get(key)
        if row is None:
            row = np.full(self._count, np.nan)
            if len(self._known) < self._most:
                self._known[key] = row
        return row

    def recall(self, keys: Sequence[Hashable], places: np.ndarray, compute: Compute) -> np.ndarray:
        """Scores of some images under each key.

        Args:
            keys: K of them; equal keys have equal scores.
            places: (n,) which images, 0 .. N - 1.
            compute: from positions in `keys` (k,) and in `places` (m,) to the scores (m, k) that are not known yet;
                called at most once.

        Returns:
            (n, K) float64.
        """
        rows = [self._row(key) for key in keys]
        unknown = np.isnan([row[places] for row in rows])
        lacking = np.flatnonzero(unknown.any(1))
        if len(lacking):
            missing = np.flatnonzero(unknown[lacking].any(0))
            for k, found in zip(lacking, compute(lacking, missing).T, strict=True):
                rows[k][places[missing]] = found
        return np.stack([row[places] for row in rows], axis=1)


def _keys(weights: np.ndarray, thresholds: np.ndarray) -> list[Hashable]:
    return [(row.tobytes(), limit.tobytes()) for row, limit in zip(weights, thresholds, strict=True)]


@dataclass(frozen=True)
class RememberingIndex(DisagreementIndex):
    """A `DisagreementIndex` that gives the same scores, each computed once.

    Attributes:
        memory: of what is known, shared with the indices that are parts of this one.
        places: (N,) of this index's images in the memory.
    """

    memory: ScoreMemory = field(default_factory=lambda: ScoreMemory(0))
    places: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @staticmethod
    def around(index: DisagreementIndex) -> RememberingIndex:
        """The same index with a memory that is empty yet."""
        count = len(index.truths)
        known = {f.name: getattr(index, f.name) for f in fields(DisagreementIndex)}
        return RememberingIndex(**known, memory=ScoreMemory(count), places=np.arange(count))

    def of(self, images: np.ndarray) -> RememberingIndex:
        """The index of the images at these positions alone; pixels and memory are shared, not copied."""
        part = super().of(images)
        known = {f.name: getattr(part, f.name) for f in fields(DisagreementIndex)}
        return RememberingIndex(**known, memory=self.memory, places=self.places[images])

    def scores(
        self, weights: np.ndarray, thresholds: np.ndarray | float = 0.0, *, images: np.ndarray | None = None
    ) -> np.ndarray:
        """As `DisagreementIndex.scores`."""
        rows = np.atleast_2d(np.asarray(weights, np.float32))
        limits = np.broadcast_to(np.asarray(thresholds, np.float32), len(rows))
        chosen = np.arange(len(self.truths)) if images is None else np.asarray(images)
        score = super().scores
        return self.memory.recall(
            _keys(rows, limits),
            self.places[chosen],
            lambda which, some: score(rows[which], limits[which], images=chosen[some]),
        )

    def scores_near(
        self, base: np.ndarray, factors: np.ndarray, weights: np.ndarray, *, images: np.ndarray | None = None
    ) -> np.ndarray:
        """As `DisagreementIndex.scores_near`; a weighting is remembered for `scores` too."""
        rows = np.asarray(weights, np.float32)
        chosen = np.arange(len(self.truths)) if images is None else np.asarray(images)
        score = super().scores_near
        return self.memory.recall(
            _keys(rows, np.zeros(len(rows), np.float32)),
            self.places[chosen],
            lambda which, some: score(base, factors[which], rows[which], images=chosen[some]),
        )

    def fitted(self, key: Hashable, images: np.ndarray, fit: Callable[[], np.ndarray]) -> np.ndarray:
        """As `DisagreementIndex.fitted`; each key is fitted on the same images once."""
        whole = key, self.places[images].tobytes()
        if whole not in self.memory.fits:
            self.memory.fits[whole] = fit()
        return self.memory.fits[whole].copy()

    def vote_scores(self, vote: str, weights: np.ndarray, *, images: np.ndarray | None = None) -> np.ndarray:
        """As `DisagreementIndex.vote_scores`."""
        chosen = np.arange(len(self.truths)) if images is None else np.asarray(images)
        score = super().vote_scores
        key = vote, np.asarray(weights, np.float64).tobytes()
        found = self.memory.recall(
            [key], self.places[chosen], lambda _, some: score(vote, weights, images=chosen[some])[:, None]
        )
        return found[:, 0]
