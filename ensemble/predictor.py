"""From image files to a variant's logits: its folds and its test-time augmentations averaged, then stored.

Decoding and storing run in threads beside the forward pass. The store is the ledger: an image whose logits are
there is not predicted again.
"""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from command_line import UserError
from competition import Size
from ensemble.members import TEST_STORE, Member
from folds.store import LogitStore
from models import checkpoint
from models.frame import Frame
from models.network_input import normalise
from models.tta import find_transforms, mean_logits

_DECODERS = 2
_DEFAULT_BATCH = 8


class Predictor:
    """A member's networks, ready to predict.

    Args:
        member: the trained variant.
        device: where to run; the GPU if there is one by default.
    """

    def __init__(self, member: Member, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.variant = member.variant
        self.frame: Frame = member.frame
        self._transforms = find_transforms(self.variant.tta)
        self._networks = [
            checkpoint.load(folder)[0].to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            for folder in member.folds
        ]

    @torch.inference_mode()
    def logits(self, images: np.ndarray) -> np.ndarray:
        """Mean logits over the folds' networks and the variant's TTA.

        Args:
            images: (N, h, w, 3) uint8 RGB at the network's size.

        Returns:
            (N, K, h, w) float32.
        """
        batch = normalise(torch.from_numpy(images).to(self.device), self.variant)
        total = mean_logits(self._networks[0], batch, self._transforms)
        for network in self._networks[1:]:
            total = total + mean_logits(network, batch, self._transforms)
        mean: np.ndarray = (total / len(self._networks)).cpu().numpy()
        return mean


def _decoded(
    names: Sequence[str], folder: Path, frame: Frame, size: Size, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[str, np.ndarray | UserError]]:
    """Images in order, decoded at most `ahead` images before they are asked for; a fault comes in the image's place."""

    def load(name: str) -> np.ndarray | UserError:
        try:
            return frame.load(folder / name, size)[0]
        except UserError as error:
            return error
        except FileNotFoundError:
            return UserError(f"{folder / name} is missing: copy it there.")

    queue: deque[tuple[str, Future[np.ndarray | UserError]]] = deque()
    for name in names:
        queue.append((name, pool.submit(load, name)))
        if len(queue) > ahead:
            ready, future = queue.popleft()
            yield ready, future.result()
    for ready, future in queue:
        yield ready, future.result()


def predict(member: Member, names: Sequence[str], folder: Path, size: Size, *, batch: int = 0) -> LogitStore:
    """Predict images and keep their logits in `<member's folder>/test.zarr`.

    Args:
        member: the trained variant.
        names: image names, in the order of the submission.
        folder: where the images are.
        size: the size (height, width) every image must have.
        batch: images a forward pass; 0 chooses.

    Returns:
        The complete store.

    Raises:
        UserError: the store holds other images or another training's logits; or images could not be read: all
            others are completed first, then the message names them.
    """
    batch = batch or _DEFAULT_BATCH
    store = LogitStore.create(
        member.folder / TEST_STORE,
        names,
        (member.variant.out_channels, *member.variant.size),
        variant=member.name,
        heads=[head.name for head in member.variant.heads],
        tta=list(member.variant.tta),
        weights_digest=member.weights_digest,
    )
    missing = store.missing()
    if not missing:
        return store
    predictor = Predictor(member)
    faults: list[UserError] = []
    # one image a thread: OpenCV's own threads would fight the network's
    cv2.setNumThreads(1)
    with (
        ThreadPoolExecutor(_DECODERS) as decoders,
        ThreadPoolExecutor(1) as writer,
        tqdm(total=len(missing), desc=f"predict {member.name}", unit="image", disable=None) as bar,
    ):
        waiting: list[tuple[str, np.ndarray]] = []
        writes: deque[Future[None]] = deque()

        def forward() -> None:
            planes = predictor.logits(np.stack([image for _, image in waiting]))
            for (name, _), plane in zip(waiting, planes, strict=True):
                writes.append(writer.submit(store.write, name, plane))
            while len(writes) > 4 * batch:
                writes.popleft().result()
            bar.update(len(waiting))
            waiting.clear()

        for name, image in _decoded(missing, folder, predictor.frame, size, decoders, 2 * batch):
            if isinstance(image, UserError):
                faults.append(image)
                bar.update(1)
                continue
            waiting.append((name, image))
            if len(waiting) == batch:
                forward()
        if waiting:
            forward()
        for write in writes:
            write.result()
    if faults:
        for fault in faults[:20]:
            print(fault)
        raise UserError(
            f"{len(faults)} of {len(names)} images could not be read (first 20 above); the others are stored: mend "
            "these and run the same command again."
        )
    return store
