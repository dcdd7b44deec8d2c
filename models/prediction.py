"""A network that predicts: from images to logits, whatever runtime computes it.

Out-of-fold and test logits, photographs and the worth of augmentations all pass through here, so that they are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from models.network_input import normalise
from models.precision import FLOAT32, Precision, autocast
from models.tta import Batch, Transform, mean_logits, transformed_logits
from models.variant import Variant


@dataclass(frozen=True)
class PredictingNetwork:
    """A trained network made ready on one device.

    Attributes:
        forward: maps normalised inputs (N, C, h, w) float32 on `device` to logits (N, K, h, w) there.
        variant: what the network is.
        device: where its inputs must lie.
        precision: the context in which `forward` is called; once for several calls, as weights are then cast once.
    """

    forward: Callable[[Batch], Batch]
    variant: Variant
    device: torch.device
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext

    def inputs(self, images: np.ndarray) -> Batch:
        """What `forward` takes, from images (N, h, w, C) uint8 at the network's size."""
        return normalise(torch.from_numpy(images).to(self.device), self.variant)

    @torch.inference_mode()
    def mean_logits(self, inputs: Batch, transforms: Sequence[Transform]) -> Batch:
        """Mean logits over test-time augmentations, (N, K, h, w) float32 on the device."""
        with self.precision():
            return mean_logits(self.forward, inputs, transforms)

    @torch.inference_mode()
    def logits_of(self, inputs: Batch, transforms: Sequence[Transform]) -> list[Batch]:
        """The logits of each test-time augmentation, undone: (N, K, h, w) float32 on the device."""
        with self.precision():
            return [transformed_logits(self.forward, inputs, transform) for transform in transforms]


def torch_network(
    network: torch.nn.Module, variant: Variant, device: torch.device, precision: Precision = FLOAT32
) -> PredictingNetwork:
    """A torch network that predicts in a precision; it is moved and set to evaluate."""
    module = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return PredictingNetwork(module, variant, device, partial(autocast, precision, device))


def float32_network(
    network: torch.nn.Module, variant: Variant, device: torch.device, precision: Precision = FLOAT32
) -> PredictingNetwork:
    """The same in float32, whatever it was trained in: what others are compared with."""
    return replace(torch_network(network, variant, device), precision=nullcontext)
