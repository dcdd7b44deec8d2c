"""How logits become codes of 16 bits: fine steps around 0, where the mask is decided, wide ones far from it.

Blends are fitted on logits that a store has kept, so whatever predicts passes its logits through this code, whether it
stores them (`quantise`, later `dequantise`) or not (`rounded`).

The code is an inverse hyperbolic sine, `code = round(SCALE * asinh(logit / KNEE))`: steps of KNEE / SCALE around 0,
and of 1 / SCALE of the value far from it. FORMATS.md has the error bound.
"""

from __future__ import annotations

import functools

import numpy as np

from kernels.compiled import compiled

# of the codes; those of another type need a format of their own (folds/store.py)
DTYPE = np.dtype(np.int16)
_UNSIGNED = np.dtype(f"u{DTYPE.itemsize}")
# of new stores; a store is read with the constants it was written with
KNEE = 1.0
SCALE = 512
LIMIT = 16.0


def _steps(logits: np.ndarray, knee: float, scale: int) -> np.ndarray:
    """The codes as float32, an array of its own."""
    steps = np.clip(logits, -LIMIT, LIMIT, dtype=np.float32)
    steps /= np.float32(knee)
    np.arcsinh(steps, out=steps)
    steps *= np.float32(scale)
    return np.rint(steps, out=steps)


def quantise(logits: np.ndarray, *, knee: float = KNEE, scale: int = SCALE) -> np.ndarray:
    """Code logits.

    Args:
        logits: float32 of any shape, finite; values beyond +-LIMIT are stored as +-LIMIT.
        knee, scale: of the code.

    Returns:
        `DTYPE` of the same shape. The sign is kept wherever |logit| > knee / scale / 2.
    """
    return _steps(logits, knee, scale).astype(DTYPE)


@functools.cache
def _table(knee: float, scale: int) -> np.ndarray:
    """float32 logit of every code, indexed by the code as an unsigned number."""
    codes = np.arange(1 << 8 * DTYPE.itemsize, dtype=_UNSIGNED).view(DTYPE).astype(np.float64)
    limit = np.arcsinh(LIMIT / knee) * scale + 1
    return (knee * np.sinh(np.clip(codes, -limit, limit) / scale)).astype(np.float32)


@compiled
def _look_up(codes: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(codes)):
        out[i] = table[codes[i]]


def dequantise(codes: np.ndarray, *, knee: float = KNEE, scale: int = SCALE) -> np.ndarray:
    """The inverse of `quantise`: codes to float32 logits of the same shape."""
    # numpy would take ten times as long, most of it for the positions as it needs them
    logits = np.empty(codes.shape, np.float32)
    _look_up(np.ascontiguousarray(codes, DTYPE).reshape(-1).view(_UNSIGNED), _table(knee, scale), logits.reshape(-1))
    return logits


# logits that are rounded at a time: what the processor's cache holds
_CHUNK = 1 << 15


def rounded(logits: np.ndarray) -> np.ndarray:
    """Logits as a new store would give them back: `dequantise(quantise(logits))` to the bit, in less time.

    Args:
        logits: float32 of any shape, finite; not modified.

    Returns:
        float32 of the same shape.

    >>> [round(float(logit), 4) for logit in rounded(np.array([0.3, -40, 0.0004], np.float32))]
    [0.2992, -16.0014, 0.0]
    """
    table = _table(KNEE, SCALE)
    flat = logits.reshape(-1)
    out = np.empty(flat.shape, np.float32)
    for start in range(0, len(flat), _CHUNK):
        # below 0, from the table's end: where the codes below 0 are
        out[start : start + _CHUNK] = table[_steps(flat[start : start + _CHUNK], KNEE, SCALE).astype(np.intp)]
    return out.reshape(logits.shape)
