"""Batch norm over all devices that share a batch, so that a recipe means the same on any number of them."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

from typing import Any

import timm.layers
import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm


class _Total(torch.autograd.Function):
    """The sum of a tensor over all ranks; every rank's loss depends on it, so its gradient is their sum too."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SharedBatchNorm(_BatchNorm):
    """A batch norm whose statistics are those of the whole batch, though each rank sees a part; for CPUs.

    torch.nn.SyncBatchNorm does this on GPUs only. Parameters, statistics and their names are those of the module it
    replaces; what that module does after normalising, as timm's activations, is kept.

    Args:
        norm: the module that it replaces.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name, tensor in (*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)):
            setattr(self, name, tensor)
        for name, after in norm.named_children():
            self.add_module(name, after)
        self.training = norm.training

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Any number of axes after batch and channels."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) to the same shape and dtype."""
        output = self._normalise(input) if self.training and dist.is_initialized() else super().forward(input)
        for after in self.children():
            output = after(output)
        return output

    @torch.compiler.disable
    def _normalise(self, input: torch.Tensor) -> torch.Tensor:
        channels = self.num_features
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, [0, *range(2, wide.ndim)], correction=0)
        # in float64, where squares of means can be subtracted again
        mean, variance = mean.double(), variance.double()
        pixels = mean.new_tensor([wide.numel() / channels])
        totals = _Total.apply(torch.cat([mean * pixels, (variance + mean.square()) * pixels, pixels]))
        count = totals[-1].detach()
        mean = totals[:channels] / count
        variance = totals[channels:-1] / count - mean.square()
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = (variance + self.eps).rsqrt().to(wide.dtype)
        shift = torch.zeros_like(scale)
        if self.affine:
            scale, shift = scale * self.weight, self.bias
        shape = [1, channels] + [1] * (wide.ndim - 2)
        output = (wide - mean.to(wide.dtype).view(shape)) * scale.view(shape) + shift.view(shape)
        return output.to(input.dtype)

    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def _with_shared(module: torch.nn.Module) -> torch.nn.Module:
    if isinstance(module, _BatchNorm):
        return SharedBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, _with_shared(child))
    return module


def share_statistics(network: torch.nn.Module, *, on_gpu: bool) -> torch.nn.Module:
    """Let every batch norm of a network take its statistics from all ranks while it trains.

    Args:
        network: is changed in place.
        on_gpu: its ranks are on GPUs.

    Returns:
        The network; its state has the same names, and in evaluation mode it computes the same.
    """
    # not torch's own conversion, which loses the activations inside of timm's batch norms
    return timm.layers.convert_sync_batchnorm(network) if on_gpu else _with_shared(network)
