"""The first baseline of system A: one mask, the mean of the training masks, whatever the image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from competition import Size

# thresholds tried on the training masks; a mean of masks is a probability
_THRESHOLDS = np.linspace(0.05, 0.95, 91)


class AverageMask(torch.nn.Module):
    """Gives the same logits for every image: those of the mean mask, shifted so that 0 is the best threshold."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(1, 1, *size))
        self.logits: torch.Tensor

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) to (N, 1, h, w); only the batch's length matters."""
        return self.logits.expand(batch.shape[0], -1, -1, -1)

    def fit(self, masks: Iterable[np.ndarray]) -> AverageMask:
        """Learn the mean mask and its threshold.

        Args:
            masks: at least one, each (h, w) uint8 coverage 0..255, at the network's size.

        Returns:
            self. The threshold is the one of 91 between 0.05 and 0.95 with the highest mean soft Dice over `masks`.
        """
        stack = [np.asarray(mask) for mask in masks]
        if not stack:
            raise ValueError("no mask to average")
        total = np.zeros(stack[0].shape, np.float64)
        for mask in stack:
            total += mask
        mean = total / (255 * len(stack))
        areas = np.array([mask.sum(dtype=np.int64) / 255 for mask in stack])
        # rank the pixels by their mean once: every threshold then selects a prefix, and one cumulative sum per
        # image gives its intersection with all of them
        ranked = np.argsort(-mean, axis=None)
        selected = np.searchsorted(-mean.ravel()[ranked], -_THRESHOLDS, side="left")
        dice = np.zeros(len(_THRESHOLDS))
        for mask, area in zip(stack, areas, strict=True):
            inside = np.concatenate(([0], np.cumsum(mask.ravel()[ranked], dtype=np.int64))) / 255
            dice += 2 * inside[selected] / np.maximum(selected + area, 1)
        threshold = _THRESHOLDS[int(dice.argmax())]
        # a pixel that no training car covers, or all do, must not become infinite
        clipped = np.clip(mean, 1e-4, 1 - 1e-4)
        logits = np.log(clipped / (1 - clipped)) - np.log(threshold / (1 - threshold))
        self.logits.copy_(torch.from_numpy(logits.astype(np.float32))[None, None])
        return self
