"""Depthwise convolutions in float32 where a network is trained in bfloat16 on a CPU.

The CPU library's backward pass of these in bfloat16, where they are strided or 5x5, takes two to nine times as long as
in float32: a fifth of a whole training step of a small network. They are a thousandth of its arithmetic.
"""

from __future__ import annotations

import functools
import sys

import torch
from torch import nn


@functools.cache
def _widened(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """The kind of convolution that `kind` is, but not computed in bfloat16 while a CPU trains it."""

    class Depthwise(kind):  # type: ignore[misc, valid-type]
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            if not self.training or input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
                planes: torch.Tensor = super().forward(input)
                return planes
            with torch.autocast("cpu", enabled=False):
                planes = super().forward(input.float())
            return planes.to(input.dtype)

    return Depthwise


def in_float32(network: nn.Module) -> None:
    """Have a network's depthwise convolutions trained in float32 on CPUs; its weights, and what it predicts, stay."""
    kinds: list[type[nn.Conv2d]] = [nn.Conv2d]
    if "timm" in sys.modules:
        import models.torchvision_compat  # noqa: F401

        from timm.layers.conv2d_same import Conv2dSame

        # padded as TensorFlow does where it is strided
        kinds.append(Conv2dSame)
    for module in network.modules():
        # what else was derived from it has a way of its own
        if isinstance(module, nn.Conv2d) and type(module) in kinds and 1 < module.groups == module.in_channels:
            module.__class__ = _widened(type(module))  # type: ignore[arg-type]
