"""A z-buffer, its shading, and the composition of a picture: triangles to depth, normal and material per sample."""

from __future__ import annotations

import numpy as np

from kernels.compiled import compiled, inlined

Array = np.ndarray

FAR = np.float32(1e9)
# an edge that rises less, in samples, says nothing of where a row's samples lie beside it
_LEVEL = 1e-6


@inlined
def _edge(px: float, py: float, qx: float, qy: float, inverse: float) -> tuple[float, float]:
    """How an edge bounds rows: what its x grows by with each, and whether it is on the left (1), on the right (-1) or
    bounds none (0)."""
    rise = qy - py
    if abs(rise) < _LEVEL:
        return 0.0, 0.0
    return (qx - px) / rise, -1.0 if rise * inverse > 0 else 1.0


@compiled
def _rasterise(
    points: Array, normals: Array, triangles: Array, materials: Array, depth: Array, out_n: Array, out_m: Array
) -> None:
    height, width = depth.shape
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, az = points[a, 0], points[a, 1], points[a, 2]
        bx, by, bz = points[b, 0], points[b, 1], points[b, 2]
        cx, cy, cz = points[c, 0], points[c, 1], points[c, 2]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0 or az <= 0 or bz <= 0 or cz <= 0:
            continue
        # samples lie at integer coordinates
        left = max(0, int(np.ceil(min(ax, bx, cx))))
        right = min(width - 1, int(np.floor(max(ax, bx, cx))))
        top = max(0, int(np.ceil(min(ay, by, cy))))
        bottom = min(height - 1, int(np.floor(max(ay, by, cy))))
        inverse = 1.0 / area
        # depth is linear in screen space as its reciprocal
        ra, rb, rc = 1.0 / az, 1.0 / bz, 1.0 / cz
        slope_a, side_a = _edge(bx, by, cx, cy, inverse)
        slope_b, side_b = _edge(cx, cy, ax, ay, inverse)
        slope_c, side_c = _edge(ax, ay, bx, by, inverse)
        for y in range(top, bottom + 1):
            # three of four samples of the triangles' rectangles lie beside them: those of a row are looked at from edge
            # to edge, and one more on either side for the rounding
            first, last = float(left), float(right)
            x_a, x_b, x_c = bx + (y - by) * slope_a, cx + (y - cy) * slope_b, ax + (y - ay) * slope_c
            if side_a > 0:
                first = max(first, x_a - 1.0)
            elif side_a < 0:
                last = min(last, x_a + 1.0)
            if side_b > 0:
                first = max(first, x_b - 1.0)
            elif side_b < 0:
                last = min(last, x_b + 1.0)
            if side_c > 0:
                first = max(first, x_c - 1.0)
            elif side_c < 0:
                last = min(last, x_c + 1.0)
            for x in range(int(np.ceil(first)), int(np.floor(last)) + 1):
                wa = ((bx - x) * (cy - y) - (by - y) * (cx - x)) * inverse
                wb = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) * inverse
                wc = 1.0 - wa - wb
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                z = 1.0 / (wa * ra + wb * rb + wc * rc)
                if z < depth[y, x]:
                    depth[y, x] = z
                    out_m[y, x] = materials[t]
                    for k in range(3):
                        out_n[y, x, k] = wa * normals[a, k] + wb * normals[b, k] + wc * normals[c, k]


def rasterise(
    points: np.ndarray, normals: np.ndarray, triangles: np.ndarray, materials: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw triangles.

    Args:
        points: (P, 3) float64: x and y in samples (sample (0, 0) lies at the origin), z the depth, above 0 in view.
        normals: (P, 3) float32, one a point.
        triangles: (T, 3) int64 indices of points; either winding is drawn.
        materials: (T,) uint8, above 0.
        size: (height, width) of the picture, in samples.

    Returns:
        depth (H, W) float32 (`FAR` where nothing is), normal (H, W, 3) float32 (not normalised), material (H, W)
        uint8 (0 where nothing is). A triangle with a corner at or behind the camera is not drawn.

    Raises:
        ValueError: shapes do not fit, or a triangle names a point that is not there.
    """
    if points.ndim != 2 or points.shape[1] != 3 or normals.shape != points.shape or triangles.shape[1:] != (3,):
        raise ValueError(f"points {points.shape}, normals {normals.shape}, triangles {triangles.shape} do not fit")
    if materials.shape != triangles.shape[:1]:
        raise ValueError(f"{len(triangles)} triangles need as many materials, not {materials.shape}")
    if len(triangles) and (triangles.min() < 0 or triangles.max() >= len(points)):
        raise ValueError("a triangle names a point that is not there")
    depth = np.full(size, FAR, np.float32)
    normal = np.zeros((*size, 3), np.float32)
    material = np.zeros(size, np.uint8)
    _rasterise(
        np.ascontiguousarray(points, np.float64),
        np.ascontiguousarray(normals, np.float32),
        np.ascontiguousarray(triangles, np.int64),
        np.ascontiguousarray(materials, np.uint8),
        depth,
        normal,
        material,
    )
    return depth, normal, material


@compiled
def _shade(
    normal: Array, material: Array, palette: Array, gloss: Array, view: Array, light: Array, colour: Array
) -> None:
    """Colour of every second-by-second block of samples, and its coverage in the fourth channel."""
    height, width = colour.shape[:2]
    for y in range(height):
        for x in range(width):
            red, green, blue, count = 0.0, 0.0, 0.0, 0
            for s in range(4):
                sy, sx = 2 * y + s // 2, 2 * x + s % 2
                m = material[sy, sx]
                if m == 0:
                    continue
                nx, ny, nz = normal[sy, sx, 0], normal[sy, sx, 1], normal[sy, sx, 2]
                length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
                nx, ny, nz = nx / length, ny / length, nz / length
                facing = nx * view[0] + ny * view[1] + nz * view[2]
                if facing < 0:  # a thin part seen from behind
                    nx, ny, nz, facing = -nx, -ny, -nz, -facing
                diffuse = (
                    0.42 + 0.30 * max(0.0, nx * light[0] + ny * light[1] + nz * light[2]) + 0.30 * (0.5 + 0.5 * nz)
                )
                # the mirror direction meets the bright ceiling with its lamps, the wall, or the grey floor
                rx = 2 * facing * nx - view[0]
                rz = 2 * facing * nz - view[2]
                if rz > 0:
                    lamp = np.exp(-(((rz - 0.75) / 0.10) ** 2)) + 0.8 * np.exp(-(((rz - 0.32) / 0.05) ** 2))
                    around = 0.62 + 0.10 * rx + 0.55 * lamp
                else:
                    around = 0.34 + 0.25 * np.exp(rz * 6)
                fresnel = gloss[m] * (0.25 + 0.75 * (1 - facing) ** 3)
                red += palette[m, 0] * diffuse * (1 - 0.5 * fresnel) + 255 * around * fresnel
                green += palette[m, 1] * diffuse * (1 - 0.5 * fresnel) + 255 * around * fresnel
                blue += palette[m, 2] * diffuse * (1 - 0.5 * fresnel) + 255 * around * fresnel
                count += 1
            if count:
                colour[y, x, 0] = red / count
                colour[y, x, 1] = green / count
                colour[y, x, 2] = blue / count
                colour[y, x, 3] = count / 4


def shade(
    normal: np.ndarray,
    material: np.ndarray,
    palette: np.ndarray,
    gloss: np.ndarray,
    view: np.ndarray,
    light: np.ndarray,
) -> np.ndarray:
    """Light what `rasterise` drew, and average 2x2 samples to a pixel.

    Args:
        normal: (2H, 2W, 3) float32; material: (2H, 2W) uint8; from `rasterise`.
        palette: (M, 3) float32 colour of each material, 0..255; gloss: (M,) float32 how much it mirrors, 0..1.
        view, light: (3,) float64 unit vectors towards the camera and the lamp, in the space of the normals.

    Returns:
        (H, W, 4) float32: colour 0..255 (above where it shines), mean over the covered samples, and coverage 0..1.

    Raises:
        ValueError: the picture has an odd side, or a material lacks a colour.
    """
    height, width = material.shape
    if height % 2 or width % 2:
        raise ValueError(f"samples come in pairs; {height}x{width} has an odd side")
    if material.max() >= len(palette) or len(gloss) != len(palette):
        raise ValueError(f"material {material.max()} has no colour or gloss")
    colour = np.zeros((height // 2, width // 2, 4), np.float32)
    _shade(normal, material, palette, gloss, view, light, colour)
    return colour


@compiled
def _compose(
    background: Array, floor: Array, colour: Array, top: int, left: int, noise: Array, ny: int, nx: int, out: Array
) -> None:
    height, width = out.shape[:2]
    tile = noise.shape[0]
    half, most, least = np.float32(0.5), np.float32(255), np.float32(0)
    for y in range(height):
        row = noise[(y + ny) % tile]
        for x in range(width):
            grain = row[(x + nx) % tile]
            stays = floor[y, x, 3]
            for k in range(3):
                value = background[y, x, k] * stays + floor[y, x, k] + grain[k]
                out[y, x, k] = np.uint8(min(most, max(least, value + half)))
    for y in range(max(0, top), min(height, top + colour.shape[0])):
        row = noise[(y + ny) % tile]
        for x in range(max(0, left), min(width, left + colour.shape[1])):
            coverage = colour[y - top, x - left, 3]
            if coverage > 0:
                grain = row[(x + nx) % tile]
                stays = floor[y, x, 3]
                for k in range(3):
                    value = background[y, x, k] * stays + floor[y, x, k]
                    value += coverage * (colour[y - top, x - left, k] - value) + grain[k]
                    out[y, x, k] = np.uint8(min(most, max(least, value + half)))


def compose(
    background: np.ndarray,
    floor: np.ndarray,
    colour: np.ndarray,
    at: tuple[int, int],
    noise: np.ndarray,
    shift: tuple[int, int],
) -> np.ndarray:
    """Lay a car over its background and add sensor noise.

    Args:
        background: (H, W, 3) float32, 0..255.
        floor: (H, W, 4) float32: colour added to the background, and the share of the background that stays.
        colour: (h, w, 4) float32 from `shade`, its upper left corner at pixel `at` (y, x) of the background.
        noise: (S, S, 3) float32, repeated over the picture from `shift` (y, x) on.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: shapes or types do not fit.
    """
    if floor.shape != (*background.shape[:2], 4) or background.shape[2:] != (3,) or colour.shape[2:] != (4,):
        raise ValueError(f"background {background.shape}, floor {floor.shape} and colour {colour.shape} do not fit")
    if any(array.dtype != np.float32 for array in (background, floor, colour, noise)):
        raise ValueError("background, floor, colour and noise are float32")
    out = np.empty(background.shape, np.uint8)
    _compose(background, floor, colour, at[0], at[1], noise, shift[0], shift[1], out)
    return out
