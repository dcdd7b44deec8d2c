"""The training masks as row-major runs, read once from their files and kept in `runs/<competition>/cache`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import joblib
import numpy as np
from tqdm import tqdm

from folds.derived import derive
from folds.images import TrainingSet
from kernels import rle

_CHUNK = 16


class Listed(Protocol):
    """Images by name."""

    @property
    def names(self) -> tuple[str, ...]:
        """Theirs, in order."""

    def image_path(self, name: str) -> Path:
        """Where one is."""


def in_chunks(task: Callable[..., Any], training: Listed, *arguments: Any, label: str, jobs: int) -> Iterator[Any]:
    """Run `task(training, start, stop, *arguments)` over the images in parallel; results come in order."""
    count = len(training.names)
    starts = range(0, count, _CHUNK)
    # a handful of images is done before the workers have started
    parallel = joblib.Parallel(n_jobs=jobs if count > 4 * _CHUNK else 1, return_as="generator")
    calls = (joblib.delayed(task)(training, s, min(s + _CHUNK, count), *arguments) for s in starts)
    with tqdm(total=count, desc=label, unit="image", disable=None) as bar:
        for start, result in zip(starts, parallel(calls), strict=True):
            yield result
            bar.update(min(_CHUNK, count - start))


@dataclass(frozen=True)
class Truth:
    """The training masks as row-major runs.

    Attributes:
        runs: (R, 2) int64, all images' runs one after the other.
        offsets: (N + 1,) int64; image i has runs[offsets[i]:offsets[i + 1]].
        areas_px: (N,) int64.
    """

    runs: np.ndarray
    offsets: np.ndarray
    areas_px: np.ndarray

    def of(self, position: int) -> np.ndarray:
        """(r, 2) int64 runs of the image at `position` in `TrainingSet.names`."""
        return np.asarray(self.runs[self.offsets[position] : self.offsets[position + 1]])


def _truth_chunk(training: TrainingSet, start: int, stop: int) -> list[np.ndarray]:
    return [rle.encode(training.mask(name)) for name in training.names[start:stop]]


def load_truth(training: TrainingSet, cache: Path, *, jobs: int = -1) -> Truth:
    """The truth of a training set, read once from its masks.

    Args:
        training: the images.
        cache: `runs/<competition>/cache`.
        jobs: processes, as joblib counts them.

    Raises:
        UserError: a mask cannot be used; the message names it. Nothing is written then.
    """
    folder = cache / training.digest / "truth"

    def fill(temporary: Path) -> None:
        chunks = list(in_chunks(_truth_chunk, training, label="read masks", jobs=jobs))
        runs = [image for chunk in chunks for image in chunk]
        np.save(temporary / "runs.npy", np.concatenate(runs))
        np.save(temporary / "offsets.npy", np.cumsum([0, *(len(r) for r in runs)]))
        np.save(temporary / "areas_px.npy", np.array([r[:, 1].sum() for r in runs], np.int64))

    derive(folder, fill)
    return Truth(
        np.load(folder / "runs.npy", mmap_mode="r"), np.load(folder / "offsets.npy"), np.load(folder / "areas_px.npy")
    )
