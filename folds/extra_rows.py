"""Images that a fold trains on beside its own, and never validates on: those of a set of pseudo-labels."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from folds.inputs import Inputs


@dataclass(frozen=True)
class PickedInputs:
    """Some of other inputs; pickles to workers.

    Attributes:
        inputs: the others.
        positions: which of them, in order.
    """

    inputs: Inputs
    positions: Sequence[int]

    def image(self, position: int) -> np.ndarray:
        """(h, w, C) uint8."""
        return self.inputs.image(self.positions[position])

    def target(self, position: int) -> np.ndarray:
        """(h, w) or (h, w, K) uint8."""
        return self.inputs.target(self.positions[position])


@dataclass(frozen=True)
class JoinedInputs:
    """Several inputs one after the other; pickles to workers.

    Attributes:
        parts: the inputs.
        starts: the first position of each.
    """

    parts: Sequence[Inputs]
    starts: Sequence[int]

    def _place(self, position: int) -> tuple[Inputs, int]:
        k = bisect_right(self.starts, position) - 1
        return self.parts[k], position - self.starts[k]

    def image(self, position: int) -> np.ndarray:
        """(h, w, C) uint8."""
        part, within = self._place(position)
        return part.image(within)

    def target(self, position: int) -> np.ndarray:
        """(h, w) or (h, w, K) uint8."""
        part, within = self._place(position)
        return part.target(within)


@dataclass(frozen=True)
class ExtraRows:
    """Images with labels that no person made; pickles to workers.

    Attributes:
        names: theirs.
        inputs: images and soft targets at the network's size, by position in `names`.
        share: of every batch that they are.
    """

    names: tuple[str, ...]
    inputs: Inputs
    share: float

    def after(self, own: Inputs, count: int) -> Inputs:
        """The `count` images of a fold's own inputs, and these after them."""
        return JoinedInputs((own, self.inputs), (0, count))

    def in_batch(self, batch: int) -> int:
        """How many of a batch they are: at least one, and not all."""
        return max(1, min(batch - 1, round(self.share * batch)))
