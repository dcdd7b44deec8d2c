"""The sum of many decision trees, in a compiled loop."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.compiled import compiled

Array = np.ndarray

# rows that go through a tree together: their features stay in the first-level cache
_BLOCK = 64


@compiled
def _sums(
    features: Array, width: Any, roots: Array, depths: Array, which: Array, limits: Array, below: Array, values: Array,
    out: Array,
) -> None:  # fmt: skip
    # unsigned numbers index without a look at whether they are below 0, which takes twice as long as the rest
    count = len(out)
    at = np.empty(_BLOCK, np.uint32)
    for start in range(0, count, _BLOCK):
        length = min(_BLOCK, count - start)
        for tree in range(len(roots)):
            for i in range(length):
                at[i] = roots[tree]
            # a leaf leads to itself, so that all rows take the same number of steps, without a branch
            for _ in range(depths[tree]):
                row = np.uint64(start) * width
                for i in range(length):
                    node = at[i]
                    at[i] = below[node] + np.uint32(features[row + np.uint64(which[node])] > limits[node])
                    row += width
            for i in range(length):
                out[start + i] += values[at[i]]


def sum_of_trees(
    features: np.ndarray,
    roots: np.ndarray,
    depths: np.ndarray,
    which: np.ndarray,
    limits: np.ndarray,
    below: np.ndarray,
    values: np.ndarray,
) -> np.ndarray:
    """What trees say of each row, added up.

    Args:
        features: (N, F) float32; not modified.
        roots, depths: (T,) int32: each tree's first node, and how many steps lead from it to the deepest leaf.
        which: (K,) int16: the feature that each node looks at.
        limits: (K,) float32: a row whose feature is above goes to the second node below; infinite at a leaf.
        below: (K,) int32: the first of the two nodes below, which follow each other; a leaf's own number at a leaf.
        values: (K,) float32: what a leaf adds.

    Returns:
        (N,) float32.

    >>> root, depth, below = np.int32([0]), np.int32([1]), np.int32([1, 1, 2])
    >>> which, limits, values = np.int16([0, 0, 0]), np.float32([2.5, np.inf, np.inf]), np.float32([0, -1, 1])
    >>> sum_of_trees(np.float32([[2], [3]]), root, depth, which, limits, below, values).tolist()
    [-1.0, 1.0]
    """
    out = np.zeros(len(features), np.float32)
    flat, width = np.ascontiguousarray(features, np.float32).ravel(), np.uint64(features.shape[1])
    unsigned = roots.astype(np.uint32), depths, which.astype(np.uint16), limits, below.astype(np.uint32)
    _sums(flat, width, *unsigned, values, out)
    return out
