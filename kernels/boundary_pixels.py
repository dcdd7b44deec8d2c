"""What single pixels near a mask's boundary look like at full size: logits and colours around each, in compiled loops.

All distances follow two scales. `step_px` is the network's reduction: how many pixels of the full frame one of its own
pixels covers. `unit_px` is the image's size against that of the images that a model was fitted on, so that a photograph
of twice the size shows the same features. Colours count in units of 8 bits, whatever the image's depth.
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
# the profile along the normal: so many samples on either side of the pixel, spaced by a pixel of the unit, or by a
# quarter of the network's where that is more
REACH = 10
_PER_STEP = 0.25
# each sample is the mean of three along the tangent, so many spacings apart
_BESIDE = 1.5
# where the steps of single channels are told, in samples
CHANNEL_STEPS = (-6, -4, -2, 0, 2, 4, 6)
# half sides of the windows with the colours inside and outside, in units of `unit_px`
WINDOWS = (7.0, 15.0, 30.0)
# what is added to a window's variance of colours: the noise of a camera, squared
_NOISE = 20.0
# signed distances to the boundary, by the logits' slope, are cut off here, in units of `step_px`
_FARTHEST = 20.0

_NORMAL, _TANGENT, _WINDOWS = (np.array(each, np.float32) for each in (NORMAL, TANGENT, WINDOWS))
_CHANNEL_STEPS = np.array(CHANNEL_STEPS)


def feature_names(members: int, channels: int) -> list[str]:
    """The features of a pixel, in order; what stands before the colon is the group that it belongs to.

    Args:
        members: networks whose logits are given one by one.
        channels: of the image.
    """
    every = range(channels)
    names = ["logit", "slope", "normal x", "normal y", "mean of 3x3", "Laplacian", "mean of 5x5", "distance"]
    names = [f"logits: {name}" for name in names]
    names += [f"members: {m} {where}" for m in range(members) for where in ("here", "inside", "outside")]
    names += [f"place: {name} in the mask's box" for name in ("row", "column")]
    names += [f"colour: channel {c}" for c in every] + [f"colour: mean of channel {c}" for c in every]
    for kind, offsets in (("across", NORMAL), ("beside", TANGENT)):
        for offset in offsets:
            names += [f"logits: {kind} {offset:g}", f"colour: grey {kind} {offset:g}"]
    names += [f"edge: step at {t}" for t in range(-REACH, REACH + 1)]
    names += [f"edge: step of channel {c} at {t}" for t in CHANNEL_STEPS for c in every]
    likeness = ("likeness", "likeness of mean", "nearness")
    names += [f"regions: {name} {window:g}" for window in WINDOWS for name in likeness]
    return names


@inlined
def _within(value: Any, last: Any) -> Any:
    return 0 if value < 0 else last if value > last else value


@inlined
def _nearest(value: Any, last: Any) -> Any:
    at = int(np.floor(value + np.float32(0.5)))
    return 0 if at < 0 else last if at > last else at


@compiled
def _block_sums(logits: Array, image: Array, ys: Array, xs: Array, half: Any) -> Array:
    """(rows + 1, columns + 1, 2 (2 + C)) int64: of all blocks above and left that lie within `half` pixels of a pixel
    asked for, the pixels, their colours and their squares, outside (logits up to 0) and inside.

    Blocks farther away lie in no window, so that leaving them out changes none.
    """
    height, width, channels = image.shape
    rows, columns = (height + _BLOCK_PX - 1) // _BLOCK_PX, (width + _BLOCK_PX - 1) // _BLOCK_PX
    near = int(half) // _BLOCK_PX + 2
    asked = np.zeros((rows, columns), np.bool_)
    for p in range(len(ys)):
        asked[ys[p] // _BLOCK_PX, xs[p] // _BLOCK_PX] = True
    # a square around each is a row of blocks, and then a column around each of those
    beside = np.zeros((rows, columns), np.bool_)
    needed = np.zeros((rows, columns), np.bool_)
    for row in range(rows):
        for column in range(columns):
            if asked[row, column]:
                beside[row, max(0, column - near) : column + near + 1] = True
    for row in range(rows):
        for column in range(columns):
            if beside[row, column]:
                needed[max(0, row - near) : row + near + 1, column] = True
    each = 2 + channels
    sums = np.zeros((rows + 1, columns + 1, 2 * each), np.int64)
    for row in range(rows):
        for column in range(columns):
            if not needed[row, column]:
                continue
            cell = sums[row + 1, column + 1]
            for y in range(row * _BLOCK_PX, min(height, (row + 1) * _BLOCK_PX)):
                for x in range(column * _BLOCK_PX, min(width, (column + 1) * _BLOCK_PX)):
                    at = each if logits[y, x] > 0 else 0
                    cell[at] += 1
                    for c in range(channels):
                        value = np.int64(image[y, x, c])
                        cell[at + 1] += value * value
                        cell[at + 2 + c] += value
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            for c in range(2 * each):
                sums[row, column, c] += (
                    sums[row - 1, column, c] + sums[row, column - 1, c] - sums[row - 1, column - 1, c]
                )
    return sums


@compiled
def _box(logits: Array) -> tuple[int, int, int, int]:
    """First row and column with foreground, and the rows and columns up to the last; the whole frame where none has."""
    height, width = logits.shape
    top, left, bottom, right = height, width, -1, -1
    for y in range(height):
        first = -1
        for x in range(width):
            if logits[y, x] > 0:
                first = x
                break
        if first < 0:
            continue
        last = width - 1
        while logits[y, last] <= 0:
            last -= 1
        top, bottom = min(top, y), y
        left, right = min(left, first), max(right, last)
    if bottom < 0:
        return 0, 0, height, width
    return top, left, bottom - top + 1, right - left + 1


@inlined
def _start(y: Any, x: Any, bottom: Any, right: Any, channels: Any) -> Any:
    """Where the colours of the pixel nearest to a place begin in a flat image; unsigned, as such numbers index without
    a look at their sign."""
    return np.uint64((_nearest(y, bottom) * (right + 1) + _nearest(x, right)) * channels)


@compiled
def _fill(
    logits: Array,
    planes: Array,
    image: Array,
    sums: Array,
    box: tuple[int, int, int, int],
    ys: Array,
    xs: Array,
    step: Any,
    unit: Any,
    level: Any,
    out: Array,
) -> None:
    height, width, channels = image.shape
    flat = image.ravel()
    bottom, right = height - 1, width - 1
    reach = max(1, int(np.floor(step + np.float32(0.5))))
    spacing = max(unit, step * np.float32(_PER_STEP))
    third = level / np.float32(3)
    own = np.empty(channels, np.float32)
    mean = np.empty(channels, np.float32)
    # one sample more on either side than there are steps
    profile = np.empty((2 * REACH + 3, channels), np.float32)
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

        # 3) where it is, and the colour here and around
        row[at] = np.float32(y - box[0]) / np.float32(box[2])
        row[at + 1] = np.float32(x - box[1]) / np.float32(box[3])
        at += 2
        for ch in range(channels):
            own[ch] = np.float32(image[y, x, ch]) * level
            row[at + ch] = own[ch]
            total = np.float32(0)
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    total += np.float32(image[_within(y + dy, bottom), _within(x + dx, right), ch])
            mean[ch] = total * level / np.float32(25)
            row[at + channels + ch] = mean[ch]
        at += 2 * channels

        # 4) far along the normal and the tangent
        beside_y, beside_x = -nx * spacing * np.float32(_BESIDE), ny * spacing * np.float32(_BESIDE)
        for k in range(len(_NORMAL) + len(_TANGENT)):
            if k < len(_NORMAL):
                away = _NORMAL[k] * step
                yy, xx = y + away * ny, x + away * nx
            else:
                away = _TANGENT[k - len(_NORMAL)] * step
                yy, xx = y - away * nx, x + away * ny
            row[at] = logits[_nearest(yy, bottom), _nearest(xx, right)]
            total = np.float32(0)
            for side in range(-1, 2):
                start = _start(yy + side * beside_y, xx + side * beside_x, bottom, right, channels)
                for ch in range(channels):
                    total += np.float32(flat[start + np.uint64(ch)])
            row[at + 1] = total * third / np.float32(channels)
            at += 2

        # 5) the steps of the picture across the boundary
        for t in range(2 * REACH + 3):
            away = np.float32(t - REACH - 1) * spacing
            yy, xx = y + away * ny, x + away * nx
            one = _start(yy - beside_y, xx - beside_x, bottom, right, channels)
            two = _start(yy, xx, bottom, right, channels)
            three = _start(yy + beside_y, xx + beside_x, bottom, right, channels)
            for ch in range(channels):
                c0 = np.uint64(ch)
                total = np.float32(flat[one + c0]) + np.float32(flat[two + c0]) + np.float32(flat[three + c0])
                profile[t, ch] = total * third
        for t in range(1, 2 * REACH + 2):
            total = np.float32(0)
            for ch in range(channels):
                total += profile[t + 1, ch] - profile[t - 1, ch]
            row[at] = total / np.float32(channels)
            at += 1
        for k in range(len(_CHANNEL_STEPS)):
            t = _CHANNEL_STEPS[k] + REACH + 1
            for ch in range(channels):
                row[at + ch] = profile[t + 1, ch] - profile[t - 1, ch]
            at += channels

        # 6) whether the colour is like those inside nearby, or like those outside
        each = 2 + channels
        for k in range(len(_WINDOWS)):
            half = _WINDOWS[k] * unit
            y0 = _nearest((y - half) / _BLOCK_PX, sums.shape[0] - 1)
            y1 = _nearest((y + half) / _BLOCK_PX, sums.shape[0] - 1)
            x0 = _nearest((x - half) / _BLOCK_PX, sums.shape[1] - 1)
            x1 = _nearest((x + half) / _BLOCK_PX, sums.shape[1] - 1)
            first, second, third_, fourth = sums[y0, x0], sums[y0, x1], sums[y1, x0], sums[y1, x1]
            row[at] = row[at + 1] = row[at + 2] = np.float32(0)
            near_in = near_out = np.float64(0)
            both = True
            for side in range(2):
                s = side * each
                count = fourth[s] - second[s] - third_[s] + first[s]
                if count == 0:
                    both = False
                    continue
                square = np.float64(fourth[s + 1] - second[s + 1] - third_[s + 1] + first[s + 1]) / count
                own_far, mean_far = np.float64(0), np.float64(0)
                for ch in range(channels):
                    i = s + 2 + ch
                    there = np.float64(fourth[i] - second[i] - third_[i] + first[i]) / count
                    square -= there * there
                    own_far += (own[ch] - there * level) ** 2
                    mean_far += (mean[ch] - there * level) ** 2
                own_far /= channels
                mean_far /= channels
                variance = max(square / channels, 0.0) * level * level + _NOISE
                sign, spread = 1 if side == 0 else -1, np.log(variance)
                # Gaussians of one variance a side: twice the logarithm of their ratio
                row[at] += np.float32(sign * (own_far / variance + spread))
                row[at + 1] += np.float32(sign * (mean_far / variance + spread))
                if side == 0:
                    near_out = np.sqrt(mean_far)
                else:
                    near_in = np.sqrt(mean_far)
            if both:
                row[at + 2] = np.float32((near_out - near_in) / (near_out + near_in + 1))
            else:
                row[at] = row[at + 1] = np.float32(0)
            at += 3


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
    level = np.float32(255 / np.iinfo(image.dtype).max)
    unit = np.float32(unit_px)
    sums = _block_sums(logits, image, rows, columns, _WINDOWS[-1] * unit)
    _fill(logits, planes, image, sums, _box(logits), rows, columns, np.float32(step_px), unit, level, out)
    return out
