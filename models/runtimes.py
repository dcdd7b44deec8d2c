"""What computes a trained network when it predicts: the REGISTRY of runtimes, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from models.openvino_runtime import fault, openvino_network, require_openvino
from models.prediction import PredictingNetwork, float32_network, torch_network

TORCH, FLOAT32, OPENVINO = "torch", "torch-float32", "openvino"
# what --backend takes: "auto", and every key of `RUNTIMES`
Backend = Literal["auto", "torch", "torch-float32", "openvino"]

# from a trained network, its variant, a device and the precision that it predicts in (float32 where none is given) to
# the network made ready
RUNTIMES: dict[str, Callable[..., PredictingNetwork]] = {
    TORCH: torch_network,
    FLOAT32: float32_network,
    OPENVINO: openvino_network,
}

# converting a network takes OpenVINO two seconds, which so many images win back
_WORTH_IMAGES = 500


def choose_runtime(backend: Backend, images: int) -> str:
    """The runtime that some images are predicted with; a key of `RUNTIMES`.

    It depends on the whole number of images, so that a run that goes on goes on with the same.

    Args:
        backend: "auto" takes OpenVINO where it can be used, there is no GPU, and the images are many enough.
        images: how many there are, those done among them.

    Raises:
        UserError: the runtime asked for is missing or broken.

    >>> choose_runtime("torch", 100_064), choose_runtime("auto", 3)
    ('torch', 'torch')
    """
    if backend == OPENVINO:
        require_openvino("leave --backend out")
    if backend != "auto":
        return backend
    # imported only where it would be taken
    wins = images >= _WORTH_IMAGES and not torch.cuda.is_available() and not fault()
    return OPENVINO if wins else TORCH
