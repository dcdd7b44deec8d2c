"""Logits as 16-bit codes.

The code is an inverse hyperbolic sine, `code = round(SCALE * asinh(logit / KNEE))`: steps of KNEE / SCALE around 0,
where the mask is decided, and steps of 1 / SCALE of the value far from it. FORMATS.md has the error bound.
"""

from __future__ import annotations

import functools

import numpy as np

# a store is read with the constants it was written with
KNEE = 1.0
SCALE = 512
LIMIT = 16.0
# a code that no logit has: what zarr returns for a chunk that was never written
UNWRITTEN = np.iinfo(np.int16).min


def quantise(logits: np.ndarray, *, knee: float = KNEE, scale: int = SCALE) -> np.ndarray:
    """Code logits.

    Args:
        logits: float32 of any shape, finite; values beyond +-LIMIT are stored as +-LIMIT.
        knee, scale: of the code.

    Returns:
        int16 of the same shape. The sign is kept wherever |logit| > knee / scale / 2.
    """
    clipped = np.clip(logits, -LIMIT, LIMIT, dtype=np.float32)
    return np.rint(np.arcsinh(clipped / np.float32(knee)) * np.float32(scale)).astype(np.int16)


@functools.cache
def _table(knee: float, scale: int) -> np.ndarray:
    """float32 logit of every int16 code, indexed by the code as uint16."""
    codes = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.float64)
    limit = np.arcsinh(LIMIT / knee) * scale + 1
    return (knee * np.sinh(np.clip(codes, -limit, limit) / scale)).astype(np.float32)


def dequantise(codes: np.ndarray, *, knee: float = KNEE, scale: int = SCALE) -> np.ndarray:
    """The inverse of `quantise`: int16 codes to float32 logits of the same shape."""
    return _table(knee, scale)[codes.view(np.uint16)]
