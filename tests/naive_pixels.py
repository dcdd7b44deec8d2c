"""What a pixel looks like, written down slowly: shares no code with `kernels.boundary_pixels`."""

from __future__ import annotations

import numpy as np


def naive_features(
    logits: np.ndarray, planes: np.ndarray, image: np.ndarray, y: int, x: int, step: float, unit: float
) -> list[float]:
    """The features of one pixel, in order, in float64."""
    height, width = logits.shape
    picture = image.astype(np.float64) * (255 / np.iinfo(image.dtype).max)

    def at(array: np.ndarray, row: float, column: float) -> np.ndarray:
        row, column = np.floor(row + 0.5), np.floor(column + 0.5)
        return array[int(np.clip(row, 0, height - 1)), int(np.clip(column, 0, width - 1))]

    reach = max(1, int(np.floor(step + 0.5)))
    around = np.array([[at(logits, y + reach * j, x + reach * i) for i in (-1, 0, 1)] for j in (-1, 0, 1)], np.float64)
    smooth = np.array([1, 2, 1]) / 8
    rise = np.array([smooth @ (around[2] - around[0]), smooth @ (around[:, 2] - around[:, 0])])
    slope = np.hypot(*rise) + 1e-6
    ny, nx = rise / slope
    wide = [at(logits, y + 2 * reach * j, x + 2 * reach * i) for j in (-1, 0, 1) for i in (-1, 0, 1)]
    laplacian = (around[0, 1] + around[1, 0] + around[1, 2] + around[2, 1]) / 4 - around[1, 1]
    found = [around[1, 1], slope, nx, ny, around.mean(), laplacian, np.mean(wide)]
    found.append(np.clip(around[1, 1] / slope, -20, 20))
    for plane in planes:
        found += [plane[y, x], at(plane, y + ny * step, x + nx * step), at(plane, y - ny * step, x - nx * step)]
    there = np.nonzero(logits > 0)
    for place, lines, side in zip((y, x), there, logits.shape, strict=True):
        found.append((place - lines.min()) / (lines.max() - lines.min() + 1) if len(lines) else place / side)
    own = picture[y, x]
    mean = np.mean([at(picture, y + j, x + i) for j in range(-2, 3) for i in range(-2, 3)], axis=0)
    found += [*own, *mean]
    spots = [
        (y + away * step * ny, x + away * step * nx) for away in (-6, -3, -1.5, -0.75, -0.375, 0.375, 0.75, 1.5, 3, 6)
    ]
    spots += [(y - away * step * nx, x + away * step * ny) for away in (-2, 2)]
    spacing = max(unit, step / 4)

    def sample(row: float, column: float) -> np.ndarray:
        tangent = 1.5 * spacing * np.array([-nx, ny])
        return np.mean([at(picture, row + k * tangent[0], column + k * tangent[1]) for k in (-1, 0, 1)], axis=0)

    for row, column in spots:
        found += [at(logits, row, column), sample(row, column).mean()]
    profile = {t: sample(y + t * spacing * ny, x + t * spacing * nx) for t in range(-11, 12)}
    steps = {t: profile[t + 1] - profile[t - 1] for t in range(-10, 11)}
    found += [steps[t].mean() for t in steps]
    for t in (-6, -4, -2, 0, 2, 4, 6):
        found += [*steps[t]]
    for half in (7, 15, 30):
        ends = [int(np.floor((centre + sign * half * unit) / 4 + 0.5)) * 4 for centre in (y, x) for sign in (-1, 1)]
        window = np.s_[max(0, ends[0]) : max(0, ends[1]), max(0, ends[2]) : max(0, ends[3])]
        inside = logits[window] > 0
        if inside.all() or not inside.any():
            found += [0.0] * 3
            continue
        sides = []
        for side in (~inside, inside):
            colours = picture[window][side]
            centre = colours.mean(0)
            variance = colours.var(0).mean() + 20
            far = [((colour - centre) ** 2).mean() for colour in (own, mean)]
            sides.append((far[0] / variance + np.log(variance), far[1] / variance + np.log(variance), np.sqrt(far[1])))
        outside, within = sides
        found += [outside[0] - within[0], outside[1] - within[1]]
        found.append((outside[2] - within[2]) / (outside[2] + within[2] + 1))
    return [float(each) for each in found]
