"""What single pixels near a mask's boundary look like at full size: logits and colours around each, in compiled loops.

All distances follow two scales. `step_px` is the network's reduction: how many pixels of the full frame one of its own
pixels covers. `unit_px` is the image's size against that of the images that a model was fitted on, so that a photograph
of twice the size shows the same features.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.compiled import compiled, inlined

Array = np.ndarray

# colours are summed in blocks of so many pixels a side: windows are made of whole blocks
_BLOCK_PX = 4
# along the normal of the boundary, and along its tangent, in units of `step_px`
NORMAL = (-6.0, -3.0, -1.5, -0.75, -0.375, 0.375, 0.75, 1.5, 3.0, 6.0)
TANGENT = (-2.0, 2.0)
# half sides of the windows with the mean colours inside and outside, in units of `unit_px`
WINDOWS = (10.0, 15.0, 30.0, 50.0)
# a patch of greys around the pixel: columns and rows, in units of `unit_px`
PATCH = (-4, -2, 0, 2, 4)
# signed distances to the boundary, by the logits' slope, are cut off here, in units of `step_px`
_FARTHEST = 20.0

_NORMAL, _TANGENT, _WINDOWS = (np.array(each, np.float32) for each in (NORMAL, TANGENT, WINDOWS))
_PATCH = np.array([(y, x) for y in PATCH for x in PATCH if (y, x) != (0, 0)], np.float32)


def feature_names(members: int, channels: int) -> list[str]:
    """The features of a pixel, in order; what stands before the colon is the group that it belongs to.

    Args:
        members: networks whose logits are given one by one.
        channels: of the image.
    """
    names = ["logit", "slope", "normal x", "normal y", "mean of 3x3", "Laplacian", "mean of 5x5", "distance"]
    names = [f"logits: {name}" for name in names]
    names += [f"members: {m} {where}" for m in range(members) for where in ("here", "inside", "outside")]
    names += [f"colour: channel {c}" for c in range(channels)] + [
        f"colour: mean of channel {c}" for c in range(channels)
    ]
    names += [f"edge: {which} at {scale}" for scale in (1, 2) for which in ("across", "along")]
    for kind, offsets in (("across", NORMAL), ("beside", TANGENT)):
        for offset in offsets:
            names.append(f"logits: {kind} {offset:g}")
            names += [f"profile: {kind} {offset:g}, channel {c}" for c in range(channels)]
            names.append(f"profile: {kind} {offset:g}, grey")
    names += [f"patch: {y:g}, {x:g}" for y, x in _PATCH]
    names += [
        f"regions: {side} {window:g}, channel {c}"
        for window in WINDOWS
        for side in ("outside", "inside")
        for c in range(channels)
    ]
    return names


@inlined
def _within(value: Any, last: Any) -> Any:
    return 0 if value < 0 else last if value > last else value


@inlined
def _nearest(value: Any, last: Any) -> Any:
    at = int(np.floor(value + np.float32(0.5)))
    return 0 if at < 0 else last if at > last else at


@compiled
def _block_sums(logits: Array, image: Array) -> Array:
    """(rows + 1, columns + 1, 2 (1 + C)) int64: of all blocks above and left, the pixels and their colours, outside
    (logits up to 0) and inside."""
    height, width, channels = image.shape
    rows, columns = (height + _BLOCK_PX - 1) // _BLOCK_PX, (width + _BLOCK_PX - 1) // _BLOCK_PX
    each = 1 + channels
    sums = np.zeros((rows + 1, columns + 1, 2 * each), np.int64)
    for y in range(height):
        row = y // _BLOCK_PX + 1
        for x in range(width):
            cell = sums[row, x // _BLOCK_PX + 1]
            at = each if logits[y, x] > 0 else 0
            cell[at] += 1
            for c in range(channels):
                cell[at + 1 + c] += image[y, x, c]
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            for c in range(2 * each):
                sums[row, column, c] += (
                    sums[row - 1, column, c] + sums[row, column - 1, c] - sums[row - 1, column - 1, c]
                )
    return sums


@inlined
def _grey(image: Array, y: Any, x: Any) -> Any:
    total = np.float32(0)
    for c in range(image.shape[2]):
        total += np.float32(image[y, x, c])
    return total


@compiled
def _fill(
    logits: Array, planes: Array, image: Array, sums: Array, ys: Array, xs: Array, step: Any, unit: Any, out: Array
) -> None:
    height, width, channels = image.shape
    bottom, right = height - 1, width - 1
    reach = max(1, int(np.floor(step + np.float32(0.5))))
    own = np.empty(channels, np.float32)
    mean = np.empty(channels, np.float32)
    for p in range(len(ys)):
        y, x = ys[p], xs[p]
        row = out[p]

        # 1) the logits around, and the direction in which they rise
        above, below = _within(y - reach, bottom), _within(y + reach, bottom)
        left, beyond = _within(x - reach, right), _within(x + reach, right)
        z = logits[y, x]
        a, b, c = logits[above, left], logits[above, x], logits[above, beyond]
        d, e = logits[y, left], logits[y, beyond]
        f, g, h = logits[below, left], logits[below, x], logits[below, beyond]
        rise_x = (c - a + 2 * (e - d) + h - f) * np.float32(0.125)
        rise_y = (f - a + 2 * (g - b) + h - c) * np.float32(0.125)
        slope = np.sqrt(rise_x * rise_x + rise_y * rise_y) + np.float32(1e-6)
        nx, ny = rise_x / slope, rise_y / slope
        row[0] = z
        row[1] = slope
        row[2] = nx
        row[3] = ny
        row[4] = (a + b + c + d + z + e + f + g + h) / np.float32(9)
        row[5] = (b + d + e + g) * np.float32(0.25) - z
        high, low = _within(y - 2 * reach, bottom), _within(y + 2 * reach, bottom)
        west, east = _within(x - 2 * reach, right), _within(x + 2 * reach, right)
        total = logits[high, west] + logits[high, x] + logits[high, east] + logits[y, west] + z + logits[y, east]
        row[6] = (total + logits[low, west] + logits[low, x] + logits[low, east]) / np.float32(9)
        row[7] = min(max(z / slope, np.float32(-_FARTHEST)), np.float32(_FARTHEST))
        at = 8

        # 2) what each network says
        for m in range(planes.shape[0]):
            row[at] = planes[m, y, x]
            row[at + 1] = planes[m, _nearest(y + ny * step, bottom), _nearest(x + nx * step, right)]
            row[at + 2] = planes[m, _nearest(y - ny * step, bottom), _nearest(x - nx * step, right)]
            at += 3

        # 3) the colour here and around, and the edge of the picture across and along the boundary
        for ch in range(channels):
            own[ch] = np.float32(image[y, x, ch])
            row[at + ch] = own[ch]
            total = np.float32(0)
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    total += np.float32(image[_within(y + dy, bottom), _within(x + dx, right), ch])
            mean[ch] = total / np.float32(25)
            row[at + channels + ch] = mean[ch]
        at += 2 * channels
        for scale in (1, 2):
            far = max(1, int(np.floor(scale * unit + np.float32(0.5))))
            edge_x, edge_y = np.float32(0), np.float32(0)
            y0, y1, x0, x1 = (
                _within(y - far, bottom),
                _within(y + far, bottom),
                _within(x - far, right),
                _within(x + far, right),
            )
            edge_x = (
                (_grey(image, y0, x1) - _grey(image, y0, x0))
                + 2 * (_grey(image, y, x1) - _grey(image, y, x0))
                + (_grey(image, y1, x1) - _grey(image, y1, x0))
            )
            edge_y = (
                (_grey(image, y1, x0) - _grey(image, y0, x0))
                + 2 * (_grey(image, y1, x) - _grey(image, y0, x))
                + (_grey(image, y1, x1) - _grey(image, y0, x1))
            )
            row[at] = edge_x * nx + edge_y * ny
            row[at + 1] = abs(edge_y * nx - edge_x * ny)
            at += 2

        # 4) along the normal and along the tangent
        for k in range(len(_NORMAL) + len(_TANGENT)):
            if k < len(_NORMAL):
                away = _NORMAL[k] * step
                yy, xx = _nearest(y + away * ny, bottom), _nearest(x + away * nx, right)
            else:
                away = _TANGENT[k - len(_NORMAL)] * step
                yy, xx = _nearest(y - away * nx, bottom), _nearest(x + away * ny, right)
            row[at] = logits[yy, xx]
            for ch in range(channels):
                row[at + 1 + ch] = np.float32(image[yy, xx, ch]) - own[ch]
            total = np.float32(0)
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    total += _grey(image, _within(yy + dy, bottom), _within(xx + dx, right))
            row[at + 1 + channels] = total / np.float32(9 * channels)
            at += 2 + channels

        # 5) the patch
        grey = _grey(image, y, x)
        for k in range(len(_PATCH)):
            yy = _nearest(y + _PATCH[k, 0] * unit, bottom)
            xx = _nearest(x + _PATCH[k, 1] * unit, right)
            row[at + k] = (_grey(image, yy, xx) - grey) / np.float32(channels)
        at += len(_PATCH)

        # 6) how far the colour is from those inside and outside nearby
        each = 1 + channels
        for k in range(len(_WINDOWS)):
            half = _WINDOWS[k] * unit
            y0 = _nearest((y - half) / _BLOCK_PX, sums.shape[0] - 1)
            y1 = _nearest((y + half) / _BLOCK_PX, sums.shape[0] - 1)
            x0 = _nearest((x - half) / _BLOCK_PX, sums.shape[1] - 1)
            x1 = _nearest((x + half) / _BLOCK_PX, sums.shape[1] - 1)
            first, second, third, fourth = sums[y0, x0], sums[y0, x1], sums[y1, x0], sums[y1, x1]
            for side in range(2):
                s = side * each
                count = fourth[s] - second[s] - third[s] + first[s]
                for ch in range(channels):
                    i = s + 1 + ch
                    row[at + ch] = np.float32(0)
                    if count > 0:
                        inside = fourth[i] - second[i] - third[i] + first[i]
                        row[at + ch] = mean[ch] - np.float32(inside / count)
                at += channels


def pixel_features(
    logits: np.ndarray,
    planes: np.ndarray,
    image: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    *,
    step_px: float,
    unit_px: float = 1.0,
) -> np.ndarray:
    """What some pixels look like.

    Args:
        logits: (H, W) float32, foreground above 0; not modified.
        planes: (M, H, W) float32 logits of single networks at full size; M may be 0. Not modified.
        image: (H, W, C) uint8 or uint16; not modified.
        rows, columns: (P,) int64, the pixels.
        step_px: pixels of the full frame that one pixel of the networks covers; at least 1.
        unit_px: the scale of distances in the picture.

    Returns:
        (P, F) float32, F as `feature_names` lists them. Every one is a finite number.

    Raises:
        ValueError: shapes or dtypes do not fit.

    >>> ramp = np.arange(-8, 8, dtype=np.float32)[None].repeat(16, 0)
    >>> grey = np.zeros((16, 16, 1), np.uint8)
    >>> found = pixel_features(ramp, ramp[None][:0], grey, np.array([8]), np.array([9]), step_px=1)
    >>> found[0, :4].round(3).tolist()
    [1.0, 1.0, 1.0, 0.0]
    """
    if logits.ndim != 2 or logits.dtype != np.float32 or image.ndim != 3 or image.shape[:2] != logits.shape:
        raise ValueError(f"logits {logits.shape} {logits.dtype} and image {image.shape} do not fit")
    if planes.ndim != 3 or planes.shape[1:] != logits.shape or planes.dtype != np.float32:
        raise ValueError(f"planes {planes.shape} {planes.dtype} do not fit logits {logits.shape}")
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"image is {image.dtype}, expected uint8 or uint16")
    if rows.shape != columns.shape or rows.ndim != 1:
        raise ValueError(f"rows {rows.shape} and columns {columns.shape} do not fit")
    out = np.empty((len(rows), len(feature_names(len(planes), image.shape[2]))), np.float32)
    if not len(rows):
        return out
    size = np.array(logits.shape)
    if (np.minimum(rows, columns) < 0).any() or (rows >= size[0]).any() or (columns >= size[1]).any():
        raise ValueError(f"a pixel lies outside of {logits.shape}")
    logits, planes, image = (np.ascontiguousarray(each) for each in (logits, planes, image))
    sums = _block_sums(logits, image)
    _fill(logits, planes, image, sums, rows, columns, np.float32(step_px), np.float32(unit_px), out)
    return out
