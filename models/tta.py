"""Test-time augmentation: a small algebra of transforms of a network's input, each with its inverse on the logits.

A transform is a pair of functions on batches of tensors, so that it runs where the network runs. Transforms multiply:
`flip * scale` applies the flip first, and undoes the scale first. Averages are taken in logit space, where they
commute with everything linear that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import interpolate

from command_line import UserError
from competition import Size

Batch = torch.Tensor

# what every encoder's strides divide
_STRIDE_PX = 32


def _same_size(size: Size) -> Size:
    return size


@dataclass(frozen=True)
class Transform:
    """One transform.

    Attributes:
        name: as `Variant.tta` and the command line spell it.
        apply: changes a batch of normalised inputs (N, C, h, w), h and w multiples of 32.
        undo: undoes the geometry on logits (N, K, *resized((h, w))), given the size (h, w) to come back to.
        resized: from the size of a batch to that of the transformed one.
    """

    name: str
    apply: Callable[[Batch], Batch]
    undo: Callable[[Batch, Size], Batch]
    resized: Callable[[Size], Size] = _same_size

    def invert(self, logits: Batch, size: Size | None = None) -> Batch:
        """Logits of the transformed batch, brought back onto the pixels of the batch itself.

        Args:
            logits: (N, K, h', w').
            size: (h, w) of the batch; None where the transform keeps the size.

        Returns:
            (N, K, h, w).
        """
        return self.undo(logits, size or (logits.shape[-2], logits.shape[-1]))

    def cost(self, size: Size) -> float:
        """What a forward pass of the transformed batch costs, in passes of a batch of `size` itself: its pixels."""
        height, width = self.resized(size)
        return height * width / (size[0] * size[1])

    def __mul__(self, second: Transform) -> Transform:
        """This transform, then `second`; undone in reverse."""

        def undo(logits: Batch, size: Size) -> Batch:
            return self.undo(second.undo(logits, self.resized(size)), size)

        return Transform(
            f"{self.name}*{second.name}",
            apply=lambda batch: second.apply(self.apply(batch)),
            undo=undo,
            resized=lambda size: second.resized(self.resized(size)),
        )


def _unchanged(batch: Batch, _: Size | None = None) -> Batch:
    return batch


def _flip_width(batch: Batch, _: Size | None = None) -> Batch:
    return batch.flip(-1)


def _resize(batch: Batch, size: Size) -> Batch:
    if tuple(batch.shape[-2:]) == tuple(size):
        return batch
    return interpolate(batch, size, mode="bilinear", align_corners=False)


IDENTITY = Transform("identity", apply=_unchanged, undo=_unchanged)


def scale(factor: float) -> Transform:
    """Enlarge or reduce both sides by about `factor`: to the nearest multiple of 32 pixels, at least 32.

    Undone by bilinear interpolation, so exact on what is linear across pixels and smoothing elsewhere.
    """

    def resized(size: Size) -> Size:
        height, width = (max(1, round(side * factor / _STRIDE_PX)) * _STRIDE_PX for side in size)
        return height, width

    def apply(batch: Batch) -> Batch:
        return _resize(batch, resized((batch.shape[-2], batch.shape[-1])))

    return Transform(f"scale{factor:g}", apply=apply, undo=_resize, resized=resized)


def brightness(change: float) -> Transform:
    """Add `change` to the normalised input: about that many standard deviations of an ImageNet pixel (58 of 255)."""
    return Transform(f"brightness{change:+g}", apply=lambda batch: batch + change, undo=_unchanged)


def shift(down_px: int, right_px: int) -> Transform:
    """Move the content by some pixels of the network's frame; what leaves at one border comes in at the other.

    Around, because only then is nothing lost and the inverse exact; the price is a wrong context for the logits
    within a few pixels of two borders.
    """
    return Transform(
        f"shift{down_px:+d}{right_px:+d}",
        apply=lambda batch: batch.roll((down_px, right_px), (-2, -1)),
        undo=lambda logits, _: logits.roll((-down_px, -right_px), (-2, -1)),
    )


TRANSFORMS = {
    t.name: t
    for t in (
        Transform("hflip", apply=_flip_width, undo=_flip_width),
        scale(0.75),
        scale(1.25),
        scale(1.5),
        brightness(+0.3),
        brightness(-0.3),
        shift(+4, +4),
        shift(-4, -4),
    )
}


def find_transform(name: str) -> Transform:
    """The transform of that name, or the product of several: `hflip*scale1.25`.

    Raises:
        UserError: a factor is unknown; the message lists those there are.
    """
    product: Transform | None = None
    for part in name.split("*"):
        if part not in TRANSFORMS:
            raise UserError(
                f"unknown test-time augmentation {part!r}; known: {', '.join(TRANSFORMS)}, and products as "
                "hflip*scale1.25."
            )
        product = TRANSFORMS[part] if product is None else product * TRANSFORMS[part]
    assert product is not None
    return product


def find_transforms(names: Sequence[str]) -> list[Transform]:
    """The identity followed by the named transforms.

    Raises:
        UserError: a name is unknown; the message lists those there are.
    """
    return [IDENTITY, *(find_transform(name) for name in names)]


def transformed_logits(network: torch.nn.Module, batch: Batch, transform: Transform) -> Batch:
    """The network's logits through one transform, (N, K, h, w) float32, on the pixels of `batch` (N, C, h, w)."""
    size = (batch.shape[-2], batch.shape[-1])
    return transform.invert(network(transform.apply(batch)).float(), size)


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
        logits = transformed_logits(network, batch, transform)
        total = logits if total is None else total + logits
    if total is None:
        raise ValueError("no transform given")
    return total / len(transforms)
