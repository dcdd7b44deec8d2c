"""What weightings that differ little from each other select among open pixels: most pixels need no look.

A search tries many weightings around one. No weighting moves a pixel's weighted logit further than the mass it moves
times the range of the pixel's logits, so most pixels are decided for all of them together. Of the others, each
weighting's sum follows from the common one in two steps instead of one a network. What comes so close to the limit
that rounding may decide is summed anew in the order of `kernels.blend.open_counts`: the counts are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.compiled import compiled
from kernels.pixel_code import TIE, UNITS

Array = np.ndarray

_BLOCK_PX = 2048
# mass that is little enough for the bounds of codes, and the largest code with its half
_LITTLE = np.float32(0.06)
_LARGEST = np.float32(127.5)
# of float32: what sums in two orders may differ by, in units of the largest summand and a network
_ROUNDING = np.float32(1.2e-7)


@compiled
def _summed(logits: Array, x: int, weights: Array, offset: np.float32) -> np.float32:
    """One pixel's weighted sum, in the order in which blocks are summed."""
    total = np.float32(0)
    for m in range(len(weights)):
        if weights[m] != 0:
            total += weights[m] * (np.float32(logits[m, x]) + offset)
    return total


@compiled
def _near_counts(
    logits: Array,
    truths: Array,
    scales: Array,
    ranges: Array,
    units: Array,
    threshold: np.float32,
    base: Array,
    weights: Array,
    moved: np.float32,
    scale: Array,
    taker: Array,
    given: Array,
    giver: Array,
    taken: Array,
    out: Array,
) -> None:
    members, count = logits.shape
    coded = len(scales) > 0
    offset = np.float32(0.5) if coded else np.float32(0)
    tie = np.float32(TIE)
    known = ranges.shape[1] > 0 and moved > _LITTLE
    wide = not known and (not coded or moved > _LITTLE)
    limits = np.empty(_BLOCK_PX, np.float32)
    total = np.empty(_BLOCK_PX, np.float32)
    lowest = np.empty(_BLOCK_PX, np.float32)
    highest = np.empty(_BLOCK_PX, np.float32)
    at = np.empty(_BLOCK_PX, np.int64)
    some = np.empty((members, _BLOCK_PX), np.float32)
    some_total = np.empty(_BLOCK_PX, np.float32)
    some_limit = np.empty(_BLOCK_PX, np.float32)
    some_truth = np.empty(_BLOCK_PX, np.int32)
    needed = np.zeros(members, np.bool_)
    for k in range(len(taker)):
        needed[taker[k]] = True
        needed[giver[k]] = True
    open_px = np.empty(_BLOCK_PX, np.uint8)
    common = 0
    predicted = 0
    # the same of every block, as its first pixel is an even one
    limits[:] = threshold
    if coded and threshold == 0:
        for x in range(_BLOCK_PX):
            limits[x] = tie if x & 1 else -tie
    for start in range(0, count, _BLOCK_PX):
        length = min(start + _BLOCK_PX, count) - start
        if coded and threshold != 0:
            for x in range(length):
                limits[x] = threshold * units[scales[start + x]] + (tie if x & 1 else -tie)
        total[:length] = 0
        # codes have bounds of their own: where little mass is moved, these are near enough to spare a look at networks
        # without any weight
        lowest[:length] = np.float32(np.inf) if wide else -_LARGEST
        highest[:length] = np.float32(-np.inf) if wide else _LARGEST
        if known:
            for x in range(length):
                lowest[x] = np.float32(ranges[0, start + x]) + offset
                highest[x] = np.float32(ranges[1, start + x]) + offset
        for m in range(members):
            row = logits[m, start : start + length]
            weight = base[m]
            if wide:
                for x in range(length):
                    value = np.float32(row[x]) + offset
                    # not min and max, which heed NaN and are not vectorised
                    lowest[x] = value if value < lowest[x] else lowest[x]
                    highest[x] = value if value > highest[x] else highest[x]
            if weight != 0:
                for x in range(length):
                    total[x] += weight * (np.float32(row[x]) + offset)
        largest = np.float32(0)
        for x in range(length):
            value = -lowest[x] if -lowest[x] > highest[x] else highest[x]
            largest = value if value > largest else largest
        close = _ROUNDING * np.float32(members + 12) * largest
        # the pixels that all weightings decide alike, and the others
        block_truths = truths[start : start + length]
        block_common = np.int32(0)
        block_predicted = np.int32(0)
        for x in range(length):
            above = total[x] - limits[x]
            reach = moved * (highest[x] - lowest[x]) + 2 * close
            surely = np.int32(above > reach)
            block_predicted += surely
            block_common += surely & np.int32(block_truths[x])
            open_px[x] = abs(above) <= reach
        predicted += int(block_predicted)
        common += int(block_common)
        n = 0
        for x in range(length):
            # without a branch, which would be foreseen as badly as the pixels are
            at[n] = x
            n += open_px[x]
        if n == 0:
            continue
        for i in range(n):
            some_total[i] = total[at[i]]
            some_limit[i] = limits[at[i]]
            some_truth[i] = truths[start + at[i]]
        for m in range(members):
            if needed[m]:
                for i in range(n):
                    some[m, i] = np.float32(logits[m, start + at[i]]) + offset
        for k in range(len(scale)):
            s = scale[k]
            up = given[k]
            down = taken[k]
            rising = some[taker[k]]
            falling = some[giver[k]]
            inside = np.int32(0)
            both = np.int32(0)
            tight = np.int32(0)
            for i in range(n):
                above = s * some_total[i] + up * rising[i] - down * falling[i] - some_limit[i]
                selected = np.int32(above > 0)
                inside += selected
                both += selected & some_truth[i]
                tight += np.int32(abs(above) <= close)
            if tight > 0:
                for i in range(n):
                    above = s * some_total[i] + up * rising[i] - down * falling[i] - some_limit[i]
                    if abs(above) <= close:
                        before = np.int32(above > 0)
                        selected = np.int32(_summed(logits, start + at[i], weights[k], offset) > some_limit[i])
                        inside += selected - before
                        both += (selected - before) * some_truth[i]
            out[k, 0] += both
            out[k, 1] += inside
    for k in range(len(scale)):
        out[k, 0] += common
        out[k, 1] += predicted


@dataclass(frozen=True)
class Near:
    """Weightings around a common one.

    Attributes:
        weights: (W, M) float32.
    """

    weights: np.ndarray
    _base: np.ndarray
    _moved: np.float32
    _moves: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]

    @staticmethod
    def around(base: np.ndarray, scales: np.ndarray, weights: np.ndarray) -> Near:
        """Weightings, each of them its scale times a common one but for one weight that is higher and one that is
        lower than that.

        Args:
            base: (M,) the common one.
            scales: (W,).
            weights: (W, M).

        Raises:
            ValueError: a weighting differs in other places.
        """
        rows, common, factors = (np.asarray(each, np.float32) for each in (weights, base, scales))
        rest = rows.astype(np.float64) - factors[:, None].astype(np.float64) * common
        moved = np.abs(rows.astype(np.float64) - common).sum(1).max(initial=0) / 2
        at = np.arange(len(rest))
        taker, giver = rest.argmax(1), rest.argmin(1)
        given, taken = np.maximum(rest[at, taker], 0), np.maximum(-rest[at, giver], 0)
        rest[at, taker] -= given
        rest[at, giver] += taken
        if np.abs(rest).max(initial=0) > _SAME:
            raise ValueError("a weighting differs from the common one by more than one weight more and one less")
        moves = factors, taker, given.astype(np.float32), giver, taken.astype(np.float32)
        return Near(rows, common, np.float32(moved * _MORE + _SAME), moves)

    def counts(
        self,
        logits: np.ndarray,
        truths: np.ndarray,
        threshold: float = 0.0,
        scales: np.ndarray | None = None,
        ranges: np.ndarray | None = None,
    ) -> np.ndarray:
        """What they select among open pixels; arguments and result as `kernels.blend.open_counts`.

        Args:
            ranges: (2, D) int8 lowest and highest code of every pixel, where these are known: they save a look at all
                networks.
        """
        out = np.zeros((len(self.weights), 2), np.int64)
        factors, taker, given, giver, taken = self._moves
        _near_counts(
            logits, truths, _NONE if scales is None else scales, _UNKNOWN if ranges is None else ranges, UNITS,
            np.float32(threshold), self._base, self.weights, self._moved, factors, taker, given, giver, taken, out,
        )  # fmt: skip
        return out


# what rounding leaves of a weight that is the scaled common one
_SAME = 3e-7
# room for the rounding of the mass that is moved
_MORE = 1.0001
_NONE = np.empty(0, np.uint8)
_UNKNOWN = np.empty((2, 0), np.int8)
