import warnings

import numpy as np
import pytest
import torch

from command_line import UserError
from predict.memory_backoff import MemoryBackoff


class Memory:
    """Doubles a batch, and has room for `room` images."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: list[int] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return images * 2


def test_a_batch_that_does_not_fit_is_halved_with_a_warning_and_the_limit_stays() -> None:
    memory = Memory(3)
    forward = MemoryBackoff(memory, "unet")
    images = np.arange(11.0)
    with pytest.warns(UserWarning, match="a batch of 11 images of unet does not fit .* going on with 6"):
        np.testing.assert_array_equal(forward(images), images * 2)
    assert memory.sizes == [11, 6, 3, 3, 3, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(forward(images[:4]), images[:4] * 2)
    assert memory.sizes[6:] == [3, 1]


def test_one_image_that_does_not_fit_is_an_error() -> None:
    with pytest.warns(UserWarning), pytest.raises(UserError, match="one image at a time of unet does not fit"):
        MemoryBackoff(Memory(0), "unet")(np.zeros(2))


def test_other_errors_pass() -> None:
    def broken(_: np.ndarray) -> np.ndarray:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        MemoryBackoff(broken, "unet")(np.zeros(4))
