"""What the data loader reads: augmented samples, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import FrameType

import cv2
import numpy as np
import torch

from folds.augment import Augmentation
from folds.boundary_crop import BoundaryCrop
from folds.inputs import Inputs
from folds.ranks import end_with_parent

Sample = tuple[np.ndarray, np.ndarray, int]
# from (epoch, position) to image and target
Drawing = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


# tells the order of extra images from that of epochs, of the same seed
_EXTRA_STREAM = 1 << 20


class EpochSampler(torch.utils.data.Sampler[tuple[int, int]]):
    """Yields (epoch, position): every position once an epoch, shuffled by seed and epoch.

    The epoch travels with the position, so that workers that outlive an epoch still draw the right augmentation.
    Lightning calls `set_epoch` before each epoch, also when a run resumes.

    Several processes that share every batch together yield what one alone would: of each batch, process `rank` of
    `world` takes every `world`-th image from number `rank` on.

    Args:
        positions: (N,) of the images.
        seed: of the order.
        shuffle: anew each epoch; a last batch that is not whole is left out then, unless it is the only one, since
            one image alone would break batch norm at 1x1, and the order changes, so that no image is lost.
        batch: images a step, all processes together.
        rank, world: which of how many processes this is.
        extra: (E,) positions of images that every batch ends with some of; an epoch stays one pass over `positions`.
            They go round and round, shuffled anew each time, by seed and epoch alone.
        extra_batch: how many of them a batch has, fewer than `batch`.
    """

    def __init__(
        self,
        positions: np.ndarray,
        *,
        seed: int,
        shuffle: bool,
        batch: int = 1,
        rank: int = 0,
        world: int = 1,
        extra: np.ndarray | None = None,
        extra_batch: int = 0,
    ) -> None:
        self._positions = positions
        self._seed = seed
        self._shuffle = shuffle
        self._batch = batch
        self._rank = rank
        self._world = world
        self._extra = extra
        self._extra_batch = extra_batch
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration belongs to."""
        self._epoch = epoch

    def _part(self) -> np.ndarray:
        """This process's positions in this epoch's order."""
        order, own = self._positions, self._batch - self._extra_batch
        if self._shuffle:
            order = np.random.default_rng((self._seed, self._epoch)).permutation(order)
            if len(order) > own:
                order = order[: len(order) // own * own]
        batches = [order[start : start + own] for start in range(0, len(order), own)]
        if self._extra is not None:
            more = self._extra_part(len(batches) * self._extra_batch).reshape(len(batches), self._extra_batch)
            batches = [np.concatenate(pair) for pair in zip(batches, more, strict=True)]
        return np.concatenate([batch[self._rank :: self._world] for batch in batches])

    def _extra_part(self, count: int) -> np.ndarray:
        """The `count` extra positions of this epoch: those that follow the epoch's before in an endless series."""
        assert self._extra is not None
        rounds, start = divmod(self._epoch * count, len(self._extra))
        orders: list[np.ndarray] = []
        while len(orders) * len(self._extra) < start + count:
            # a stream of its own beside the epochs'
            rng = np.random.default_rng((self._seed, _EXTRA_STREAM, rounds + len(orders)))
            orders.append(rng.permutation(self._extra))
        return np.concatenate(orders)[start : start + count]

    def __len__(self) -> int:
        return len(self._part())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self._epoch, int(position)) for position in self._part()])


class Samples(torch.utils.data.Dataset[Sample]):
    """(image (h, w, C) uint8, target (h, w) or (h, w, K) uint8, position) by (epoch, position).

    Args:
        inputs: by position.
        augmentation: of each sample; None leaves them as they are.
        drawn: what stands for a position in an epoch, where that is not its image.
        crop: of each sample, after the augmentation; None keeps it whole.
    """

    def __init__(
        self,
        inputs: Inputs,
        augmentation: Augmentation | None,
        drawn: Drawing | None = None,
        crop: BoundaryCrop | None = None,
    ) -> None:
        self._inputs = inputs
        self._augmentation = augmentation
        self._drawn = drawn
        self._crop = crop

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, position = key
        if self._drawn is not None:
            image, target = self._drawn(epoch, position)
        else:
            image, target = self._inputs.image(position), self._inputs.target(position)
        if self._augmentation is not None:
            image, target = self._augmentation(image, target, epoch=epoch, position=position)
        if self._crop is not None:
            image, target = self._crop(image, target, epoch=epoch, position=position)
        # flips give views of negative stride, which torch cannot take; memory maps are read-only
        return np.array(image), np.array(target), position


def _default_from_now_on(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


def _begin(_: int) -> None:
    """Set up a process that loads samples."""
    cv2.setNumThreads(1)
    # torch looks whether the process above is there, which is the server that forks these and waits for them in turn
    end_with_parent()
    # Ctrl-C comes to all processes of a terminal: the one that trains ends its batch first, and a second one ends all
    signal.signal(signal.SIGINT, _default_from_now_on)


def loader(
    samples: torch.utils.data.Dataset[Sample], sampler: EpochSampler, batch: int, *, workers: int, pin: bool
) -> torch.utils.data.DataLoader[Sample]:
    """Batches of `samples` in `sampler`'s order.

    Args:
        samples: by (epoch, position).
        sampler: the order.
        batch: images a batch, of this process.
        workers: processes that read ahead; they live as long as the loader. The batches do not depend on them.
        pin: collate into page-locked memory, from which a GPU copies while it computes.
    """
    # a forked child of a process whose threads have run may hang
    context = "forkserver" if workers else None
    return torch.utils.data.DataLoader(
        samples,
        batch,
        sampler=sampler,
        num_workers=workers,
        multiprocessing_context=context,
        persistent_workers=workers > 0,
        pin_memory=pin,
        worker_init_fn=_begin,
    )
