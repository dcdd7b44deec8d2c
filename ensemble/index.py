"""The disagreement index: full-size scores of any convex blend, without touching full-size frames again.

Where all networks' logits have the same sign, so has every convex blend of them. The index keeps, of every training
image, three counts and the logits of the pixels where the networks disagree, which are few: a weighting of six
networks is then scored some two hundred times as fast as on full frames (`make bench`). What it finds of an image are
counts of pixels, from which the score follows by any metric.

The counts are exact for the weighted sum, in float32 and in the networks' order, of logits at full size. The blend that
predicts (`ensemble.voting.WeightedLogits`) sums networks of one frame before it enlarges them, which rounds
differently: pixels whose blended logit is within 2e-5 or so of the threshold may turn.

Logits that would take too much memory are kept in 8 bits (kernels/pixel_code.py). Each network alone is then still
scored exactly, and any other blend with an error of some pixels an image, to both sides alike.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from cores import thread_count
from ensemble.voting import vote_mask
from folds.parallel import cut
from kernels import pixel_code
from kernels.blend import open_counts
from kernels.metrics import DICE, Metric
from kernels.near import Near

_ALL = slice(None)
# pixels times weightings below which threads take longer to start than to work
_LEAST_WORK = 1_000_000
# that each thread is given, one after the other
_PARTS = 8

Result = TypeVar("Result")

Counts = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class DisagreementIndex:
    """What convex blends of M networks score on N images.

    Attributes:
        agreed: (N, 3) int64: of the pixels all networks agree on, those in prediction and truth, and those in the
            prediction; and the truth's whole area.
        logits: one (M, D_i) float32 array an image: the open pixels' logits.
        truths: one (D_i,) uint8 array an image.
        band: the lowest and the highest threshold that the index serves.
        agreed_logits, agreed_truths: one (M, S_i) float32 and one (S_i,) uint8 array an image: a few of the pixels
            that all networks agree on, drawn evenly. The score needs none of them; a regression may.
        metric: what blends are scored by.
        scales: one (D_i,) uint8 array an image where `logits` are int8 codes (kernels/pixel_code.py); empty where they
            are float32.
        ranges: one (2, D_i) int8 array an image where `logits` are codes: the lowest and the highest of each pixel.
    """

    agreed: np.ndarray
    logits: list[np.ndarray]
    truths: list[np.ndarray]
    band: tuple[float, float]
    agreed_logits: list[np.ndarray] = field(default_factory=list)
    agreed_truths: list[np.ndarray] = field(default_factory=list)
    metric: Metric = DICE
    scales: list[np.ndarray] = field(default_factory=list)
    ranges: list[np.ndarray] = field(default_factory=list)

    def of(self, images: np.ndarray) -> DisagreementIndex:
        """The index of the images at these positions alone; the pixels are shared, not copied."""

        def some(arrays: list[np.ndarray]) -> list[np.ndarray]:
            return [arrays[i] for i in images] if arrays else []

        return DisagreementIndex(
            self.agreed[images],
            some(self.logits),
            some(self.truths),
            self.band,
            some(self.agreed_logits),
            some(self.agreed_truths),
            self.metric,
            some(self.scales),
            some(self.ranges),
        )

    @property
    def members(self) -> int:
        """M, the number of networks."""
        return len(self.logits[0])

    @property
    def exact(self) -> bool:
        """Whether logits are kept as they are, and not in 8 bits."""
        return not self.scales

    def open_logits(
        self, image: int, *, at: np.ndarray | slice = _ALL, members: np.ndarray | slice = _ALL
    ) -> np.ndarray:
        """(m, d) float32 logits of open pixels of the image at a position.

        Args:
            image: the position.
            at: which of its open pixels; all by default.
            members: of which networks; all by default.
        """
        some = self.logits[image][members][:, at]
        return some if self.exact else pixel_code.decode(some, self.scales[image][at])

    def fitted(self, key: Hashable, images: np.ndarray, fit: Callable[[], np.ndarray]) -> np.ndarray:
        """What `fit` gives, which depends on the key and on the images at these positions alone."""
        return fit()

    @property
    def open_share(self) -> float:
        """Mean number of open pixels an image."""
        return float(np.mean([len(t) for t in self.truths]))

    def counts(
        self, weights: np.ndarray, thresholds: np.ndarray | float = 0.0, *, images: np.ndarray | None = None
    ) -> Counts:
        """What many convex blends select.

        Args:
            weights: (W, M), each row at least 0 and summing to 1.
            thresholds: (W,) or one for all, within `band`.
            images: positions to count; all by default.

        Returns:
            Pixels in prediction and truth (len(images), W), in the prediction (len(images), W), and in the truth
            (len(images), 1), int64 each.

        Raises:
            ValueError: a row is not convex, or a threshold lies outside the band: the index would not be exact.
        """
        weights = np.atleast_2d(np.asarray(weights, np.float32))
        limits = np.broadcast_to(np.asarray(thresholds, np.float32), len(weights)).astype(np.float32)
        if (weights < 0).any() or not np.allclose(weights.sum(1), 1, atol=1e-4):
            raise ValueError("weights must be at least 0 and sum to 1")
        if (limits < np.float32(self.band[0])).any() or (limits > np.float32(self.band[1])).any():
            raise ValueError(f"thresholds must lie within {self.band}")
        chosen = np.arange(len(self.truths)) if images is None else np.asarray(images)

        def one(position: int) -> np.ndarray:
            return open_counts(self.logits[position], self.truths[position], weights, limits, self._scales_of(position))

        return self._with_agreed(self._of_each(one, chosen, len(weights)), chosen)

    def _scales_of(self, position: int) -> np.ndarray | None:
        return None if self.exact else self.scales[position]

    def _with_agreed(self, found: Sequence[np.ndarray], chosen: np.ndarray) -> Counts:
        """All counts of some images, from those (W, 2) of each one's open pixels."""
        both, inside = np.moveaxis(np.stack(found), -1, 0)
        intersection, predicted, true = self.agreed[chosen].T[..., None]
        return intersection + both, predicted + inside, true

    def scores(
        self, weights: np.ndarray, thresholds: np.ndarray | float = 0.0, *, images: np.ndarray | None = None
    ) -> np.ndarray:
        """Full-size scores of many convex blends, (len(images), W) float64; arguments and errors as `counts`."""
        return self.metric.of_counts(*self.counts(weights, thresholds, images=images))

    def scores_near(
        self, base: np.ndarray, factors: np.ndarray, weights: np.ndarray, *, images: np.ndarray | None = None
    ) -> np.ndarray:
        """`scores` of weightings around a common one, at the threshold 0: the same, in a fraction of the time.

        Args:
            base: (M,) the common one.
            factors: (W,).
            weights: (W, M); each row is its factor times `base`, but for one weight that is higher and one that is
                lower than that.
            images: positions to score; all by default.

        Raises:
            ValueError: a row is not of this kind.
        """
        near = Near.around(base, factors, weights)
        chosen = np.arange(len(self.truths)) if images is None else np.asarray(images)

        def one(position: int) -> np.ndarray:
            ranges = self.ranges[position] if self.ranges else None
            return near.counts(self.logits[position], self.truths[position], 0.0, self._scales_of(position), ranges)

        # one look at all networks' logits costs as much as some weightings
        found = self._of_each(one, chosen, self.members)
        return self.metric.of_counts(*self._with_agreed(found, chosen))

    def _of_each(self, one: Callable[[int], Result], images: Iterable[int], weightings: int) -> list[Result]:
        """`one` of every image; on threads, if there is work enough to pay for them."""
        positions = list(map(int, images))

        def each(part: list[int]) -> list[Result]:
            return [one(p) for p in part]

        threads = thread_count()
        if threads == 1 or weightings * sum(len(self.truths[p]) for p in positions) < _LEAST_WORK:
            return each(positions)
        # the kernel lets go of the interpreter, so threads share the index without copying it; to hand over every image
        # alone would take as long as to count some
        parts = cut(positions, -(-len(positions) // (threads * _PARTS)))
        with ThreadPoolExecutor(threads) as pool:
            return [result for part in pool.map(each, parts) for result in part]

    def vote_counts(self, vote: str, weights: np.ndarray, *, images: np.ndarray | None = None) -> Counts:
        """What a vote selects.

        Where all networks' logits have one sign, so has every vote of them; so votes, too, need only the open pixels.

        Args:
            vote: key of `ensemble.voting.VOTES`.
            weights: (M,), at least 0.
            images: positions to count; all by default.

        Returns:
            As `counts`, but (len(images),) each.

        Raises:
            ValueError: the band does not hold 0: the index would not be exact.
        """
        if not self.band[0] <= 0 <= self.band[1]:
            raise ValueError(f"votes have the threshold 0, which is not within {self.band}")
        chosen = np.arange(len(self.truths)) if images is None else np.asarray(images)
        used = np.flatnonzero(weights)

        def one(position: int) -> tuple[int, int]:
            mask = vote_mask(vote, list(self.open_logits(position, members=used)), weights[used].tolist())
            return int((mask & self.truths[position].view(bool)).sum()), int(mask.sum())

        both, inside = np.array(self._of_each(one, chosen, 1), np.int64).reshape(-1, 2).T
        intersection, predicted, true = self.agreed[chosen].T
        return intersection + both, predicted + inside, true

    def vote_scores(self, vote: str, weights: np.ndarray, *, images: np.ndarray | None = None) -> np.ndarray:
        """Full-size scores of a vote, (len(images),) float64; arguments and errors as `vote_counts`."""
        return self.metric.of_counts(*self.vote_counts(vote, weights, images=images))


def fold_rows(fold: np.ndarray, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions outside and inside a fold: what may be fitted on, and what is then scored."""
    return np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
