"""Test-time augmentation: transforms of a network's input, each with its inverse on the logits.

A transform is its own pair of functions on batches of tensors, so that it runs where the network runs. Averages are
taken in logit space, where they commute with everything linear that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from command_line import UserError

Batch = torch.Tensor


@dataclass(frozen=True)
class Transform:
    """`apply` changes a batch of inputs (N, C, h, w); `invert` undoes the geometry on logits (N, K, h, w)."""

    name: str
    apply: Callable[[Batch], Batch]
    invert: Callable[[Batch], Batch]


def _flip_width(batch: Batch) -> Batch:
    return batch.flip(-1)


IDENTITY = Transform("identity", apply=lambda x: x, invert=lambda x: x)

TRANSFORMS = {t.name: t for t in (Transform("hflip", apply=_flip_width, invert=_flip_width),)}


def find_transforms(names: Sequence[str]) -> list[Transform]:
    """The identity followed by the named transforms.

    Raises:
        UserError: a name is unknown; the message lists those there are.
    """
    unknown = [name for name in names if name not in TRANSFORMS]
    if unknown:
        raise UserError(f"unknown test-time augmentation {unknown[0]!r}; known: {', '.join(TRANSFORMS)}.")
    return [IDENTITY, *(TRANSFORMS[name] for name in names)]


def mean_logits(network: torch.nn.Module, batch: Batch, transforms: Sequence[Transform]) -> Batch:
    """Mean over `transforms` of the network's logits.

    Args:
        network: maps (N, C, h, w) to logits (N, K, h, w).
        batch: (N, C, h, w), normalised.

    Returns:
        (N, K, h, w) float32.
    """
    total: Batch | None = None
    for transform in transforms:
        logits = transform.invert(network(transform.apply(batch))).float()
        total = logits if total is None else total + logits
    if total is None:
        raise ValueError("no transform given")
    return total / len(transforms)
