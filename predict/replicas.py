"""A member's networks made ready, and as many copies of them as may run at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from command_line import UserError
from cores import thread_count
from models import checkpoint
from models.precision import native
from models.prediction import PredictingNetwork
from models.runtimes import RUNTIMES, TORCH
from models.tta import find_transforms
from models.variant import Variant
from predict.members import Member
from predict.memory_backoff import MemoryBackoff

# a forward pass takes about this many pixels, and at most so many images; enough to be efficient, little enough for any
# machine (a CPU is faster with 16 small images than with 64)
_BATCH_PX = {"cpu": 1 << 20, "cuda": 1 << 23}
_MOST_IMAGES = {"cpu": 16, "cuda": 64}


class Replica:
    """A member's networks, ready to predict. May be called from several threads if `device` is the CPU.

    Args:
        member: the trained variant.
        device: where to run; the GPU if there is one by default.
        folds: use only the first so many of its folds; 0 uses all.
        tta: test-time augmentations instead of the variant's own.
    """

    def __init__(
        self,
        member: Member,
        device: torch.device | None = None,
        *,
        folds: int = 0,
        tta: Sequence[str] | None = None,
    ) -> None:
        member.require_network()
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.variant = member.variant
        self.frame = member.frame
        self._transforms = find_transforms(self.variant.tta if tta is None else tta)
        self._folders = member.folds[: folds or None]
        # a fitted one has nothing to compute
        make = RUNTIMES[TORCH if member.variant.fitted else member.runtime]
        here = native(self.device.type)
        self._networks = [
            make(checkpoint.load(folder)[0], self.variant, self.device, member.precision_of(folder, here))
            for folder in self._folders
        ]
        self._backoff = MemoryBackoff(self._mean, member.name, self.device.type)
        self._apart_backoff = MemoryBackoff(self._mean_and_masks, member.name, self.device.type)

    def _mean(self, images: np.ndarray, networks: Sequence[PredictingNetwork] = ()) -> np.ndarray:
        first, *others = networks or self._networks
        inputs = first.inputs(images)
        total = first.mean_logits(inputs, self._transforms)
        for network in others:
            total = total + network.mean_logits(inputs, self._transforms)
        mean: np.ndarray = (total / (1 + len(others))).cpu().numpy()
        return mean

    def _mean_and_masks(self, images: np.ndarray) -> np.ndarray:
        inputs = self._networks[0].inputs(images)
        plane = self.variant.planes_of("mask").start
        each = [network.mean_logits(inputs, self._transforms) for network in self._networks]
        total = each[0]
        # in the order of `_mean`, so that the sums are the same to the last bit
        for logits in each[1:]:
            total = total + logits
        together = [total / len(each), *(logits[:, plane : plane + 1] for logits in each)]
        both: np.ndarray = torch.cat(together, dim=1).cpu().numpy()
        return both

    @property
    def networks(self) -> int:
        """How many there are: one a fold."""
        return len(self._networks)

    def logits(self, images: np.ndarray, names: Sequence[str] = (), *, apart: bool = False) -> np.ndarray:
        """Mean logits over the folds' networks and the test-time augmentations.

        Args:
            images: (N, h, w, 3) uint8 RGB at the network's size. Where the GPU's memory does not hold them all,
                they go in halves, with a warning.
            names: of the images, for messages.
            apart: also give what each network says by itself.

        Returns:
            (N, K, h, w) float32, finite; with `apart`, behind these K planes one of the mask by each of the `networks`.

        Raises:
            UserError: a network gives NaN or infinity; the message names it and the image. Or memory does not even
                hold one image.
        """
        logits = self._apart_backoff(images) if apart else self._backoff(images)
        finite = np.isfinite(logits).reshape(len(logits), -1).all(1)
        if not finite.all():
            k = int(finite.argmin())
            image = names[k] if k < len(names) else f"image {k} of the batch"
            alone = zip(self._folders, self._networks, strict=True)
            diverged = [f for f, network in alone if not np.isfinite(self._mean(images[k : k + 1], [network])).all()]
            raise UserError(
                f"the network {(diverged or self._folders)[0]} gives NaN or infinity for {image}: it diverged in "
                "training; train the fold again with a lower learning rate, or in float32."
            )
        return logits


class ReplicaPool:
    """Replicas of some members' networks: one a forward pass that may run at a time.

    On GPUs, a replica is a GPU's. On a CPU, it is a core's: a forward pass has one thread and all replicas share the
    weights, which is as fast as one pass with all threads, and gives the same bits on any number of cores.

    Args:
        members: whose networks.
        count: of replicas; 0 takes one a GPU, else one a thread that this process may compute with.
        folds, tta: as `Replica` takes them.
    """

    def __init__(
        self, members: Sequence[Member], count: int = 0, *, folds: int = 0, tta: Sequence[str] | None = None
    ) -> None:
        gpus = torch.cuda.device_count()
        devices = [torch.device("cuda", k) for k in range(gpus)] or [torch.device("cpu")]
        copies = [[Replica(m, device, folds=folds, tta=tta) for m in members] for device in devices]
        self.count = min(count or gpus, gpus) if gpus else count or thread_count()
        self.device = devices[0].type
        self._free: queue.Queue[list[Replica]] = queue.Queue()
        for k in range(self.count):
            self._free.put(copies[k % len(copies)])

    @contextmanager
    def take(self) -> Iterator[list[Replica]]:
        """The members' networks of a free replica, in the order of the members."""
        replica = self._free.get()
        try:
            yield replica
        finally:
            self._free.put(replica)

    def set_up(self) -> None:
        """To be called in each thread that will take a replica."""
        if self.device == "cpu":
            torch.set_num_threads(1)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this is open, this process's torch has as many threads a pass as the replicas want."""
        threads = torch.get_num_threads()
        self.set_up()
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def batch(self, variant: Variant) -> int:
        """Images of `variant` a forward pass: a power of two, so that larger blocks are made of whole smaller ones."""
        count = max(1, min(_MOST_IMAGES[self.device], _BATCH_PX[self.device] // (variant.size[0] * variant.size[1])))
        return 1 << (count.bit_length() - 1)


_lock = threading.Lock()
_kept: dict[tuple[str, ...], ReplicaPool] = {}


def pool_of_process(members: Sequence[Member]) -> ReplicaPool:
    """The members' networks, kept in this process for its next task; those of other members are let go."""
    key = tuple(f"{m.folder} {m.weights_digest} {m.runtime} {m.precisions()}" for m in members)
    with _lock:
        if key not in _kept:
            _kept.clear()
            _kept[key] = ReplicaPool(members)
        return _kept[key]
