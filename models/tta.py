"""Test-time augmentation: a small algebra of transforms of a network's input, each with its inverse on the logits.

A transform is a pair of functions on batches of tensors, so that it runs where the network runs. Transforms compose:
`flip @ scale` applies the flip first, and undoes the scale first. Averages are taken in logit space, where they commute
with everything linear that follows.

On the command line and in `Variant.tta`, a transform is a family's name followed by its parameters (`scale1.1`,
`shift-4+8`), `@` composes (`hflip@scale1.1`), and `*` is the cartesian product: `hflip*scale1.1` stands for `hflip`,
`scale1.1` and `hflip@scale1.1`, which together with the plain image are all combinations.
"""

from __future__ import annotations

import re
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

    def __matmul__(self, second: Transform) -> Transform:
        """This transform, then `second`; undone in reverse."""

        def undo(logits: Batch, size: Size) -> Batch:
            return self.undo(second.undo(logits, self.resized(size)), size)

        return Transform(
            f"{self.name}@{second.name}",
            apply=lambda batch: second.apply(self.apply(batch)),
            undo=undo,
            resized=lambda size: second.resized(self.resized(size)),
        )


def _unchanged(batch: Batch, _: Size | None = None) -> Batch:
    return batch


def _flip_width(batch: Batch, _: Size | None = None) -> Batch:
    return batch.flip(-1)


def _flip_height(batch: Batch, _: Size | None = None) -> Batch:
    return batch.flip(-2)


def _resize(batch: Batch, size: Size) -> Batch:
    if tuple(batch.shape[-2:]) == tuple(size):
        return batch
    return interpolate(batch, size, mode="bilinear", align_corners=False)


IDENTITY = Transform("identity", apply=_unchanged, undo=_unchanged)


def hflip() -> Transform:
    """Mirror left and right."""
    return Transform("hflip", apply=_flip_width, undo=_flip_width)


def vflip() -> Transform:
    """Mirror top and bottom."""
    return Transform("vflip", apply=_flip_height, undo=_flip_height)


def rot(degrees: float) -> Transform:
    """Turn counter-clockwise by 90, 180 or 270 degrees; a quarter turn swaps the sides of the network's input.

    Raises:
        ValueError: another angle.
    """
    quarters, rest = divmod(degrees, 90)
    if rest or quarters not in (1, 2, 3):
        raise ValueError("rotations are by 90, 180 or 270 degrees")
    turns = int(quarters)
    return Transform(
        f"rot{degrees:g}",
        apply=lambda batch: batch.rot90(turns, (-2, -1)),
        undo=lambda logits, _: logits.rot90(-turns, (-2, -1)),
        resized=lambda size: (size[1], size[0]) if turns % 2 else size,
    )


def scale(factor: float) -> Transform:
    """Enlarge or reduce both sides by about `factor`: to the nearest multiple of 32 pixels, at least 32.

    Undone by bilinear interpolation, so exact on what is linear across pixels and smoothing elsewhere.

    Raises:
        ValueError: `factor` is not between 0.1 and 10.
    """
    if not 0.1 <= factor <= 10:
        raise ValueError("scales are between 0.1 and 10")

    def resized(size: Size) -> Size:
        height, width = (max(1, round(side * factor / _STRIDE_PX)) * _STRIDE_PX for side in size)
        return height, width

    def apply(batch: Batch) -> Batch:
        return _resize(batch, resized((batch.shape[-2], batch.shape[-1])))

    return Transform(f"scale{factor:g}", apply=apply, undo=_resize, resized=resized)


def brightness(change: float) -> Transform:
    """Add `change` to the normalised input: about that many standard deviations of an ImageNet pixel (58 of 255)."""
    return Transform(f"brightness{change:+g}", apply=lambda batch: batch + change, undo=_unchanged)


def shift(down_px: float, right_px: float | None = None) -> Transform:
    """Move the content by some pixels of the network's frame; what leaves at one border comes in at the other.

    Around, because only then is nothing lost and the inverse exact; the price is a wrong context for the logits
    within a few pixels of two borders.

    Args:
        down_px, right_px: whole numbers; one alone is for both directions.

    Raises:
        ValueError: a part of a pixel.
    """
    down, right = int(down_px), int(down_px if right_px is None else right_px)
    if down != down_px or right_px not in (None, right):
        raise ValueError("shifts are by whole pixels")
    return Transform(
        f"shift{down:+d}{right:+d}",
        apply=lambda batch: batch.roll((down, right), (-2, -1)),
        undo=lambda logits, _: logits.roll((-down, -right), (-2, -1)),
    )


@dataclass(frozen=True)
class Family:
    """Transforms that differ by numbers alone, written behind the family's name.

    Attributes:
        make: takes the numbers and returns the transform; ValueError where they make no sense.
        examples: spelled as on the command line; `ensemble.tta_gain` measures them unless told otherwise.
    """

    make: Callable[..., Transform]
    examples: tuple[str, ...]


FAMILIES: dict[str, Family] = {
    "hflip": Family(hflip, ("hflip",)),
    "vflip": Family(vflip, ("vflip",)),
    "rot": Family(rot, ("rot90", "rot180", "rot270")),
    "scale": Family(scale, ("scale0.75", "scale1.25", "scale1.5")),
    "brightness": Family(brightness, ("brightness+0.3", "brightness-0.3")),
    "shift": Family(shift, ("shift+4+4", "shift-4-4")),
}
EXAMPLES = tuple(example for family in FAMILIES.values() for example in family.examples)

_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_TERM = re.compile(rf"([a-z]+)((?:{_NUMBER})*)")


def _parse_term(term: str) -> Transform:
    """The transform that `hflip` or `scale1.1` spells. Raises UserError as `find_transform`."""
    match = _TERM.fullmatch(term)
    if match is None or match[1] not in FAMILIES:
        raise UserError(
            f"unknown test-time augmentation {term!r}; known: {', '.join(EXAMPLES)}, with other numbers too, composed "
            "as hflip@scale1.25, and all combinations as hflip*scale1.25."
        )
    family = FAMILIES[match[1]]
    try:
        return family.make(*map(float, re.findall(_NUMBER, match[2])))
    except (TypeError, ValueError) as error:
        why = error if isinstance(error, ValueError) else "it takes other numbers"
        raise UserError(
            f"test-time augmentation {term!r} cannot work ({why}): write it as {' or '.join(family.examples)}."
        ) from None


def find_transform(text: str) -> Transform:
    """One transform, or several composed: `hflip@scale1.25` flips, then scales.

    Raises:
        UserError: a family is unknown, or its numbers make no sense; the message shows what works.

    >>> find_transform("hflip@shift8").name
    'hflip@shift+8+8'
    """
    first, *others = (_parse_term(term) for term in text.split("@"))
    for other in others:
        first = first @ other
    return first


def find_transforms(expressions: Sequence[str]) -> list[Transform]:
    """The identity followed by what the expressions stand for, each transform once.

    Raises:
        UserError: as `find_transform`.

    >>> [t.name for t in find_transforms(["hflip*scale1.1", "hflip", "shift8"])]
    ['identity', 'hflip', 'scale1.1', 'hflip@scale1.1', 'shift+8+8']
    """
    found = {IDENTITY.name: IDENTITY}
    for expression in expressions:
        combinations = [IDENTITY]
        for factor in map(find_transform, expression.split("*")):
            combinations += [factor if c is IDENTITY else c @ factor for c in combinations]
        found |= {transform.name: transform for transform in combinations}
    return list(found.values())


def transformed_logits(network: Callable[[Batch], Batch], batch: Batch, transform: Transform) -> Batch:
    """The network's logits through one transform, (N, K, h, w) float32, on the pixels of `batch` (N, C, h, w)."""
    size = (batch.shape[-2], batch.shape[-1])
    return transform.invert(network(transform.apply(batch)).float(), size)


def mean_logits(network: Callable[[Batch], Batch], batch: Batch, transforms: Sequence[Transform]) -> Batch:
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
