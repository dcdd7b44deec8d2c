"""A blend's out-of-fold logits at the size at which a refiner learns from them: computed once, and kept.

What is kept goes through the code of a logit store, and what is not kept is rounded by it all the same, so a training
ends with the same bytes either way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

import atomic
from folds.inputs import CACHE_LIMIT_BYTES
from folds.logit_code import DTYPE, rounded
from folds.parallel import cut, in_parallel
from folds.store import LogitStore
from models.frame import Frame
from refine.coarse import Coarse

# images that a process takes at a time
_CHUNK = 16


@dataclass(frozen=True)
class CoarsePlanes:
    """The logits of a blend in a refiner's frame. Pickles to workers, the store by its path.

    Attributes:
        coarse: the logits at full size.
        frame: the refiner's.
        store: that holds them; None computes them whenever they are asked for.
    """

    coarse: Coarse
    frame: Frame
    store: LogitStore | None = None

    @property
    def identity(self) -> str:
        """16 hex digits over what the logits follow from; of the images, their data digest has to tell more."""
        coarse = self.coarse
        # refiners, repairs and gates come after these logits
        blend = replace(coarse.blend, refiners=(), repairs=(), gate=None)
        frame = (self.frame.fit, self.frame.size, self.frame.version(coarse.oof.full))
        told = [blend.state(), [store.digest(coarse.oof.images) for store in coarse.oof.stores], frame]
        return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=8).hexdigest()

    def of(self, position: int) -> np.ndarray:
        """(h, w) float32 of the image at `position`, the mask where they are above 0.

        Raises:
            UserError: what is kept of it is gone or damaged.
        """
        if self.store is not None:
            return self.store.read(self.coarse.oof.images[position])[0]
        return rounded(self.frame.apply(self.coarse.logits(position)))


def _compute(planes: CoarsePlanes, store: LogitStore, wanted: Sequence[tuple[str, int]]) -> None:
    cv2.setNumThreads(1)
    for name, position in wanted:
        store.write(name, planes.of(position)[None])


def kept(planes: CoarsePlanes, positions: Collection[int], folder: Path, *, jobs: int = -1) -> CoarsePlanes:
    """The same logits, those of some images computed now and read from the disk after; as they were where they would
    take too much of it. Killed and called again, it goes on; what is damaged is computed again.

    Args:
        planes: the logits.
        positions: of the images that are wanted.
        folder: where each blend's logits are kept, under their identity.
        jobs: processes, as joblib counts them.

    Raises:
        UserError: the disk is full, or an image cannot be used.
    """
    height, width = planes.frame.size
    if len(positions) * height * width * DTYPE.itemsize > CACHE_LIMIT_BYTES:
        return planes
    images = planes.coarse.oof.images
    store = LogitStore.create(folder / planes.identity, images, (1, height, width))
    wanted = {images[position]: position for position in sorted(positions)}
    # a damaged one counts as missing from here on
    store.verify(list(wanted))
    lacking = [(name, wanted[name]) for name in store.missing_of(list(wanted))]
    compute, label = partial(_compute, replace(planes, store=None), store), f"blend at {height}x{width}"
    for _ in in_parallel(compute, cut(lacking, _CHUNK), len(lacking), label=label, jobs=jobs):
        pass
    return replace(planes, store=store)


def kept_of_all(wanted: Sequence[tuple[CoarsePlanes, Sequence[int]]], folder: Path) -> list[CoarsePlanes]:
    """As `kept`, of several, each with the positions of its images; those that are the same are computed once."""
    identities = [planes.identity for planes, _ in wanted]
    found: dict[str, CoarsePlanes] = {}
    for identity in dict.fromkeys(identities):
        same = [entry for entry, own in zip(wanted, identities, strict=True) if own == identity]
        positions = {int(position) for _, each in same for position in each}
        found[identity] = kept(same[0][0], positions, folder)
    return [replace(planes, store=found[own].store) for (planes, _), own in zip(wanted, identities, strict=True)]


def forget_others(folder: Path, stay: Sequence[CoarsePlanes]) -> None:
    """Remove from a folder, as `kept` takes it, what is kept of other logits than these: the blend's no more."""
    identities = {planes.identity for planes in stay}
    atomic.clear_leftovers(folder)
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name not in identities and not path.name.startswith(atomic.TEMPORARY):
            atomic.discard(path)
