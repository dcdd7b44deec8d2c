"""The training masks as row-major runs, read once from their files and kept in `runs/<competition>/cache`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from folds.derived import derive
from folds.images import TrainingSet
from folds.mask_levels import unexpected
from folds.parallel import cut, in_parallel
from kernels import rle

_CHUNK = 16


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


def _runs_of(training: TrainingSet, names: Sequence[str]) -> list[np.ndarray]:
    return [rle.encode(training.mask(name)) for name in names]


def say_unexpected(training: TrainingSet, areas_px: np.ndarray) -> None:
    """Print a line on masks that are empty or full where the competition's entry expects none such, if there are any.

    Args:
        training: the images.
        areas_px: (N,) of their masks' foreground.
    """
    if training.composed:
        return
    paths = map(training.mask_path, training.names)
    found = list(filter(None, map(partial(unexpected, competition=training.competition), areas_px, paths)))
    if found:
        more = f" ({len(found) - 1} more such masks)" if len(found) > 1 else ""
        print(found[0] + more)


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
        read, names = partial(_runs_of, training), training.names
        chunks = in_parallel(read, cut(names, _CHUNK), len(names), label="read masks", jobs=jobs)
        runs = [image for chunk in chunks for image in chunk]
        areas_px = np.array([r[:, 1].sum() for r in runs], np.int64)
        say_unexpected(training, areas_px)
        np.save(temporary / "runs.npy", np.concatenate(runs))
        np.save(temporary / "offsets.npy", np.cumsum([0, *(len(r) for r in runs)]))
        np.save(temporary / "areas_px.npy", areas_px)

    derive(folder, fill)
    return Truth(
        np.load(folder / "runs.npy", mmap_mode="r"), np.load(folder / "offsets.npy"), np.load(folder / "areas_px.npy")
    )
