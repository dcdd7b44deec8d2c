"""Combining several networks' logits: pure functions over planes of one size, and the same at full size.

Going to full size by interpolation is linear, so the mean of logits may be taken first, at the networks' own size.
Probabilities, their geometric mean and hard votes are not linear in the logits: there each network is brought to full
size alone, so that a vote of one network alone is always that network's own full-size mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from command_line import UserError
from competition import Size
from models.frame import Frame


class Combination(Protocol):
    """How several networks' logits become one plane of logits at full size."""

    @property
    def label(self) -> str:
        """Its name and what it has learned (a digest), if anything; two of one label do the same."""

    def image_frame(self, frames: Sequence[Frame], full: Size) -> Frame | None:
        """The frame in which it needs the image of size `full` beside logits in `frames`; None if it needs none."""

    def __call__(
        self,
        planes: Sequence[np.ndarray],
        frames: Sequence[Frame],
        weights: Sequence[float],
        full: Size,
        image: np.ndarray | None = None,
    ) -> np.ndarray:
        """Combine.

        Args:
            planes: per network (h, w) float32 logits in its frame; not modified.
            frames, weights: in the same order.
            full: (H, W) of the full frame.
            image: (h, w, 3) uint8 RGB in `image_frame`; not looked at where that is None.

        Returns:
            (H, W) float32, foreground where they are above the blend's threshold.
        """


# a hard vote knows no doubt: the logit of what it decides, beyond what 8 bits of alpha can show
_SURE = 16.0


def _used(planes: Sequence[np.ndarray], weights: Sequence[float]) -> list[tuple[np.ndarray, float]]:
    """Planes of a weight other than 0, with the weights made to sum to 1."""
    used = [(plane, weight) for plane, weight in zip(planes, weights, strict=True) if weight != 0]
    if not used:
        raise ValueError("no network with a weight other than 0")
    if any(weight < 0 for _, weight in used):
        raise ValueError("votes need weights of at least 0")
    total = sum(weight for _, weight in used)
    return [(plane, float(weight / total)) for plane, weight in used]


def mean_probability(planes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Weighted mean of the networks' probabilities.

    Args:
        planes: logits, one (H, W) float32 array a network, all of one size; not modified.
        weights: at least 0, in the same order; they are made to sum to 1, and planes of weight 0 are not looked at.

    Returns:
        (H, W) float32, 0..1; the mask is where it is above 0.5.

    Raises:
        ValueError: all weights are 0, or one is below 0.

    >>> mean_probability([np.float32([[0.0]]), np.float32([[100.0]])], [1, 1]).tolist()
    [[0.75]]
    """
    result: np.ndarray | None = None
    for plane, weight in _used(planes, weights):
        # e ** 88 is the largest that float32 holds
        part = np.float32(weight) / (1 + np.exp(np.minimum(-plane, np.float32(88))))
        result = part if result is None else result + part
    assert result is not None
    return result


def geometric_mean_probability(planes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Weighted geometric mean of the networks' probabilities of foreground: one doubtful network can veto.

    It is not made to sum to 1 with the geometric mean of the background's probabilities. If it were, it would be
    nothing new: the result would be the probability of the weighted mean of the logits, `WeightedLogits`.

    Args, Returns and Raises as `mean_probability`.

    >>> round(float(geometric_mean_probability([np.float32([[0.0]]), np.float32([[100.0]])], [1, 1])[0, 0]), 4)
    0.7071
    """
    log: np.ndarray | None = None
    for plane, weight in _used(planes, weights):
        part = np.float32(-weight) * np.logaddexp(np.float32(0), -plane)
        log = part if log is None else log + part
    assert log is not None
    return np.exp(log)


def majority_vote(planes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Hard vote: foreground where networks of more than half of the weight have a logit above 0.

    Args and Raises as `mean_probability`.

    Returns:
        (H, W) bool. A tie is background, as a logit of 0 is.

    >>> majority_vote([np.float32([[1, 1]]), np.float32([[-9, 1]])], [1, 1]).tolist()
    [[False, True]]
    """
    votes: np.ndarray | None = None
    # in float64, and with room for its rounding: weights of 0.1, 0.2 against 0.3 are a tie
    for plane, weight in _used(planes, weights):
        part = (plane > 0) * weight
        votes = part if votes is None else votes + part
    assert votes is not None
    return votes > 0.5 + 1e-9


@dataclass(frozen=True)
class WeightedLogits:
    """The weighted sum of the networks' logits.

    Going to full size is linear, so networks that share a frame are summed first, at their own size: the cost grows
    with the number of distinct frames and not with the number of networks.
    """

    label: str = "logits"

    def image_frame(self, frames: Sequence[Frame], full: Size) -> Frame | None:
        """None."""
        return None

    def __call__(
        self,
        planes: Sequence[np.ndarray],
        frames: Sequence[Frame],
        weights: Sequence[float],
        full: Size,
        image: np.ndarray | None = None,
    ) -> np.ndarray:
        """As `Combination`; networks of weight 0 are left out. ValueError if no network has another weight."""
        sums: dict[Frame, np.ndarray] = {}
        for plane, frame, weight in zip(planes, frames, weights, strict=True):
            if weight == 0:
                continue
            part = plane * np.float32(weight)
            sums[frame] = sums[frame] + part if frame in sums else part
        if not sums:
            raise ValueError("no network with a weight other than 0")
        totals = [frame.invert(total, full) for frame, total in sums.items()]
        result = totals[0]
        for total in totals[1:]:
            result = result + total
        return result


LINEAR = WeightedLogits()

# from planes of one size and weights to probabilities or a mask; the weighted mean of logits is not among them
VOTES: dict[str, Callable[[Sequence[np.ndarray], Sequence[float]], np.ndarray]] = {
    "probability": mean_probability,
    "geometric": geometric_mean_probability,
    "majority": majority_vote,
}


# above what the fast sum of logarithms below is rounded by, which is 1e-5 for logits up to 16
_DOUBTFUL = np.float32(1e-3)
_HALF = np.float32(np.log(2))


def _geometric_mask(planes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Where `geometric_mean_probability` is above one half, in a fraction of its time."""
    total: np.ndarray | None = None
    for plane, weight in _used(planes, weights):
        # the logarithm of 1 plus a tiny number is rounded badly, but by no more than float32 does near 1
        part = np.exp(np.minimum(-plane, np.float32(88)))
        part += np.float32(1)
        np.log(part, out=part)
        part *= np.float32(weight)
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    mask: np.ndarray = total < _HALF
    doubtful = np.abs(total - _HALF) < _DOUBTFUL
    if doubtful.any():
        mask[doubtful] = geometric_mean_probability([plane[doubtful] for plane in planes], weights) > 0.5
    return mask


def vote_mask(vote: str, planes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The mask of a vote, bool in the shape of the planes.

    Args:
        vote: key of `VOTES`.
        planes, weights: as `mean_probability`; planes may have any one shape.
    """
    if vote == "geometric":
        return _geometric_mask(planes, weights)
    result = VOTES[vote](planes, weights)
    return result if result.dtype == bool else result > 0.5


@dataclass(frozen=True)
class Vote:
    """The logits of a vote's probability; above 0 exactly where the vote's mask is.

    Attributes:
        label: key of `VOTES`.
    """

    label: str

    def image_frame(self, frames: Sequence[Frame], full: Size) -> Frame | None:
        """None."""
        return None

    def __call__(
        self,
        planes: Sequence[np.ndarray],
        frames: Sequence[Frame],
        weights: Sequence[float],
        full: Size,
        image: np.ndarray | None = None,
    ) -> np.ndarray:
        """As `Combination`; every network is brought to full size first. ValueError as `mean_probability`."""
        used = [i for i, weight in enumerate(weights) if weight != 0]
        at_full_size = [frames[i].invert(planes[i], full) for i in used]
        result = VOTES[self.label](at_full_size, [weights[i] for i in used])
        if result.dtype == bool:
            return np.where(result, np.float32(_SURE), np.float32(-_SURE))
        # 2 artanh(2p - 1) is the logit of p, and keeps the sign where the difference of two logarithms rounds it away
        doubled = 2 * result - 1
        limit = np.float32(np.tanh(_SURE / 2))
        return np.float32(2) * np.arctanh(np.clip(doubled, -limit, limit, out=doubled))


def combination_of(label: str) -> Combination:
    """The combination without anything learned: "logits", or a key of `VOTES`.

    Raises:
        UserError: there is none of that name; the message lists those there are.
    """
    if label == LINEAR.label:
        return LINEAR
    if label not in VOTES:
        raise UserError(
            f"unknown vote {label!r}; known: {', '.join((LINEAR.label, *VOTES))}: choose the blend again (make fit)."
        )
    return Vote(label)
