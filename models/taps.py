"""Rows as weighted sums of a few others: what every change of an image's size is, in operations that every runtime has.

Reducing by area, bilinear interpolation and padding treat rows and columns apart, and each row of what they give is
made of a few rows. A table says which and with what weights; it is computed in a network's graph from the image's size,
in whole numbers, so that an export takes images of any size and nothing is lost to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from competition import Size

# the weights of OpenCV's interpolation of bytes are parts of this
_ONE = 2048


@dataclass(frozen=True)
class Taps:
    """What each of n rows is made of.

    Attributes:
        index: (n, k) int64, the rows that it is a sum of.
        weight: (n, k) float32, what each of them counts.
    """

    index: torch.Tensor
    weight: torch.Tensor


def number(value: int) -> torch.Tensor:
    """A size as a scalar tensor, (), int64: what is compared with it stays a part of the graph."""
    return torch.full((), value, dtype=torch.int64)


def counted(count: torch.Tensor, most: int | None = None) -> int:
    """A number that is computed in the graph as a size of its tensors; a symbol while a graph is made.

    Args:
        count: () int64, at least 1.
        most: that it is at most, where that is known.
    """
    size: int = count.item()  # type: ignore[assignment]
    torch._check(size >= 1)
    if most is not None:
        torch._check(size <= most)
    return size


def floor_div(values: torch.Tensor, divisor: int | torch.Tensor) -> torch.Tensor:
    """Whole numbers divided, rounded down; int64."""
    return torch.div(values, divisor, rounding_mode="floor")


def single(index: torch.Tensor, rows: int, taps: int) -> Taps:
    """Rows that are copies of others.

    Args:
        index: (n,) int64, which.
        rows: how many there are; an index beyond them takes the nearest.
        taps: k of the result, at least 1.
    """
    ones = torch.nn.functional.pad(torch.ones(1), (0, taps - 1))
    return Taps(
        torch.minimum(index.clamp(min=0), number(rows - 1))[:, None].expand(-1, taps), ones.expand(index.shape[0], -1)
    )


def linear(wanted: torch.Tensor, source: int, target: int) -> Taps:
    """Bilinear interpolation from `source` rows to `target`, pixel centres aligned, as OpenCV's INTER_LINEAR.

    Args:
        wanted: (n,) int64, which rows of the `target` ones.
        source, target: how many there are.
    """
    # the centre's position times 2 * target, in the pixels of the source
    centre = (2 * wanted + 1) * source - target
    first = floor_div(centre, 2 * target)
    rows = first[:, None] + torch.arange(2)
    weight = (2 * target - (2 * target * rows - centre[:, None]).abs()).clamp(min=0)
    return Taps(torch.minimum(rows.clamp(min=0), number(source - 1)), weight.float() / (2 * target))


def _fixed_point(wanted: torch.Tensor, source: int, target: int) -> Taps:
    """As `linear` of two rows, with weights in 2048ths as OpenCV has them where it interpolates bytes."""
    scale = 1 / (number(target).double() / source)
    centre = ((wanted.double() + 0.5) * scale - 0.5).float()
    share = centre - centre.floor()
    rows = centre.floor().long()[:, None] + torch.arange(2)
    weight = (torch.stack([1 - share, share], 1) * _ONE).round()
    return Taps(torch.minimum(rows.clamp(min=0), number(source - 1)), weight)


def enlarged(image: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, size: Size) -> torch.Tensor:
    """Bilinear interpolation of bytes to the very bytes that OpenCV's INTER_LINEAR gives, which cuts off what it has
    no bits for: rounded instead, an eighth of them would be higher by one.

    Args:
        image: (H, W, C) uint8.
        rows, columns: (h,) and (w,) int64, which of those of an image of `size` are wanted.
        size: what the image is resized to.

    Returns:
        (h, w, C) float32, whole numbers 0..255.
    """
    down = _fixed_point(rows, image.shape[0], size[0])
    across = _fixed_point(columns, image.shape[1], size[1])
    # sums of up to 255 * 2048 are exact in float32, products of what follows are not
    partly = (_by_row(image.transpose(0, 1), across).transpose(0, 1) / 16).floor().int()
    products = partly[down.index] * down.weight.int()[:, :, None, None]
    return floor_div(floor_div(products, 1 << 16).sum(1) + 2, 4).clamp(0, 255).float()


def area(source: int, target: int, taps: int) -> Taps:
    """Reduction from `source` rows to `target` by the area that each covers, as OpenCV's INTER_AREA.

    Args:
        source, target: how many there are, `source` at least `target`.
        taps: k of the result, at least source // target + 2.

    >>> found = area(5, 2, 4)
    >>> found.index.tolist(), (found.weight * 5).tolist()
    ([[0, 1, 2, 3], [2, 3, 4, 4]], [[2.0, 2.0, 1.0, 0.0], [1.0, 2.0, 2.0, 0.0]])
    """
    start = torch.arange(target) * source
    rows = floor_div(start, target)[:, None] + torch.arange(taps)
    start = start[:, None]
    shared = torch.minimum((rows + 1) * target, start + source) - torch.maximum(rows * target, start)
    return Taps(rows.clamp(max=source - 1), shared.clamp(min=0).float() / source)


def where(condition: torch.Tensor, one: Taps, other: Taps) -> Taps:
    """One table or the other, of the same shape, as a scalar bool says."""
    return Taps(
        torch.where(condition, one.index, other.index),
        torch.where(condition, one.weight, other.weight),
    )


def resampled(planes: torch.Tensor, rows: Taps, columns: Taps) -> torch.Tensor:
    """Apply a table to each side of an image.

    Args:
        planes: (H, W, C) of any dtype.
        rows, columns: of the result.

    Returns:
        (h, w, C) float32.
    """
    return _by_row(_by_row(planes, rows).transpose(0, 1), columns).transpose(0, 1)


def _by_row(planes: torch.Tensor, taps: Taps) -> torch.Tensor:
    """(n, W, C) float32 from (H, W, C)."""
    width, channels = planes.shape[1], planes.shape[2]
    chosen = planes[taps.index].float().flatten(2)
    return (taps.weight[:, None] @ chosen).reshape(taps.index.shape[0], width, channels)
