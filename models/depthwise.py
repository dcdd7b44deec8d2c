"""Depthwise convolutions in float32 where a network is trained in bfloat16 on a CPU.

The CPU library's backward pass of these in bfloat16, where they are strided or 5x5, takes two to nine times as long as
in float32: a fifth of a whole training step of a small network. They are a thousandth of its arithmetic.
"""

from __future__ import annotations

import torch
from torch import nn


class _Depthwise(nn.Conv2d):
    """A convolution that is not computed in bfloat16 while a CPU trains it; otherwise like any other."""

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if not self.training or input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super()._conv_forward(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            return super()._conv_forward(input.float(), weight, bias).to(input.dtype)


def in_float32(network: nn.Module) -> None:
    """Have a network's depthwise convolutions trained in float32 on CPUs; its weights, and what it predicts, stay."""
    for module in network.modules():
        # what was derived from it has a way of its own
        if type(module) is nn.Conv2d and module.groups > 1 and module.groups == module.in_channels:
            module.__class__ = _Depthwise
