"""Out-of-memory back-off: batches that shrink when the device's memory does not hold them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch

from command_line import UserError
from shortage import detail, is_out_of_memory


class MemoryBackoff:
    """Calls `forward` on whole batches, and on halves, quarters, ... of them once one did not fit the memory.

    What did not fit is not tried again: the limit found holds for later batches too.

    Args:
        forward: maps (N, ...) to (N, ...), image by image, so that parts of a batch may go one after the other.
        label: of the network, for messages.
        device: where it computes, for messages.
    """

    def __init__(self, forward: Callable[[np.ndarray], np.ndarray], label: str, device: str = "cpu") -> None:
        self._forward = forward
        self._label = label
        self._memory = "memory" if device == "cpu" else "GPU's memory"
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
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                words = detail(error)
            # past the handler: the traceback no longer holds the tensors that filled the memory
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if step == 1:
                why = f" ({words})" if words else ""
                raise UserError(
                    f"one image at a time of {self._label} does not fit the {self._memory}{why}: end what else runs "
                    "there, or take a variant of a smaller size."
                )
            self.limit = (step + 1) // 2
            warnings.warn(
                f"a batch of {step} images of {self._label} does not fit the {self._memory}: going on with "
                f"{self.limit}.",
                stacklevel=2,
            )
