"""Logits of open pixels in 8 bits, for indices that would not fit into memory otherwise.

A pixel's logits share one scale, which is above the largest of them. A code is the middle of its interval, so none
stands for 0: the sign is always kept, and a network alone decides every pixel as its logits do.
"""

from __future__ import annotations

import numpy as np

from kernels.compiled import compiled

Array = np.ndarray

# steps of a scale to each factor of two, and the scale of code 0: 2 ** -8 .. 2 ** 7.9
_FINENESS = 16
_LOWEST = -8
# codes on each side of 0
HALF = 128
# float32 scale of every code of a scale, and how many codes' steps a logit of 1 is
_SCALES = np.exp2(np.arange(256) / _FINENESS + _LOWEST).astype(np.float32)
UNITS = np.float32(HALF) / _SCALES
# Sums of few codes hit a threshold of 0 often, where logits never do. Pixels in turn take such a tie as above and as
# below, so that ties make masks neither larger nor smaller. In steps of a code: far below those of a weighted sum, far
# above what float32 rounds it by.
TIE = 0.01
_BLOCK_PX = 2048


@compiled
def _encode(logits: Array, table: Array, codes: Array, scales: Array) -> None:
    members, count = logits.shape
    for x in range(count):
        largest = np.float32(0)
        for m in range(members):
            largest = max(largest, abs(logits[m, x]))
        k = np.searchsorted(table, largest)
        scales[x] = min(k, 255)
    for m in range(members):
        for x in range(count):
            step = np.ceil(logits[m, x] / table[scales[x]] * np.float32(HALF)) - 1
            codes[m, x] = np.int8(min(max(step, -HALF), HALF - 1))


def encode(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Code pixels.

    Args:
        logits: (M, D) float32 of at most 250 to either side; not modified.

    Returns:
        (M, D) int8 codes and (D,) uint8 scales. A logit is within 1/256 of its pixel's scale of what is decoded, and
        the scale within 5 % of the pixel's largest logit.

    >>> codes, scales = encode(np.array([[0.0, 2.0, 0.001], [-1.0, -3.0, 1.0]], np.float32))
    >>> (decode(codes, scales) > 0).tolist()
    [[False, True, True], [False, False, True]]
    """
    codes, scales = np.empty(logits.shape, np.int8), np.empty(logits.shape[1], np.uint8)
    _encode(logits, _SCALES, codes, scales)
    return codes, scales


def decode(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """(M, D) float32 logits of codes and scales as `encode` gives them."""
    logits: np.ndarray = (codes.astype(np.float32) + np.float32(0.5)) / UNITS[scales]
    return logits


@compiled
def _code_counts(
    codes: Array, scales: Array, units: Array, truths: Array, weights: Array, thresholds: Array, out: Array
) -> None:
    members, count = codes.shape
    total = np.empty(_BLOCK_PX, np.float32)
    half = np.float32(0.5)
    tie = np.float32(TIE)
    for start in range(0, count, _BLOCK_PX):
        stop = min(start + _BLOCK_PX, count)
        length = stop - start
        for w in range(len(weights)):
            # many thresholds of one weighting are tried one after the other
            if w == 0 or (weights[w] != weights[w - 1]).any():
                total[:length] = 0
                for m in range(members):
                    weight = weights[w, m]
                    if weight != 0:
                        row = codes[m, start:stop]
                        for x in range(length):
                            total[x] += weight * (np.float32(row[x]) + half)
            threshold = thresholds[w]
            common = 0
            predicted = 0
            for x in range(length):
                limit = threshold * units[scales[start + x]] + (tie if x & 1 else -tie)
                inside = total[x] > limit
                predicted += inside
                common += inside & truths[start + x]
            out[w, 0] += common
            out[w, 1] += predicted


def code_counts(
    codes: np.ndarray, scales: np.ndarray, truths: np.ndarray, weights: np.ndarray, thresholds: np.ndarray, out: Array
) -> None:
    """`kernels.blend.open_counts` of coded pixels; adds to `out` (W, 2) int64."""
    _code_counts(codes, scales, UNITS, truths, weights, thresholds, out)
