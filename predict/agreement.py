"""Whether networks know such a picture: how far those of the folds, and of the members, agree on its mask.

Nothing is trained for it. Networks that were trained on other images each make something else of what none of them
knows. How little they may agree on what they know is the blend's to say: `ensemble.agreement_limit` measures it on its
training images. `benchmarks/out_of_depth.py` measures how well that tells odd pictures from ordinary ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from competition import Size
from models.frame import Frame


def agreement_of_votes(votes: np.ndarray, networks: int) -> float | None:
    """How far networks agree on one picture: two of them, on average over all pairs, whatever their number.

    Args:
        votes: of every pixel, how many networks call it foreground; integers of any shape.
        networks: that were asked.

    Returns:
        0..1: the pixels that both of a pair call foreground, as a share of those that either does, pixels summed over
        all pairs; 0 where no network sees anything, and None of a single one, which has nobody to agree with.

    >>> agreement_of_votes(np.array([0, 1, 2, 2, 2]), 2)
    0.75
    """
    if networks < 2:
        return None
    pixels = np.bincount(votes.ravel(), minlength=networks + 1).astype(np.int64)
    yes = np.arange(networks + 1, dtype=np.int64)
    both, neither = yes * (yes - 1) // 2, (networks - yes) * (networks - yes - 1) // 2
    either = int(pixels @ (networks * (networks - 1) // 2 - neither))
    return int(pixels @ both) / either if either else 0.0


@dataclass
class Poll:
    """What every network calls foreground in one picture, counted as their logits come.

    Attributes:
        grid: on whose pixels votes are counted.
        full: (H, W) of the picture.
        networks: that have voted.
        votes: of each pixel of the grid, int32.
    """

    grid: Frame
    full: Size
    networks: int = 0
    votes: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.votes = np.zeros(self.grid.size, np.int32)

    def add(self, logits: np.ndarray, frame: Frame) -> None:
        """Count the votes of some networks of one frame: (F, h, w) float32 logits of the mask."""
        for plane in logits:
            self.votes += frame.transfer(plane, self.grid, self.full) > 0
        self.networks += len(logits)

    @property
    def agreement(self) -> float | None:
        """`agreement_of_votes` of what was counted."""
        return agreement_of_votes(self.votes, self.networks)


def grid_of(frames: Sequence[Frame], full: Size) -> Frame:
    """Where networks are compared on a picture of `full` (H, W): the coarsest frame's pixels, without its borders."""
    insides = [frame if frame.fit == "resize" else Frame(frame.enlarged(full)) for frame in frames]
    return min(insides, key=lambda frame: frame.size[0] * frame.size[1])
