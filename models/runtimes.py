"""What computes a trained network when it predicts: the REGISTRY of runtimes, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from command_line import UserError
from models.openvino_runtime import is_installed, openvino_network
from models.prediction import PredictingNetwork, float32_network, torch_network
from models.variant import Variant

TORCH, FLOAT32, OPENVINO = "torch", "torch-float32", "openvino"
# what --backend takes: "auto", and every key of `RUNTIMES`
Backend = Literal["auto", "torch", "torch-float32", "openvino"]

# from a trained network, its variant and a device to the network made ready
RUNTIMES: dict[str, Callable[[torch.nn.Module, Variant, torch.device], PredictingNetwork]] = {
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
        backend: "auto" takes OpenVINO where it is installed, there is no GPU, and the images are many enough.
        images: how many there are, those done among them.

    Raises:
        UserError: the runtime asked for is not installed.

    >>> choose_runtime("torch", 100_064), choose_runtime("auto", 3)
    ('torch', 'torch')
    """
    if backend == OPENVINO and not is_installed():
        raise UserError("OpenVINO is not installed: pip install -r requirements-cpu.txt, or leave --backend out.")
    if backend != "auto":
        return backend
    wins = is_installed() and not torch.cuda.is_available() and images >= _WORTH_IMAGES
    return OPENVINO if wins else TORCH
