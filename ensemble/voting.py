"""Combining several networks' logits: pure functions over planes of one size, and the same at full size.

Going to full size by interpolation is linear, so the mean of logits may be taken first, at the networks' own size.
Probabilities, their geometric mean and hard votes are not linear in the logits: there each network is brought to full
size alone, so that a vote of one network alone is always that network's own full-size mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from competition import Size
from models.frame import Frame

Vote = Callable[[Sequence[np.ndarray], Sequence[Frame], Sequence[float], Size], np.ndarray]


class Combine(Protocol):
    """As `Vote`, but to full-size logits (H, W) float32, foreground where they are above the blend's threshold."""

    def __call__(
        self,
        logits: Sequence[np.ndarray],
        frames: Sequence[Frame],
        weights: Sequence[float],
        full: Size,
        image: np.ndarray | None = None,
    ) -> np.ndarray:
        """`image` (h, w, 3) uint8 RGB is for those that need it (`ensemble.conv_stacker.image_frame`)."""


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
    nothing new: the result would be the probability of the weighted mean of the logits, `weighted_logits`.

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


def weighted_logits(
    logits: Sequence[np.ndarray],
    frames: Sequence[Frame],
    weights: Sequence[float],
    full: Size,
    image: np.ndarray | None = None,
) -> np.ndarray:
    """Weighted sum of several networks' logits at full size.

    Going to full size is linear, so networks that share a frame are summed first, at their own size: the cost grows
    with the number of distinct frames and not with the number of networks.

    Args:
        logits: one (h, w) float32 array a network; not modified.
        frames: the networks' frames, in the same order.
        weights: in the same order; networks of weight 0 are left out.
        full: (H, W) of the full frame.
        image: not looked at.

    Returns:
        (H, W) float32.

    Raises:
        ValueError: no network has a weight other than 0.
    """
    sums: dict[Frame, np.ndarray] = {}
    for plane, frame, weight in zip(logits, frames, weights, strict=True):
        if weight == 0:
            continue
        part = plane * np.float32(weight)
        sums[frame] = sums[frame] + part if frame in sums else part
    if not sums:
        raise ValueError("no network with a weight other than 0")
    planes = [frame.invert(total, full) for frame, total in sums.items()]
    result = planes[0]
    for plane in planes[1:]:
        result = result + plane
    return result


# from planes of one size and weights to probabilities or a mask; the weighted mean of logits is not among them
PROBABILITIES: dict[str, Callable[[Sequence[np.ndarray], Sequence[float]], np.ndarray]] = {
    "probability": mean_probability,
    "geometric": geometric_mean_probability,
    "majority": majority_vote,
}


def voted(vote: str, planes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The mask of a vote, bool in the shape of the planes.

    Args:
        vote: key of `PROBABILITIES`.
        planes, weights: as `mean_probability`; planes may have any one shape.
    """
    result = PROBABILITIES[vote](planes, weights)
    return result if result.dtype == bool else result > 0.5


def _at_full_size(
    logits: Sequence[np.ndarray], frames: Sequence[Frame], weights: Sequence[float], full: Size
) -> tuple[list[np.ndarray], list[float]]:
    used = [i for i, weight in enumerate(weights) if weight != 0]
    return [frames[i].invert(logits[i], full) for i in used], [weights[i] for i in used]


def vote_logits(
    vote: str,
    logits: Sequence[np.ndarray],
    frames: Sequence[Frame],
    weights: Sequence[float],
    full: Size,
    image: np.ndarray | None = None,
) -> np.ndarray:
    """The logits of a vote's probability at full size; above 0 exactly where the vote's mask is.

    Args:
        vote: key of `PROBABILITIES`.
        logits, frames, weights, full, image: as `weighted_logits`.

    Returns:
        (H, W) float32.
    """
    result = PROBABILITIES[vote](*_at_full_size(logits, frames, weights, full))
    if result.dtype == bool:
        return np.where(result, np.float32(_SURE), np.float32(-_SURE))
    # 2 artanh(2p - 1) is the logit of p, and keeps the sign where the difference of two logarithms rounds it away
    doubled = 2 * result - 1
    limit = np.float32(np.tanh(_SURE / 2))
    return np.float32(2) * np.arctanh(np.clip(doubled, -limit, limit, out=doubled))


def combination(vote: str) -> Combine:
    """How a blend of that vote combines its members' stored logits; pickles to workers.

    Args:
        vote: "logits" for the weighted mean of logits, or a key of `PROBABILITIES`.
    """
    return weighted_logits if vote == "logits" else partial(vote_logits, vote)


def _mask_of(vote: str) -> Vote:
    return lambda logits, frames, weights, full: voted(vote, *_at_full_size(logits, frames, weights, full))


# from networks' stored logits, their frames, their weights and the full size to the full-size mask (H, W) bool
VOTES: dict[str, Vote] = {
    "logits": lambda logits, frames, weights, full: weighted_logits(logits, frames, weights, full) > 0,
    **{vote: _mask_of(vote) for vote in PROBABILITIES},
}
