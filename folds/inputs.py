"""Training images and targets at a network's size, decoded once and memory-mapped after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from competition import Size
from folds.derived import derive, new_array
from folds.heads import HeadTruth, targets, targets_of
from folds.images import Draws, TrainingSet
from folds.parallel import cut, in_parallel
from models.frame import Frame

# images that a process takes at a time
_CHUNK = 16
# inputs above this size are decoded anew every epoch instead
CACHE_LIMIT_BYTES = 24 * 2**30
MASK = ("mask",)
# of a .npy file
_HEADER_BYTES = 128


class Listed(Protocol):
    """Images by name."""

    @property
    def names(self) -> tuple[str, ...]:
        """Theirs, in order."""


class Inputs(Protocol):
    """Training images and targets at a network's size, by position in `TrainingSet.names`."""

    def image(self, position: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB."""

    def target(self, position: int) -> np.ndarray:
        """(h, w) uint8, 0 .. 255 for 0 .. 1, of a mask its coverage; (h, w, K) where the heads have K > 1 planes."""


class Decoded(Inputs, Protocol):
    """Inputs that are decoded whenever they are asked for, and may be kept."""

    @property
    def frame(self) -> Frame:
        """The network's."""

    @property
    def listed(self) -> Listed:
        """The images, by position."""


@dataclass(frozen=True)
class CachedInputs:
    """Inputs in memory-mapped arrays. Pickles by path.

    Attributes:
        folder: of the arrays.
        decoded: what they are made of, and made of again where they are damaged; None in another process.
    """

    folder: Path
    decoded: Decoded | None = None

    def __post_init__(self) -> None:
        for name in ("images", "masks"):
            object.__setattr__(self, f"_{name}", np.load(self.folder / f"{name}.npy", mmap_mode="r"))

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedInputs, (self.folder,)

    def image(self, position: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB, read-only."""
        return self._images[position]  # type: ignore[attr-defined,no-any-return]

    def target(self, position: int) -> np.ndarray:
        """(h, w) or (h, w, K) uint8, read-only."""
        return self._masks[position]  # type: ignore[attr-defined,no-any-return]


@dataclass(frozen=True)
class DecodedInputs:
    """Inputs decoded whenever they are asked for: for sizes whose cache would not fit the disk."""

    training: TrainingSet
    frame: Frame
    truths: Mapping[str, HeadTruth]
    heads: Sequence[str] = MASK

    @property
    def listed(self) -> Listed:
        """The images, by position."""
        return self.training

    def image(self, position: int) -> np.ndarray:
        """(h, w, C) uint8."""
        return self.training.input_of(position, self.frame)

    def target(self, position: int) -> np.ndarray:
        """(h, w) or (h, w, K) uint8."""
        return targets(self.heads, self.truths, position, self.frame, self.training.competition.size)


@dataclass(frozen=True)
class DrawnInputs:
    """Image and target of training samples that are drawn anew each epoch, by (epoch, position)."""

    draws: Draws
    frame: Frame
    heads: Sequence[str]
    full: Size

    def __call__(self, epoch: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        """(h, w, C) uint8, and (h, w) or (h, w, K) uint8."""
        image, truths = self.draws.sample(epoch, position, self.frame)
        return image, targets_of(self.heads, truths, self.frame, self.full)


def _decode(decoded: Decoded, folder: Path, positions: Sequence[int]) -> None:
    cv2.setNumThreads(1)
    images = np.load(folder / "images.npy", mmap_mode="r+")
    masks = np.load(folder / "masks.npy", mmap_mode="r+")
    for position in positions:
        images[position] = decoded.image(position)
        masks[position] = decoded.target(position)


def load_inputs(
    training: TrainingSet,
    frame: Frame,
    truths: Mapping[str, HeadTruth],
    cache: Path,
    *,
    heads: Sequence[str] = MASK,
    jobs: int = -1,
) -> Inputs:
    """The training images and targets at a network's size, decoded at the first call and memory-mapped after.

    Args:
        training: the images.
        frame: the network's.
        truths: by head; from `folds.heads.load_truths`, or `{"mask": load_truth(...)}`.
        cache: `runs/<competition>/cache`.
        heads: what the targets are of, in the order of the network's output.
        jobs: processes, as joblib counts them.

    Raises:
        UserError: an image cannot be used; the message names it. Nothing is written then.
    """
    decoded = DecodedInputs(training, frame, truths, tuple(heads))
    if training.composed:
        return decoded
    return kept(decoded, cache / training.digest / folder_name(frame, training.competition.size, heads), jobs=jobs)


def folder_name(frame: Frame, full: Size, heads: Sequence[str]) -> str:
    """The name of the folder that keeps inputs in a network's frame, of images of size `full`, and targets of heads."""
    height, width = frame.size
    version = frame.version(full)
    # inputs of an older geometry stay where they are, for nobody
    name = f"{frame.fit}-{height}x{width}{f'-v{version}' if version > 1 else ''}"
    return name if tuple(heads) == MASK else f"{name}-{'+'.join(heads)}"


def kept(decoded: Decoded, folder: Path, *, jobs: int = -1) -> Inputs:
    """Inputs decoded at the first call and memory-mapped after; as they are where they would not fit the disk.

    Args:
        decoded: the inputs.
        folder: where they are kept.
        jobs: processes, as joblib counts them.
    """
    height, width = decoded.frame.size
    # the first tells how many planes there are, and is read again: one of thousands
    target = decoded.target(0).shape
    if len(decoded.listed.names) * (height * width * 3 + int(np.prod(target))) > CACHE_LIMIT_BYTES:
        return decoded
    return _cached(folder, decoded, jobs, content=False)


def _cached(folder: Path, decoded: Decoded, jobs: int, *, content: bool) -> CachedInputs:
    """Inputs in a folder, which is made if it is not there or not whole."""
    frame, count = decoded.frame, len(decoded.listed.names)
    height, width = frame.size
    shapes = {"images": (count, height, width, 3), "masks": (count, *decoded.target(0).shape)}

    def fill(temporary: Path) -> None:
        for array, shape in shapes.items():
            new_array(temporary / f"{array}.npy", shape)
        label = f"reduce to {height}x{width}" if frame.fit == "resize" else f"pad to {height}x{width}"
        decode = partial(_decode, decoded, temporary)
        for _ in in_parallel(decode, cut(range(count), _CHUNK), count, label=label, jobs=jobs):
            pass

    needed_bytes = sum(math.prod(shape) + _HEADER_BYTES for shape in shapes.values())
    derive(folder, fill, needed_bytes=needed_bytes, content=content)
    try:
        return CachedInputs(folder, decoded)
    except ValueError:
        # a header that is none
        return _cached(folder, decoded, jobs, content=True)


def checked(inputs: Inputs, *, jobs: int = -1) -> Inputs:
    """Inputs whose every byte is what was once decoded: made again if it is not. To be asked before a training, which
    reads them many times, and not whenever they are opened.

    Args:
        inputs: from `load_inputs`.
        jobs: processes, as joblib counts them.

    Raises:
        UserError: as `load_inputs`.
    """
    if not isinstance(inputs, CachedInputs) or inputs.decoded is None:
        return inputs
    return _cached(inputs.folder, inputs.decoded, jobs, content=True)
