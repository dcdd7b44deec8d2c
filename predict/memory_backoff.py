"""Out-of-memory back-off: batches that shrink when the device's memory does not hold them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch

from command_line import UserError


class MemoryBackoff:
    """Calls `forward` on whole batches, and on halves, quarters, ... of them once one did not fit the memory.

    What did not fit is not tried again: the limit found holds for later batches too.

    Args:
        forward: maps (N, ...) to (N, ...), image by image, so that parts of a batch may go one after the other.
        label: of the network, for messages.
    """

    def __init__(self, forward: Callable[[np.ndarray], np.ndarray], label: str) -> None:
        self._forward = forward
        self._label = label
        self.limit: int | None = None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """`forward(images)`.

        Raises:
            UserError: not even one image fits.
        """
        while True:
            step = min(self.limit or len(images), len(images))
            try:
                parts = [self._forward(images[k : k + step]) for k in range(0, len(images), step)]
                return parts[0] if len(parts) == 1 else np.concatenate(parts)
            except torch.OutOfMemoryError:
                pass
            # past the handler: the traceback no longer holds the tensors that filled the memory
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if step == 1:
                raise UserError(
                    f"one image at a time of {self._label} does not fit the GPU's memory: end what else runs on it, or "
                    "take a variant of a smaller size."
                )
            self.limit = (step + 1) // 2
            warnings.warn(
                f"a batch of {step} images of {self._label} does not fit the GPU's memory: going on with {self.limit}.",
                stacklevel=2,
            )
