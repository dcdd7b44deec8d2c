"""Whether there is anything in an image at all: networks with a head for that may empty a blend's mask.

Where images without an object are ordinary, a few stray pixels cost an image its whole score. A network that was
trained to say whether there is anything says so of the image as a whole; where the mean of what the blend's networks
say is not above a threshold, the mask becomes empty. The threshold is fitted, and kept, like everything else: without
the fold that is scored, and only where it surely gains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ensemble.intervals import is_kept, least_with_rare_losses, mean_interval
from predict.presence import Said

# tried on the mean logit; probabilities 0.0025 .. 0.9975
_THRESHOLDS = np.linspace(-6, 6, 49)


@dataclass(frozen=True)
class Gate:
    """Empties masks of images in which the networks see nothing.

    Attributes:
        threshold: on the mean of the networks' presence logits; a mask is left alone where it is above it.
        members: positions, among the networks of a blend, of those that are asked.
    """

    threshold: float
    members: tuple[int, ...]

    def empties(self, said: Said) -> bool:
        """Whether the mask becomes empty.

        Raises:
            ValueError: a network that is asked has not said anything.
        """
        heard = [said[m] for m in self.members] if len(said) > max(self.members) else [None]
        if any(logit is None for logit in heard):
            raise ValueError("the blend needs what its networks say of the image as a whole")
        return bool(mean_said(np.array([heard], np.float64))[0] <= self.threshold)


def mean_said(said: np.ndarray) -> np.ndarray:
    """(N,) the mean, over networks, of what (N, M) they say of N images."""
    total = np.zeros(len(said))
    # one after the other, so that an image alone has the same sum as among others
    for of_network in said.T:
        total += of_network
    return total / said.shape[1]


def _best(gains: np.ndarray, said: np.ndarray) -> float:
    """The threshold with the highest mean gain; of equal ones the lowest, which empties least."""
    below = said[:, None] <= _THRESHOLDS
    return float(_THRESHOLDS[int((gains[:, None] * below).mean(0).argmax())])


def fit_gate(gains: np.ndarray, said: np.ndarray, fold: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """The threshold, and what it gains where it is fitted without the fold that is scored.

    Args:
        gains: (N,) what emptying each image's mask would add to its score.
        said: (N,) mean presence logit of each image.
        fold, groups: (N,) of the images.

    Returns:
        JSON-able: threshold, fitted on all; nested_gain with its interval (95 %, over groups); worst_loss, what a mask
        that is wrongly emptied loses on average, and with_rare_losses, the gain if such losses were there as often as
        nobody might have seen them; changed_images, the share of the images that it empties and whose score that
        changes; kept.
    """
    nested = np.zeros(len(gains))
    for held_out in np.unique(fold):
        unseen = fold == held_out
        threshold = _best(gains[~unseen], said[~unseen])
        nested[unseen] = np.where(said[unseen] <= threshold, gains[unseen], 0)
    threshold = _best(gains, said)
    worst = float(-gains[gains < 0].mean()) if (gains < 0).any() else 0.0
    return {
        "threshold": threshold,
        "nested_gain": float(nested.mean()),
        "interval": list(mean_interval(nested, groups)),
        "worst_loss": worst,
        "with_rare_losses": least_with_rare_losses(nested, groups, worst),
        "changed_images": float(((said <= threshold) & (gains != 0)).mean()),
        "kept": is_kept(nested, groups, worst),
    }
