"""The studio: wall with letters, floor with turntable, camera; and one picture of a car in it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from competition import Size
from kernels.raster import FAR, compose, rasterise, shade
from studio.mesh import Mesh

WORD = "STUDIO"
VIEWS = 16
_NOISE_TILE_PX = 257
_WALL_M = 3.4


@dataclass(frozen=True)
class Camera:
    """A pinhole camera before the turntable. Metres and pixels."""

    distance: float
    height: float
    focal_px: float
    centre_y_px: float
    pitch: float

    def project(self, points: np.ndarray, size: Size) -> np.ndarray:
        """(P, 3) points (x right, y away, z up, origin on the turntable's middle) to (P, 3): x px, y px, depth m."""
        y, z = points[:, 1] + self.distance, points[:, 2] - self.height
        depth = y * np.cos(self.pitch) - z * np.sin(self.pitch)
        up = y * np.sin(self.pitch) + z * np.cos(self.pitch)
        safe = np.maximum(depth, 0.05)
        x_px = 0.5 * (size[1] - 1) + self.focal_px * points[:, 0] / safe
        y_px = self.centre_y_px - self.focal_px * up / safe
        return np.stack([x_px, y_px, depth], 1)


def draw_camera(rng: np.random.Generator, size: Size) -> Camera:
    """A camera a little different from car to car."""
    return Camera(
        distance=rng.uniform(6.6, 7.0),
        height=rng.uniform(1.55, 1.8),
        focal_px=size[1] * rng.uniform(1.0, 1.07),
        centre_y_px=size[0] * rng.uniform(0.47, 0.51),
        pitch=rng.uniform(0.085, 0.11),
    )


def _ground(camera: Camera, size: Size, radius: float, count: int = 181) -> np.ndarray:
    """(count, 2) pixels of a circle on the floor around the turntable's middle."""
    angle = np.linspace(0, 2 * np.pi, count)
    circle = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(count)], 1)
    return camera.project(circle, size)[:, :2]


def background(camera: Camera, rng: np.random.Generator, size: Size) -> np.ndarray:
    """The empty studio: (H, W, 3) float32 RGB, 0..255."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    horizon = float(camera.project(np.array([[0.0, _WALL_M, 0.0]]), size)[0, 1])
    # the wall curves into the floor, and is bent around the table
    edge = horizon + 60 * ((x - width / 2) / (width / 2)) ** 2 * rng.uniform(0.6, 1.2)
    warm = np.array([1.0, 0.995, 0.985] if rng.random() < 0.6 else [0.985, 0.995, 1.0], np.float32)
    wall = rng.uniform(222, 240) + 10 * np.cos((x - width / 2) / width * 2.4) - 10 * (y / height)
    floor = rng.uniform(150, 182) + 26 * ((y - edge) / (height - edge)).clip(0, 1) ** 1.5
    share = 1 / (1 + np.exp(-((y - edge) / rng.uniform(4, 9)).clip(-30, 30)))
    picture = (wall * (1 - share) + floor * share)[..., None] * warm
    letters = np.zeros(size, np.uint8)
    scale = width / 1918 * rng.uniform(7.6, 8.4)
    thick = int(30 * width / 1918)
    # set wide, so that letters stand beside every car and its roof line crosses them
    pitch = width / 1918 * rng.uniform(270, 300)
    left = (width - pitch * (len(WORD) - 1)) / 2 + rng.uniform(-60, 60) * width / 1918
    base = int(horizon - 0.02 * height - rng.integers(0, 50))
    for i, letter in enumerate(WORD):
        letter_width = cv2.getTextSize(letter, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)[0][0]
        at = (int(left + i * pitch - letter_width / 2), base)
        cv2.putText(letters, letter, at, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
    ink = (cv2.GaussianBlur(letters, (0, 0), 1.2).astype(np.float32) / 255)[..., None]
    picture = picture * (1 - ink) + rng.uniform(58, 84) * ink
    table = np.zeros(size, np.uint8)
    disc = np.rint(_ground(camera, size, rng.uniform(2.95, 3.15)) * 8).astype(np.int32)
    cv2.fillPoly(table, [disc], 255, cv2.LINE_AA, shift=3)
    picture -= (cv2.GaussianBlur(table, (0, 0), 2).astype(np.float32) / 255 * rng.uniform(4, 12))[..., None]
    ring = np.zeros(size, np.uint8)
    cv2.polylines(ring, [disc], True, 255, 3, cv2.LINE_AA, shift=3)
    picture -= (ring.astype(np.float32) / 255 * rng.uniform(30, 60))[..., None]
    for _ in range(3):  # stains and seams of the floor
        a, b = rng.uniform(-4, 4, 2), rng.uniform(-4, 4, 2)
        ends = camera.project(np.array([[a[0], abs(a[1]) - 3, 0.0], [b[0], abs(b[1]) - 3, 0.0]]), size)[:, :2]
        seam = np.zeros(size, np.uint8)
        first, second = (tuple(int(v) for v in p.clip(-4000, 6000)) for p in ends)
        cv2.line(seam, first, second, 255, 2, cv2.LINE_AA)
        picture -= (seam.astype(np.float32) / 255 * share * 7)[..., None]
    vignette = 1 - rng.uniform(0.08, 0.16) * (((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2) * 2)
    picture *= vignette[..., None]
    return np.ascontiguousarray(picture.clip(0, 255), np.float32)


def noise_tile(rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) float32 sensor noise: mostly luminance, a little colour, slightly blurred by the lens's Bayer grid."""
    side = _NOISE_TILE_PX
    grain = rng.normal(0, 1.4, (side, side, 1)) + rng.normal(0, 0.6, (side, side, 3))
    return np.ascontiguousarray(cv2.GaussianBlur(grain.astype(np.float32), (0, 0), 0.6))


def _turned(points: np.ndarray, view: int) -> np.ndarray:
    """The car's points on the turntable at a view, 1..16; view 1 shows its front."""
    angle = -np.pi / 2 - 2 * np.pi * (view - 1) / VIEWS
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])


def _floor(camera: Camera, points: np.ndarray, mesh: Mesh, colours: np.ndarray, size: Size) -> np.ndarray:
    """What the car does to the floor: its soft contact shadow and a faint, blurred mirror image.

    Returns:
        (H, W, 4) float32: colour to add (0..255), and the share of the background that stays. Both are smooth, and
        made at a quarter of the size.
    """
    quarter = (size[0] // 4, size[1] // 4)
    flat = points[points[:, 2] < 0.75] * np.array([1.0, 1.0, 0.0])
    outline = cv2.convexHull((camera.project(flat, size)[:, :2] / 4).astype(np.float32)).astype(np.int32)
    dark = np.zeros(quarter, np.float32)
    cv2.fillConvexPoly(dark, outline, 1.0)
    dark = 0.42 * cv2.GaussianBlur(dark, (0, 0), 4) + 0.22 * cv2.GaussianBlur(dark, (0, 0), 16)
    below = camera.project(points * np.array([1.0, 1.0, -1.0]), size)
    below[:, :2] /= 4
    material = rasterise(below, mesh.normals, mesh.triangles, mesh.materials, quarter)[2]
    faint = cv2.GaussianBlur((material > 0).astype(np.float32), (0, 0), 2.5) * 0.10
    layer = np.empty((*quarter, 4), np.float32)
    layer[..., :3] = cv2.GaussianBlur(colours[material], (0, 0), 2.5) * faint[..., None]
    layer[..., 3] = (1 - dark) * (1 - faint)
    return cv2.resize(layer, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def picture(
    mesh: Mesh,
    view: int,
    camera: Camera,
    empty: np.ndarray,
    palette: tuple[np.ndarray, np.ndarray],
    noise: np.ndarray,
    rng: np.random.Generator,
    *,
    with_depth: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Photograph a car.

    Args:
        mesh: the car.
        view: 1..16, the turntable's position.
        camera, empty, noise: of this car's session.
        palette: colours and gloss of the materials.
        rng: of this picture.
        with_depth: return depth too.

    Returns:
        image (H, W, 3) uint8 RGB; mask (H, W) bool, where the car covers more than half a pixel; depth (H, W) float32
        in metres along the optical axis, the mean over a pixel's samples on the car, 0 where the mask is not, or None.
    """
    size: Size = (empty.shape[0], empty.shape[1])
    points = _turned(mesh.points, view)
    normals = _turned(mesh.normals.astype(np.float64), view).astype(np.float32)
    pixels = camera.project(points, size)
    # the car's own rectangle, in whole pixels
    low = np.maximum(np.floor(pixels[:, :2].min(0)).astype(int) - 2, 0)
    high = np.minimum(np.ceil(pixels[:, :2].max(0)).astype(int) + 3, (size[1], size[0]))
    samples = pixels.copy()
    # two samples a pixel each way, at a quarter and three quarters of it
    samples[:, :2] = (pixels[:, :2] - low) * 2 + 0.5
    box_size = (2 * int(high[1] - low[1]), 2 * int(high[0] - low[0]))
    depth, normal, material = rasterise(samples, normals, mesh.triangles, mesh.materials, box_size)
    towards = np.array([0.0, -camera.distance, camera.height - 0.7])
    towards /= np.linalg.norm(towards)
    light = np.array([-0.35, -0.35, 0.87])
    colour = shade(normal, material, *palette, towards, light)
    # a lens that is not quite sharp; at the outline the colours of the car alone count
    soft = cv2.GaussianBlur(colour, (0, 0), 0.5)
    full = colour[..., 3] == 1
    cv2.copyTo(soft, full.view(np.uint8), colour)
    colour[..., 3][full] = 1
    floor = _floor(camera, points, mesh, palette[0], size)
    shift = (int(rng.integers(_NOISE_TILE_PX)), int(rng.integers(_NOISE_TILE_PX)))
    image = compose(empty, floor, colour, (int(low[1]), int(low[0])), noise, shift)
    mask = np.zeros(size, bool)
    inside = (slice(low[1], high[1]), slice(low[0], high[0]))
    mask[inside] = colour[..., 3] > 0.5
    if not with_depth:
        return image, mask, None
    hit = depth < FAR
    blocks = (colour.shape[0], 2, colour.shape[1], 2)
    total = np.where(hit, depth, 0).reshape(blocks).sum((1, 3))
    far = np.zeros(size, np.float32)
    far[inside] = np.where(mask[inside], total / np.maximum(hit.reshape(blocks).sum((1, 3)), 1), 0)
    return image, mask, far
