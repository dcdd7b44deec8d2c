"""What the data loader reads: augmented samples, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from folds.augment import Augmentation
from folds.cache import Frames

Sample = tuple[np.ndarray, np.ndarray, int]


class EpochSampler(torch.utils.data.Sampler[tuple[int, int]]):
    """Yields (epoch, position): every position once an epoch, shuffled by seed and epoch.

    The epoch travels with the position, so that workers that outlive an epoch still draw the right augmentation.
    Lightning calls `set_epoch` before each epoch, also when a run resumes.
    """

    def __init__(self, positions: np.ndarray, *, seed: int, shuffle: bool) -> None:
        self._positions = positions
        self._seed = seed
        self._shuffle = shuffle
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration belongs to."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self._positions
        if self._shuffle:
            order = np.random.default_rng((self._seed, self._epoch)).permutation(order)
        return iter([(self._epoch, int(position)) for position in order])


class Samples(torch.utils.data.Dataset[Sample]):
    """(image (h, w, 3) uint8, mask (h, w) uint8 coverage, position) by (epoch, position)."""

    def __init__(self, frames: Frames, augmentation: Augmentation | None) -> None:
        self._frames = frames
        self._augmentation = augmentation

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, position = key
        image, mask = self._frames.image(position), self._frames.mask(position)
        if self._augmentation is not None:
            image, mask = self._augmentation(image, mask, epoch=epoch, position=position)
        # flips give views of negative stride, which torch cannot take; memory maps are read-only
        return np.array(image), np.array(mask), position
