"""Run-length encoding of binary masks, as Kaggle's competitions write it.

Pixels are numbered from 1, row by row ("row", Carvana) or column by column ("column", most others). A run may go on
from the end of one line into the start of the next. Checked wrappers over the unchecked loops of `kernels.scan` and
`kernels.digits`.
"""

from __future__ import annotations

import math

import numpy as np

from competition import Order, Size
from kernels import digits, scan, transposition

_Array = np.ndarray
_OTHER_VALUES = "a mask must hold 0 and 1 only: divide by 255, or compare with a threshold"


def _flat(array: _Array, order: Order) -> _Array:
    """The array's pixels in run-length order, as a contiguous 1-D array; a view where that is possible."""
    if array.ndim != 2:
        raise ValueError(f"a mask or logits must be 2-D (height, width), not of shape {array.shape}")
    if order == "row":
        return np.ascontiguousarray(array).reshape(-1)
    if order == "column":
        if array.flags.f_contiguous:
            return array.T.reshape(-1)
        return transposition.turn(np.ascontiguousarray(array)).reshape(-1)
    raise ValueError(f"unknown order {order!r}: it is 'row' or 'column'")


def _mask_edges(mask: _Array, order: Order) -> _Array:
    if mask.dtype not in (np.bool_, np.uint8):
        raise ValueError(f"a mask must be bool, or uint8 of 0 and 1, not {mask.dtype}")
    valid: bool
    if order == "column" and mask.ndim == 2 and mask.shape[0] % 8 == 0 and not mask.flags.f_contiguous:
        turned, valid = transposition.turn_mask(np.ascontiguousarray(mask).view(np.uint8), transposition.SPREAD)
        if not valid:
            raise ValueError(_OTHER_VALUES)
        flat = turned.reshape(-1)
    else:
        flat = _flat(mask.view(np.uint8), order)
    whole = flat.size - flat.size % 8
    words = flat[:whole].view(np.uint64)
    if not words.flags.aligned:
        # a view into the middle of something: rare, and a compiled loop of its own is not worth it
        words = words.copy()
    edges, valid = scan.mask_edges(words, flat[whole:])
    if not valid:
        raise ValueError(_OTHER_VALUES)
    return edges


def encode(mask: np.ndarray, *, order: Order = "row") -> np.ndarray:
    """Run-length encode one mask.

    Args:
        mask: (H, W) bool, or uint8 of 0 and 1; not modified.
        order: "row" numbers pixels left to right, then down (Carvana); "column" down, then right (most others).

    Returns:
        (R, 2) int64 rows (start_px, length_px); start_px is 1-based. R = 0 for an empty mask.

    Raises:
        ValueError: the mask is not 2-D, or holds a value other than 0 and 1.

    >>> encode(np.array([[0, 1, 1], [1, 0, 1]], bool)).tolist()
    [[2, 3], [6, 1]]
    """
    return scan.runs(_mask_edges(mask, order))


def encode_text(mask: np.ndarray, *, order: Order = "row") -> bytes:
    """Run-length encode one mask as the submission's text, `start length start length ...`.

    Args, Raises: as `encode`. An empty mask gives empty text.

    >>> encode_text(np.array([[0, 1, 1], [1, 0, 1]], bool))
    b'2 3 6 1'
    """
    return digits.text(_mask_edges(mask, order)).tobytes()


def _logits_edges(logits: _Array, threshold: float, order: Order) -> _Array:
    if np.isnan(threshold):
        raise ValueError("the threshold is NaN: nothing is above it, nor below")
    if logits.dtype == np.float16:
        low, high = scan.half_interval(threshold)
        # as bits: the compiler knows no half precision
        edges = scan.half_edges(_flat(logits.view(np.uint16), order), low, high)
    elif logits.dtype in (np.float32, np.float64):
        edges = scan.edges_above(_flat(logits, order), scan.rounded_down(threshold, logits.dtype))
    elif np.issubdtype(logits.dtype, np.integer):
        info = np.iinfo(logits.dtype)
        flat = _flat(logits, order)
        if threshold < info.min:
            edges = np.array([0, flat.size], np.int64)
        elif threshold >= info.max:
            edges = np.empty(0, np.int64)
        else:
            edges = scan.edges_above(flat, logits.dtype.type(math.floor(threshold)))
    else:
        raise ValueError(f"logits must be floats or integers, not {logits.dtype}")
    return edges


def encode_logits_text(logits: np.ndarray, *, threshold: float = 0.0, order: Order = "row") -> bytes:
    """Threshold logits and run-length encode the mask, without a mask in between.

    Args:
        logits: (H, W) float32, float64, float16 or a signed or unsigned integer type; not modified. NaN is background.
        threshold: foreground is what is strictly above it.
        order: as in `encode`.

    Returns:
        The submission's text.

    Raises:
        ValueError: the logits are not 2-D, or of another dtype; the threshold is NaN.

    >>> encode_logits_text(np.array([[-1.5, 0.0, 0.5], [2.0, -3.0, 1.0]], np.float32))
    b'3 2 6 1'
    """
    if order == "column" and logits.ndim == 2 and not logits.flags.f_contiguous:
        # bytes are turned faster than logits
        runs = scan.runs(_logits_edges(logits, threshold, "row"))
        mask = scan.fill(runs, logits.size).view(np.bool_).reshape(logits.shape)
        return digits.text(_mask_edges(mask, order)).tobytes()
    return digits.text(_logits_edges(logits, threshold, order)).tobytes()


def _checked_runs(runs: _Array, total_px: int | None) -> _Array:
    """Runs as C-contiguous int64. Raises ValueError as `parse`."""
    if runs.ndim != 2 or runs.shape[1] != 2:
        raise ValueError(f"runs must have the shape (R, 2), not {runs.shape}")
    if len(runs) and not np.issubdtype(runs.dtype, np.integer):
        raise ValueError(f"runs must be whole numbers, not {runs.dtype}")
    runs = np.ascontiguousarray(runs, np.int64)
    if len(runs) == 0:
        return runs
    starts, ends = runs[:, 0], runs[:, 0] + runs[:, 1]
    for bad, what in (
        (starts < 1, "starts below pixel 1"),
        (runs[:, 1] < 1, "is not at least 1 px long"),
        # past what 64 bits hold, the sum comes out negative
        (ends < starts, "ends beyond 64 bits"),
    ):
        if bad.any():
            at = int(bad.argmax())
            raise ValueError(f"run {at + 1} ({starts[at]} {runs[at, 1]}) {what}")
    overlap = starts[1:] < ends[:-1]
    if overlap.any():
        at = int(overlap.argmax()) + 1
        what = "does not start after" if starts[at] <= starts[at - 1] else "overlaps"
        raise ValueError(f"run {at + 1} ({starts[at]} {runs[at, 1]}) {what} the run before it")
    if total_px is not None and ends[-1] - 1 > total_px:
        raise ValueError(f"the last run ({starts[-1]} {runs[-1, 1]}) goes past the last pixel, {total_px}")
    return runs


def decode(runs: np.ndarray, size: Size, *, order: Order = "row") -> np.ndarray:
    """The opposite of `encode`.

    Args:
        runs: (R, 2) integer rows (start_px, length_px), 1-based, increasing, not overlapping.
        size: (height, width) of the mask.
        order: as in `encode`.

    Returns:
        (H, W) bool, C-contiguous.

    Raises:
        ValueError: runs are malformed, overlap, do not increase, or leave the mask.

    >>> decode(np.array([[2, 3], [6, 1]]), (2, 3)).astype(int).tolist()
    [[0, 1, 1], [1, 0, 1]]
    """
    height, width = size
    checked = _checked_runs(runs, height * width)
    flat = scan.fill(checked, height * width).view(np.bool_)
    if order == "row":
        return flat.reshape(height, width)
    if order == "column":
        return transposition.turn(flat.view(np.uint8).reshape(width, height)).view(np.bool_)
    raise ValueError(f"unknown order {order!r}: it is 'row' or 'column'")


def parse(text: bytes | str, *, size: Size | None = None) -> np.ndarray:
    """Read the submission's text.

    Args:
        text: `start length start length ...`, separated by single or several spaces.
        size: (height, width) of the mask, to notice runs past its end; None does not check that.

    Returns:
        (R, 2) int64.

    Raises:
        ValueError: a character that is no digit or space, an odd number of numbers, a number beyond 64 bits, a start
            or length below 1, runs that overlap or do not increase, or leave the mask. The message gives the run.

    >>> parse("2 3 6 1").tolist()
    [[2, 3], [6, 1]]
    """
    data = text.encode("ascii", "replace") if isinstance(text, str) else text
    numbers, fault = digits.numbers(np.frombuffer(data, np.uint8))
    if fault >= 0:
        raise ValueError(f"character {fault + 1} ({data[fault : fault + 1]!r}) is neither a digit nor a space")
    if fault == digits.TOO_LARGE:
        raise ValueError("a number has more digits than any pixel has")
    if len(numbers) % 2:
        raise ValueError(f"an odd number of numbers ({len(numbers)}): a start lacks its length")
    return _checked_runs(numbers.reshape(-1, 2), None if size is None else size[0] * size[1])


def format_runs(runs: np.ndarray) -> bytes:
    """The text of runs (R, 2); the opposite of `parse`. Raises ValueError as `parse` for runs that are none.

    >>> format_runs(np.array([[2, 3], [6, 1]]))
    b'2 3 6 1'
    """
    checked = _checked_runs(runs, None)
    edges = checked.copy()
    edges[:, 0] -= 1
    edges[:, 1] += edges[:, 0]
    return digits.text(edges.reshape(-1)).tobytes()
