"""Masks to measure with: those of a folder, or of cars rendered by the studio for the occasion."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from command_line import UserError
from competition import COMPETITIONS
from folds.images import read_mask
from studio.render import render_competition

_SIZE = COMPETITIONS["carvana"].size


def load_masks(folder: Path | None, count: int) -> list[np.ndarray]:
    """Up to `count` (1280, 1918) bool masks.

    Args:
        folder: of `*_mask.gif` files, taken evenly over their sorted names; None renders two studio cars, 32 views.
        count: at most so many.

    Raises:
        UserError: the folder holds no masks, or masks of another size.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as scratch:
            render_competition(Path(scratch), cars=1, test_cars=1)
            return [mask for part in ("train", "test") for mask in load_masks(Path(scratch) / f"{part}_masks", count)]
    paths = sorted(folder.glob("*_mask.gif"))
    if not paths:
        raise UserError(f"{folder} holds no *_mask.gif: name a folder of masks.")
    step = max(1, len(paths) // count)
    return [read_mask(path, _SIZE) for path in paths[::step][:count]]


def logits_of(mask: np.ndarray, dtype: type, seed: int) -> np.ndarray:
    """Logits that give this mask at the threshold 0, noisy as a network's are.

    Args:
        mask: (H, W) bool.
        dtype: np.float32, np.float16, or np.int16 (in steps of 1/128).
        seed: of the noise.
    """
    drawn = np.random.default_rng(seed).gamma(4, 1.5, size=(mask.shape[1],))
    noise = drawn.astype(np.float32) + np.float32(0.1)
    logits = np.where(mask, noise, -noise)
    return (logits * 128).astype(np.int16) if dtype is np.int16 else logits.astype(dtype)
