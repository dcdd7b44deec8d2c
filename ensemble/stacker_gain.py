"""What a stacker is really worth: fitted on the images of all folds but one, and scored at full size on that one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import cv2
import joblib
import numpy as np
from tqdm import tqdm

from competition import Size
from ensemble.conv_stacker import NAME
from ensemble.index import fold_rows
from ensemble.patches import Patches, gather
from ensemble.selection import Candidate
from folds.inputs import Inputs
from folds.scoring import dice_of
from folds.store import LogitStore
from folds.truth import Truth
from models.frame import Frame

_CHUNK = 8


class Stacker(Protocol):
    """Something that learns from windows and then combines logits."""

    def fit(self, patches: Patches, images: np.ndarray, weights: np.ndarray) -> Stacker:
        """Learn from the windows of the images at these positions; returns self."""

    def __call__(
        self,
        planes: Sequence[np.ndarray],
        frames: Sequence[Frame],
        weights: Sequence[float],
        full: Size,
        image: np.ndarray | None = None,
    ) -> np.ndarray:
        """(H, W) float32 logits at full size."""


Made = TypeVar("Made", bound=Stacker)


def _dice(
    stackers: Mapping[int, Stacker],
    stores: Sequence[LogitStore],
    frames: Sequence[Frame],
    names: Sequence[str],
    truth: Truth,
    full: Size,
    fold: np.ndarray,
    pictures: Inputs | None,
    positions: range,
) -> list[float]:
    cv2.setNumThreads(1)
    equal = [1 / len(stores)] * len(stores)
    scores = []
    for p in positions:
        planes = [store.read(names[p])[0] for store in stores]
        image = None if pictures is None else pictures.image(p)
        logits = stackers[int(fold[p])](planes, frames, equal, full, image)
        scores.append(dice_of(np.ascontiguousarray(logits), truth.of(p)))
    return scores


def evaluate_stacker(
    linear: Candidate,
    stores: Sequence[LogitStore],
    frames: Sequence[Frame],
    names: Sequence[str],
    truth: Truth,
    full: Size,
    fold: np.ndarray,
    *,
    make: Callable[[], Made],
    name: str = NAME,
    pictures: Inputs | None = None,
    jobs: int = -1,
) -> tuple[Candidate, Made]:
    """Fit a stacker within each fold's complement and on everything.

    Args:
        linear: its weights, fitted without each fold and on everything, are what each stacker starts from.
        stores, frames: of the networks.
        names, truth: the training images and their masks.
        full: (H, W) of the full frame.
        fold: (N,) the fold each image was held out in.
        make: makes an unfitted stacker.
        name: for the result.
        pictures: the training images in the frame of `ensemble.patches.grid_of`, for stackers that look at them.
        jobs: processes, as joblib counts them.

    Returns:
        The candidate, whose nested Dice of an image comes from a stacker that has seen no image of its fold; and the
        stacker fitted on all images.
    """
    patches = gather(stores, frames, names, truth, full, pictures=pictures, jobs=jobs)
    everything = np.arange(len(names))
    tasks = [(fold_rows(fold, held_out)[0], weights) for held_out, weights in linear.nested_weights.items()]
    tasks.append((everything, linear.weights))
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator")
    calls = (joblib.delayed(make().fit)(patches, images, weights) for images, weights in tasks)
    fitted: list[Made] = list(tqdm(parallel(calls), total=len(tasks), desc="fit stacker", unit="fit", disable=None))
    stackers = dict(zip(linear.nested_weights, fitted, strict=False))
    chunks = [range(start, min(start + _CHUNK, len(names))) for start in range(0, len(names), _CHUNK)]
    calls = (
        joblib.delayed(_dice)(stackers, stores, frames, names, truth, full, fold, pictures, chunk) for chunk in chunks
    )
    nested: list[float] = []
    with tqdm(total=len(names), desc="score stacker", unit="image", disable=None) as bar:
        for chunk in parallel(calls):
            nested += chunk
            bar.update(len(chunk))
    return Candidate(name, linear.weights, np.array(nested), linear.nested_weights, name), fitted[-1]
