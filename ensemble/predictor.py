"""From image files to a variant's logits: its folds and its test-time augmentations averaged, then stored.

The store is the ledger: an image whose logits are there is not predicted again. Blocks are cut from the whole list of
images and keep their shape however few of them are missing, and a forward pass on a CPU has one thread: so what is
stored does not depend on where a run was resumed, nor on how many threads did it.
"""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import os
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from command_line import UserError
from competition import Size
from ensemble.halving import Halving
from ensemble.members import TEST_STORE, Member
from ensemble.pipeline import overlapped
from folds.store import LogitStore
from models import checkpoint
from models.network_input import normalise
from models.tta import find_transforms, mean_logits
from models.variants import Variant

# on a CPU the forward pass has the cores; GPUs must be fed
DECODERS = max(2, min(16, len(os.sched_getaffinity(0)) // 2))
# a forward pass takes about this many pixels; enough to be efficient, little enough for any machine
_BATCH_PX = {"cpu": 1 << 20, "cuda": 1 << 23}


class UnreadableImagesError(UserError):
    """Images that could not be read, all others being done.

    Attributes:
        names: theirs.
    """

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = list(names)


class Predictor:
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
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.variant = member.variant
        self.frame = member.frame
        self._transforms = find_transforms(self.variant.tta if tta is None else tta)
        self._folders = member.folds[: folds or None]
        self._networks = [
            checkpoint.load(folder)[0].to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            for folder in self._folders
        ]
        self._halving = Halving(self._mean, member.name)

    def _autocast(self) -> torch.autocast:
        # on a CPU, narrow floats are slower than float32; GPUs without bfloat16 have float16
        on_gpu = self.device.type == "cuda"
        narrow = torch.float16 if on_gpu and not torch.cuda.is_bf16_supported(False) else torch.bfloat16
        return torch.autocast(self.device.type, narrow, enabled=on_gpu)

    @torch.inference_mode()
    def _mean(self, images: np.ndarray, networks: Sequence[torch.nn.Module] = ()) -> np.ndarray:
        batch = normalise(torch.from_numpy(images).to(self.device), self.variant)
        networks = networks or self._networks
        with self._autocast():
            total = mean_logits(networks[0], batch, self._transforms)
            for network in networks[1:]:
                total = total + mean_logits(network, batch, self._transforms)
        mean: np.ndarray = (total / len(networks)).cpu().numpy()
        return mean

    def logits(self, images: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
        """Mean logits over the folds' networks and the test-time augmentations.

        Args:
            images: (N, h, w, 3) uint8 RGB at the network's size. Where the GPU's memory does not hold them all,
                they go in halves, with a warning.
            names: of the images, for messages.

        Returns:
            (N, K, h, w) float32, finite.

        Raises:
            UserError: a network gives NaN or infinity; the message names it and the image. Or memory does not even
                hold one image.
        """
        logits = self._halving(images)
        finite = np.isfinite(logits).reshape(len(logits), -1).all(1)
        if not finite.all():
            k = int(finite.argmin())
            image = names[k] if k < len(names) else f"image {k} of the batch"
            alone = zip(self._folders, self._networks, strict=True)
            guilty = [f for f, network in alone if not np.isfinite(self._mean(images[k : k + 1], [network])).all()]
            raise UserError(
                f"the network {(guilty or self._folders)[0]} gives NaN or infinity for {image}: it diverged in "
                "training; train the fold again with a lower learning rate, or in float32."
            )
        return logits


class Lanes:
    """Copies of some members' networks, one a forward pass that may run at a time.

    On GPUs, a lane is a GPU. On a CPU, a lane is a core: a forward pass has one thread and all lanes share the
    weights, which is as fast as one pass with all threads, and gives the same bits on any number of cores.

    Args:
        members: whose networks.
        count: lanes; 0 takes one a GPU, else one a core this process may use.
        folds, tta: as `Predictor` takes them.
    """

    def __init__(
        self, members: Sequence[Member], count: int = 0, *, folds: int = 0, tta: Sequence[str] | None = None
    ) -> None:
        gpus = torch.cuda.device_count()
        devices = [torch.device("cuda", k) for k in range(gpus)] or [torch.device("cpu")]
        copies = [[Predictor(m, device, folds=folds, tta=tta) for m in members] for device in devices]
        self.count = min(count or gpus, gpus) if gpus else count or len(os.sched_getaffinity(0))
        self.device = devices[0].type
        self._free: queue.Queue[list[Predictor]] = queue.Queue()
        for k in range(self.count):
            self._free.put(copies[k % len(copies)])

    @contextmanager
    def take(self) -> Iterator[list[Predictor]]:
        """The members' predictors of a free lane, in the order of the members."""
        predictors = self._free.get()
        try:
            yield predictors
        finally:
            self._free.put(predictors)

    def set_up(self) -> None:
        """To be called in each thread that will take a lane."""
        if self.device == "cpu":
            torch.set_num_threads(1)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this is open, this process's torch has as many threads a pass as the lanes want."""
        threads = torch.get_num_threads()
        self.set_up()
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def batch(self, variant: Variant) -> int:
        """Images of `variant` a forward pass."""
        return max(1, min(64, _BATCH_PX[self.device] // (variant.size[0] * variant.size[1])))


@dataclass(frozen=True)
class Place:
    """An image's place: `slot` of a block of `length` images."""

    name: str
    slot: int
    length: int


def places(names: Sequence[str], wanted: Sequence[str], batch: int) -> Iterator[list[Place]]:
    """The blocks of `batch` that the whole list of `names` falls into, each with only its `wanted` images, if any."""
    among = set(wanted)
    for start in range(0, len(names), batch):
        block = names[start : start + batch]
        some = [Place(name, slot, len(block)) for slot, name in enumerate(block) if name in among]
        if some:
            yield some


def stacked(images: Sequence[tuple[Place, np.ndarray]]) -> np.ndarray:
    """A block as an array (length, h, w, C) uint8; the places of images that are not among `images` are black."""
    array = np.zeros((images[0][0].length, *images[0][1].shape), np.uint8)
    for place, image in images:
        array[place.slot] = image
    return array


def raise_unreadable(faults: Sequence[tuple[str, UserError]], total: int, what: str) -> None:
    """Print the first 20 faults and raise `UnreadableImagesError`, if there are any.

    Args:
        faults: names of images and what is wrong with them.
        total: images there were.
        what: has been done with the others.
    """
    if not faults:
        return
    for _, fault in faults[:20]:
        print(fault)
    first = " (first 20 above)" if len(faults) > 20 else ""
    raise UnreadableImagesError(
        f"{len(faults)} of {total} images could not be read{first}; the others are {what}: mend these and run the "
        "same command again.",
        [name for name, _ in faults],
    )


def predict(
    member: Member,
    names: Sequence[str],
    folder: Path,
    size: Size,
    *,
    batch: int = 0,
    lanes: Lanes | None = None,
    decoders: int = DECODERS,
    store: Path | None = None,
) -> LogitStore:
    """Predict images and keep their logits in `<member's folder>/test.zarr`.

    Args:
        member: the trained variant.
        names: image names, in the order of the submission.
        folder: where the images are.
        size: the size (height, width) every image must have.
        batch: images a forward pass; 0 chooses. The logits' last bits may depend on it.
        lanes: the member's networks, if they are loaded already.
        decoders: threads that read images.
        store: where to keep the logits instead.

    Returns:
        The complete store.

    Raises:
        UnreadableImagesError: images could not be read: all others are completed first.
        UserError: the store holds other images or another training's logits; or a network gives NaN.
    """
    kept = LogitStore.create(
        store or member.folder / TEST_STORE,
        names,
        (member.variant.out_channels, *member.variant.size),
        variant=member.name,
        heads=[head.name for head in member.variant.heads],
        tta=list(member.variant.tta),
        weights_digest=member.weights_digest,
    )
    damaged = kept.verify()
    if damaged:
        print(f"{kept.path}: the logits of {len(damaged)} images are damaged ({damaged[0]} first), predicted again")
    missing = kept.missing()
    if not missing:
        return kept
    ready = lanes or Lanes([member])

    def load(place: Place) -> np.ndarray:
        try:
            return member.frame.load(folder / place.name, size)[0]
        except FileNotFoundError:
            raise UserError(f"{folder / place.name} is missing: copy it there.") from None

    def forward(images: list[tuple[Place, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
        block_names = [""] * images[0][0].length
        for place, _ in images:
            block_names[place.slot] = place.name
        with ready.take() as (predictor,):
            planes = predictor.logits(stacked(images), block_names)
        for place, _ in images:
            yield place.name, planes[place.slot]

    with (
        tqdm(total=len(missing), desc=f"predict {member.name}", unit="image", disable=None) as bar,
        ready.running(),
    ):
        faults = overlapped(
            places(names, missing, batch or ready.batch(member.variant)),
            load=load,
            forward=forward,
            keep=lambda result: kept.write(*result),
            advance=bar.update,
            lanes=ready.count,
            decoders=decoders,
            lane_setup=ready.set_up,
        )
    raise_unreadable([(place.name, fault) for place, fault in faults], len(names), "stored")
    return kept
