"""What is derived from the training images once and read many times: truth as runs, frames at a network's size.

Both live under `runs/<competition>/cache/<data digest>/`, so other data never meets them. A folder is built beside
its place and renamed into it: if it is there, it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import joblib
import numpy as np
from tqdm import tqdm

import atomic
from folds.images import TrainingSet, read_mask
from kernels import rle
from models.frame import Frame

_CHUNK = 16
# frames above this size are decoded anew every epoch instead
CACHE_LIMIT_BYTES = 24 * 2**30


def _in_chunks(
    task: Callable[..., Any], training: TrainingSet, *arguments: Any, label: str, jobs: int
) -> Iterator[Any]:
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
    size = training.competition.size
    return [rle.encode(read_mask(training.mask_path(name), size)) for name in training.names[start:stop]]


def truth(training: TrainingSet, cache: Path, *, jobs: int = -1) -> Truth:
    """The truth of a training set, read once from its masks.

    Args:
        training: the images.
        cache: `runs/<competition>/cache`.
        jobs: processes, as joblib counts them.

    Raises:
        UserError: a mask cannot be used; the message names it. Nothing is written then.
    """
    folder = cache / training.digest / "truth"
    if not folder.is_dir():
        chunks = list(_in_chunks(_truth_chunk, training, label="read masks", jobs=jobs))
        runs = [image for chunk in chunks for image in chunk]
        with atomic.building(folder) as temporary:
            np.save(temporary / "runs.npy", np.concatenate(runs))
            np.save(temporary / "offsets.npy", np.cumsum([0, *(len(r) for r in runs)]))
            np.save(temporary / "areas_px.npy", np.array([r[:, 1].sum() for r in runs], np.int64))
    return Truth(
        np.load(folder / "runs.npy", mmap_mode="r"), np.load(folder / "offsets.npy"), np.load(folder / "areas_px.npy")
    )


class Frames(Protocol):
    """Training images and masks at a network's size, by position in `TrainingSet.names`."""

    def image(self, position: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB."""

    def mask(self, position: int) -> np.ndarray:
        """(h, w) uint8 coverage, 0 .. 255."""


@dataclass(frozen=True)
class CachedFrames:
    """Frames in memory-mapped arrays. Pickles by path."""

    folder: Path

    def __post_init__(self) -> None:
        for name in ("images", "masks"):
            object.__setattr__(self, f"_{name}", np.load(self.folder / f"{name}.npy", mmap_mode="r"))

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedFrames, (self.folder,)

    def image(self, position: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB, read-only."""
        return self._images[position]  # type: ignore[attr-defined,no-any-return]

    def mask(self, position: int) -> np.ndarray:
        """(h, w) uint8 coverage, read-only."""
        return self._masks[position]  # type: ignore[attr-defined,no-any-return]


@dataclass(frozen=True)
class DecodedFrames:
    """Frames decoded whenever they are asked for: for sizes whose cache would not fit the disk."""

    training: TrainingSet
    frame: Frame
    truth: Truth

    def image(self, position: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB."""
        path = self.training.image_path(self.training.names[position])
        return self.frame.load(path, self.training.competition.size)[0]

    def mask(self, position: int) -> np.ndarray:
        """(h, w) uint8 coverage."""
        return self.frame.apply_mask(rle.decode(self.truth.of(position), self.training.competition.size))


def _frame_chunk(training: TrainingSet, start: int, stop: int, frame: Frame, known: Truth, folder: Path) -> None:
    cv2.setNumThreads(1)
    decoded = DecodedFrames(training, frame, known)
    images = np.load(folder / "images.npy", mmap_mode="r+")
    masks = np.load(folder / "masks.npy", mmap_mode="r+")
    for position in range(start, stop):
        images[position] = decoded.image(position)
        masks[position] = decoded.mask(position)


def frames(training: TrainingSet, frame: Frame, known: Truth, cache: Path, *, jobs: int = -1) -> Frames:
    """The training images and masks at a network's size, decoded at the first call and memory-mapped after.

    Args:
        training: the images.
        frame: the network's side of the frame.
        known: the truth, from `truth`.
        cache: `runs/<competition>/cache`.
        jobs: processes, as joblib counts them.

    Raises:
        UserError: an image cannot be used; the message names it. Nothing is written then.
    """
    height, width = frame.size
    count = len(training.names)
    if count * height * width * 4 > CACHE_LIMIT_BYTES:
        return DecodedFrames(training, frame, known)
    version = frame.version(training.competition.size)
    # inputs of an older geometry stay where they are, for nobody
    folder = cache / training.digest / f"{frame.fit}-{height}x{width}{f'-v{version}' if version > 1 else ''}"
    if not folder.is_dir():
        with atomic.building(folder) as temporary:
            shapes: Sequence[tuple[str, tuple[int, ...]]] = (
                ("images", (count, height, width, 3)),
                ("masks", (count, height, width)),
            )
            for name, shape in shapes:
                np.lib.format.open_memmap(temporary / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape).flush()
            label = f"reduce to {height}x{width}" if frame.fit == "resize" else f"pad to {height}x{width}"
            for _ in _in_chunks(_frame_chunk, training, frame, known, temporary, label=label, jobs=jobs):
                pass
    return CachedFrames(folder)
