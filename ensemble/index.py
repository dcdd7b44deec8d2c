"""The disagreement index: exact full-size scores of any convex blend, without touching full-size frames again.

Where all networks' logits have the same sign, so has every convex blend of them. The index keeps, of every training
image, three counts and the logits of the pixels where the networks disagree, which are few: a weighting of six
networks is then scored some two hundred times as fast as on full frames (`make bench`). What it finds of an image are
counts of pixels, from which the score follows by any metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import cv2
import numpy as np

from ensemble.oof_data import OofData
from ensemble.voting import vote_mask
from folds.parallel import cut, in_parallel
from folds.scoring import full_size_score
from kernels.blend import disagreement, open_counts
from kernels.metrics import DICE, Metric
from kernels.rle import decode

_CHUNK = 8
# pixels of each image drawn from anywhere, of which those that networks agree on are kept beside the open ones
_SAMPLE_PX = 64
# pixels times weightings below which threads take longer to start than to work
_LEAST_WORK = 1_000_000

Result = TypeVar("Result")

Counts = tuple[np.ndarray, np.ndarray, np.ndarray]
Entry = tuple[tuple[int, int, int], np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _score_chunk(oof: OofData, positions: range) -> np.ndarray:
    cv2.setNumThreads(1)
    return np.array([
        [
            full_size_score(plane, frame, oof.truth.of(position), oof.full, oof.metric)
            for plane, frame in zip(oof.planes(position), oof.frames, strict=True)
        ]
        for position in positions
    ])  # fmt: skip


def single_scores(oof: OofData, *, jobs: int = -1) -> np.ndarray:
    """(N, M) float64 full-size scores of each network alone on each image; `jobs` processes, as joblib counts them."""
    count = len(oof.images)
    score, parts = partial(_score_chunk, oof), cut(range(count), _CHUNK)
    return np.concatenate(list(in_parallel(score, parts, count, label="score networks", few=0, jobs=jobs)))


def _entries(oof: OofData, band: tuple[float, float], positions: range) -> list[Entry]:
    cv2.setNumThreads(1)
    planes = np.empty((len(oof.stores), *oof.full), np.float32)
    entries = []
    for position in positions:
        for m, (plane, frame) in enumerate(zip(oof.planes(position), oof.frames, strict=True)):
            planes[m] = frame.invert(plane, oof.full)
        mask = decode(oof.truth.of(position), oof.full)
        # the same pixels of an image, however the work is spread
        drawn = np.random.default_rng(position).integers(0, mask.size, _SAMPLE_PX)
        logits = planes.reshape(len(planes), -1)[:, drawn]
        agreed = (logits.min(0) > band[1]) | (logits.max(0) <= band[0])
        sample = logits[:, agreed], mask.ravel()[drawn][agreed].astype(np.uint8)
        entries.append((*disagreement(planes, mask, low=band[0], high=band[1]), *sample))
    return entries


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
    """

    agreed: np.ndarray
    logits: list[np.ndarray]
    truths: list[np.ndarray]
    band: tuple[float, float]
    agreed_logits: list[np.ndarray] = field(default_factory=list)
    agreed_truths: list[np.ndarray] = field(default_factory=list)
    metric: Metric = DICE

    @staticmethod
    def build(oof: OofData, *, band: tuple[float, float] = (0.0, 0.0), jobs: int = -1) -> DisagreementIndex:
        """Build the index from stored out-of-fold logits, in parallel.

        Args:
            oof: the networks' logits, the truth and the metric.
            band: thresholds to serve; a wider band keeps more pixels.
            jobs: processes, as joblib counts them.
        """
        count = len(oof.images)
        find, parts = partial(_entries, oof, band), cut(range(count), _CHUNK)
        found = in_parallel(find, parts, count, label="index disagreement", few=0, jobs=jobs)
        entries = [entry for part in found for entry in part]
        return DisagreementIndex(
            agreed=np.array([e[0] for e in entries], np.int64),
            logits=[e[1] for e in entries],
            truths=[e[2] for e in entries],
            band=band,
            agreed_logits=[e[3] for e in entries],
            agreed_truths=[e[4] for e in entries],
            metric=oof.metric,
        )

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
        )

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
            return open_counts(self.logits[position], self.truths[position], weights, limits)

        both, inside = np.moveaxis(np.stack(self._of_each(one, chosen, len(weights))), -1, 0)
        intersection, predicted, true = self.agreed[chosen].T[..., None]
        return intersection + both, predicted + inside, true

    def scores(
        self, weights: np.ndarray, thresholds: np.ndarray | float = 0.0, *, images: np.ndarray | None = None
    ) -> np.ndarray:
        """Full-size scores of many convex blends, (len(images), W) float64; arguments and errors as `counts`."""
        return self.metric.of_counts(*self.counts(weights, thresholds, images=images))

    def _of_each(self, one: Callable[[int], Result], images: Iterable[int], weightings: int) -> list[Result]:
        """`one` of every image; on threads, if there is work enough to pay for them."""
        positions = list(map(int, images))
        if weightings * sum(len(self.truths[p]) for p in positions) < _LEAST_WORK:
            return [one(p) for p in positions]
        # the kernel lets go of the interpreter, so threads share the index without copying it
        with ThreadPoolExecutor() as pool:
            return list(pool.map(one, positions))

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

        def one(position: int) -> tuple[int, int]:
            mask = vote_mask(vote, list(self.logits[position]), weights.tolist())
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
