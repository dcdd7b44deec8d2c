"""What a stacker is really worth: fitted on the images of all folds but one, and scored at full size on that one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import cv2
import joblib
import numpy as np
from tqdm import tqdm

from competition import Size
from ensemble.conv_stacker import NAME, ConvStacker
from ensemble.index import fold_rows
from ensemble.patches import Patches, gather
from ensemble.selection import Candidate
from folds.cache import Truth
from folds.scoring import dice_of
from folds.store import LogitStore
from models.frame import Frame

_CHUNK = 8


class Stacker(Protocol):
    """Something that learns from windows and then combines logits."""

    def fit(self, patches: Patches, images: np.ndarray, weights: np.ndarray) -> Stacker:
        """Learn from the windows of the images at these positions; returns self."""

    def __call__(
        self, logits: Sequence[np.ndarray], frames: Sequence[Frame], weights: Sequence[float], full: Size
    ) -> np.ndarray:
        """(H, W) float32 logits at full size."""


def _dice(
    stackers: Mapping[int, Stacker],
    stores: Sequence[LogitStore],
    frames: Sequence[Frame],
    names: Sequence[str],
    truth: Truth,
    full: Size,
    fold: np.ndarray,
    positions: range,
) -> list[float]:
    cv2.setNumThreads(1)
    equal = [1 / len(stores)] * len(stores)
    return [
        dice_of(
            np.ascontiguousarray(
                stackers[int(fold[p])]([store.read(names[p])[0] for store in stores], frames, equal, full)
            ),
            truth.of(p),
        )
        for p in positions
    ]


def evaluate_stacker(
    linear: Candidate,
    stores: Sequence[LogitStore],
    frames: Sequence[Frame],
    names: Sequence[str],
    truth: Truth,
    full: Size,
    fold: np.ndarray,
    *,
    make: Callable[[], Stacker] = ConvStacker,
    jobs: int = -1,
) -> tuple[Candidate, Stacker]:
    """Fit a stacker within each fold's complement and on everything.

    Args:
        linear: its weights, fitted without each fold and on everything, are what each stacker starts from.
        stores, frames: of the networks.
        names, truth: the training images and their masks.
        full: (H, W) of the full frame.
        fold: (N,) the fold each image was held out in.
        make: makes an unfitted stacker.
        jobs: processes, as joblib counts them.

    Returns:
        The candidate, whose nested Dice of an image comes from a stacker that has seen no image of its fold; and the
        stacker fitted on all images.
    """
    patches = gather(stores, frames, names, truth, full, jobs=jobs)
    everything = np.arange(len(names))
    tasks = [(fold_rows(fold, held_out)[0], weights) for held_out, weights in linear.nested_weights.items()]
    tasks.append((everything, linear.weights))
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator")
    calls = (joblib.delayed(make().fit)(patches, images, weights) for images, weights in tasks)
    fitted: list[Stacker] = list(tqdm(parallel(calls), total=len(tasks), desc="fit stacker", unit="fit", disable=None))
    stackers = dict(zip(linear.nested_weights, fitted, strict=False))
    chunks = [range(start, min(start + _CHUNK, len(names))) for start in range(0, len(names), _CHUNK)]
    calls = (joblib.delayed(_dice)(stackers, stores, frames, names, truth, full, fold, chunk) for chunk in chunks)
    nested: list[float] = []
    with tqdm(total=len(names), desc="score stacker", unit="image", disable=None) as bar:
        for chunk in parallel(calls):
            nested += chunk
            bar.update(len(chunk))
    return Candidate(NAME, linear.weights, np.array(nested), linear.nested_weights, NAME), fitted[-1]
