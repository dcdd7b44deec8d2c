"""`python -m studio.composites`: the embedded composites: scenes, and things to put into them, with their true depth.

Backgrounds are a ground plane with boxes under a sky; foregrounds are cars and simple bodies with soft edges. Depth is
stored as nearness, 255 where something is `NEAR_M` metres away or less and falling with its reciprocal to 0 far away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import joblib
import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

import atomic
from command_line import UserError, program
from competition import COMPETITIONS, Size
from folder_lock import fill
from json_file import Schema
from kernels.raster import FAR, rasterise, shade
from program_flags import Positive, Processes, Seed
from studio.cars import build, draw_car, palette
from studio.mesh import Mesh, box, ellipsoid, join, rod
from studio.scene import Camera

BACKGROUNDS_DIR, FOREGROUNDS_DIR, DEPTH = "bg", "fg", "_depth"
# written last: its existence means the folder is complete
PARAMETERS_FILE = "parameters.json"
_PARAMETERS = Schema(dict[str, Any], "remove the folder and render it again")
# what decides the pictures, beside the parameters: raise it when they change
_VERSION = 1
NEAR_M = 2.0
SIZE: Size = COMPETITIONS["composites"].size
FOREGROUND_PX = 96
_JPEG_QUALITY = 95
_MATERIALS = 12
_LIGHT = np.array([-0.45, -0.35, 0.82])


def _near(depth_m: np.ndarray) -> np.ndarray:
    """Nearness 0..255 of depths in metres, float."""
    return 255 * np.minimum(NEAR_M / depth_m, 1)


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random colours and a little gloss for all materials."""
    colours = rng.uniform(20, 240, (_MATERIALS, 3)).astype(np.float32)
    return colours, rng.uniform(0, 0.2, _MATERIALS).astype(np.float32)


def _texture(rng: np.random.Generator, across: np.ndarray, away: np.ndarray) -> np.ndarray:
    """A ground's texture by its coordinates in metres, about -1..1: tiles or lanes, and blotches."""
    width = rng.uniform(0.8, 2.5)
    kind = rng.integers(3)
    lines = np.sin(2 * np.pi * across / width)
    if kind == 0:
        lines = np.sign(lines * np.sin(2 * np.pi * away / width))
    elif kind == 1:
        lines = np.sign(np.abs(lines) - 0.9) * 0.5
    blotches = sum(
        np.sin(across * rng.uniform(0.2, 1.5) + away * rng.uniform(0.1, 0.8) + rng.uniform(0, 6)) for _ in range(4)
    )
    # what is finer than a pixel is grey
    fine = np.clip(12 / np.maximum(away, 1), 0, 1)
    return (0.6 * lines * fine + 0.12 * blotches).astype(np.float32)


def _boxes(rng: np.random.Generator) -> Mesh | None:
    parts = []
    for _ in range(int(rng.integers(2, 9))):
        y = rng.uniform(5, 30)
        x = rng.uniform(-0.75, 0.75) * y
        w, d, h = rng.uniform(0.5, 5), rng.uniform(0.5, 5), rng.uniform(0.4, 7)
        parts.append(box((x - w / 2, y, 0.0), (x + w / 2, y + d, h), int(rng.integers(1, _MATERIALS))))
    return join(parts) if parts else None


def background(rng: np.random.Generator, size: Size = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """A scene: (H, W, 3) uint8 RGB and its nearness (H, W) uint8."""
    height, width = size
    horizon = rng.uniform(0.25, 0.5) * height
    camera = Camera(0.0, rng.uniform(1.3, 1.9), width * rng.uniform(0.85, 1.15), horizon, 0.0)
    # two samples a pixel each way
    rows, columns = (np.arange(2 * side, dtype=np.float32) / 2 - 0.25 for side in size)
    below = np.maximum(rows - horizon, 1e-3)[:, None]
    away = camera.focal_px * camera.height / below
    across = (columns - (width - 1) / 2)[None, :] * away / camera.focal_px
    ground = np.broadcast_to(rows[:, None] > horizon, across.shape)
    away = np.broadcast_to(away, across.shape)
    soil, haze = rng.uniform(40, 200, 3).astype(np.float32), rng.uniform(150, 240, 3).astype(np.float32)
    top = np.clip(haze - rng.uniform(20, 120, 3) * np.array([1.0, 0.7, 0.3]), 0, 255).astype(np.float32)
    shade_of = (1 + 0.22 * _texture(rng, across, away))[..., None]
    mist = np.clip(1 - np.exp(-away / 60), 0, 1)[..., None].astype(np.float32)
    up = np.clip((horizon - rows) / max(horizon, 1), 0, 1)[:, None, None]
    sky = np.broadcast_to(haze + (top - haze) * up, (*across.shape, 3))
    picture = np.where(ground[..., None], soil * shade_of * (1 - mist) + haze * mist, sky)
    near = np.where(ground, _near(away), 0).astype(np.float32)
    mesh = _boxes(rng)
    if mesh is not None:
        points = camera.project(mesh.points, size)
        points[:, :2] = points[:, :2] * 2 + 0.5
        depth, normal, material = rasterise(
            points, mesh.normals, mesh.triangles, mesh.materials, (2 * height, 2 * width)
        )
        colour = shade(normal, material, *_colours(rng), np.array([0.0, -1.0, 0.0]), _LIGHT)
        hit = depth < FAR
        near[hit] = _near(depth[hit])
        fog = np.where(hit, 1 - np.exp(-depth / 60), 0).reshape(height, 2, width, 2).mean((1, 3))[..., None]
        cover = colour[..., 3:]
        reduced = picture.reshape(height, 2, width, 2, 3).mean((1, 3))
        reduced = reduced * (1 - cover) + (colour[..., :3] * (1 - fog) + haze * fog) * cover
    else:
        reduced = picture.reshape(height, 2, width, 2, 3).mean((1, 3))
    noisy = reduced + rng.normal(0, 2.5, (height, width, 3))
    return (
        np.clip(noisy, 0, 255).astype(np.uint8),
        np.rint(near.reshape(height, 2, width, 2).mean((1, 3))).astype(np.uint8),
    )


def _figure(rng: np.random.Generator) -> Mesh:
    """Somebody: legs, a trunk, arms and a head, about 1.7 m."""
    tall = rng.uniform(0.9, 1.1)
    stride = rng.uniform(0.05, 0.25)
    coat, skin, trousers = (int(v) for v in rng.integers(1, _MATERIALS, 3))

    def at(x: float, y: float, z: float) -> np.ndarray:
        return tall * np.array([x, y, z])

    parts = [rod(at(side * stride, side * 0.1, 0.0), at(0, side * 0.09, 0.9), 0.1, trousers) for side in (1, -1)]
    arm = rng.uniform(0.2, 0.7)
    parts += [
        rod(at(0, side * 0.22, 1.4), at(side * 0.1, side * (0.22 + arm / 2), 0.85), 0.06, coat) for side in (1, -1)
    ]
    parts.append(ellipsoid((0.0, 0.0, 1.18 * tall), (0.16 * tall, 0.25 * tall, 0.36 * tall), coat))
    parts.append(ellipsoid((0.0, 0.0, 1.62 * tall), (0.11 * tall, 0.1 * tall, 0.14 * tall), skin))
    return join(parts)


def _animal(rng: np.random.Generator) -> Mesh:
    """Something on four legs, about a metre long."""
    fur, other = (int(v) for v in rng.integers(1, _MATERIALS, 2))
    length, leg = rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.6)
    parts = [ellipsoid((0.0, 0.0, leg + 0.2), (length, 0.2, 0.2), fur)]
    for x in (-0.7 * length, 0.7 * length):
        parts += [rod(np.array([x, y, 0.0]), np.array([x, y, leg + 0.15]), 0.06, fur) for y in (-0.12, 0.12)]
    parts.append(ellipsoid((length + 0.1, 0.0, leg + 0.45), (0.2, 0.14, 0.16), other))
    parts.append(rod(np.array([-length, 0.0, leg + 0.25]), np.array([-length - 0.4, 0.1, leg + 0.6]), 0.05, fur))
    return join(parts)


def _tree(rng: np.random.Generator) -> Mesh:
    """A trunk with some crowns."""
    trunk, leaves = (int(v) for v in rng.integers(1, _MATERIALS, 2))
    tall = rng.uniform(1.0, 2.0)
    parts = [rod(np.zeros(3), np.array([0.05, 0.0, tall]), 0.12, trunk)]
    for _ in range(int(rng.integers(1, 5))):
        centre = (rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), tall + rng.uniform(-0.2, 0.6))
        parts.append(ellipsoid(centre, tuple(rng.uniform(0.3, 0.7, 3)), leaves))  # type: ignore[arg-type]
    return join(parts)


def _furniture(rng: np.random.Generator) -> Mesh:
    """A table or a chair."""
    wood, seat = (int(v) for v in rng.integers(1, _MATERIALS, 2))
    w, d, h = rng.uniform(0.3, 0.8), rng.uniform(0.25, 0.6), rng.uniform(0.45, 0.9)
    parts = [box((-w, -d, h), (w, d, h + 0.08), seat)]
    parts += [
        box((x - 0.04, y - 0.04, 0.0), (x + 0.04, y + 0.04, h), wood)
        for x in (-w + 0.05, w - 0.05)
        for y in (-d + 0.05, d - 0.05)
    ]
    if rng.random() < 0.5:
        parts.append(box((-w, d - 0.06, h), (w, d, h + rng.uniform(0.4, 0.8)), wood))
    return join(parts)


def _pile(rng: np.random.Generator) -> Mesh:
    """Boxes and balls, each on the one before."""
    parts, z = [], 0.0
    for _ in range(int(rng.integers(1, 5))):
        r = rng.uniform(0.2, 0.6)
        x, y, material = rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15), int(rng.integers(1, _MATERIALS))
        high = r * rng.uniform(0.6, 1.3)
        if rng.random() < 0.5:
            parts.append(box((x - r, y - r, z), (x + r, y + r, z + 2 * high), material))
        else:
            parts.append(ellipsoid((x, y, z + high), (r, r, high), material))
        z += 1.9 * high
    return join(parts)


BODIES: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "figure": _figure,
    "animal": _animal,
    "tree": _tree,
    "furniture": _furniture,
    "pile": _pile,
}
# of the foregrounds
_CARS = 0.35


def foreground(rng: np.random.Generator, limit_px: int = FOREGROUND_PX) -> tuple[np.ndarray, np.ndarray]:
    """A thing on its own: (h, w, 4) uint8 RGB and alpha, its longer side at most `limit_px`, and its nearness (h, w)
    uint8, 0 where it is not."""
    if rng.random() < _CARS:
        car = draw_car(rng)
        mesh, colours = build(car), palette(car)
    else:
        mesh, colours = BODIES[str(rng.choice(list(BODIES)))](rng), _colours(rng)
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
    points, normals = mesh.points @ turn, (mesh.normals.astype(np.float64) @ turn).astype(np.float32)
    span = float(np.ptp(points, axis=0).max())
    # so far away that it fills its picture
    camera = Camera(rng.uniform(1.6, 2.2) * span + 1, rng.uniform(1.3, 1.9), 1000.0, 0.0, 0.06)
    pixels = camera.project(points, (1, 1))
    reach = np.ptp(pixels[:, :2], axis=0)
    scale = rng.uniform(0.7, 1.0) * (limit_px - 4) / reach.max()
    low = pixels[:, :2].min(0)
    w, h = (int(np.ceil(side * scale)) + 4 for side in reach)
    samples = pixels.copy()
    samples[:, :2] = ((pixels[:, :2] - low) * scale + 2) * 2 + 0.5
    depth, normal, material = rasterise(samples, normals, mesh.triangles, mesh.materials, (2 * h, 2 * w))
    towards = np.array([0.0, -camera.distance, camera.height - 0.7])
    colour = shade(normal, material, *colours, towards / np.linalg.norm(towards), _LIGHT)
    hit = depth < FAR
    near = np.where(hit, _near(depth), 0).reshape(h, 2, w, 2).sum((1, 3))
    near = near / np.maximum(hit.reshape(h, 2, w, 2).sum((1, 3)), 1)
    picture = np.dstack([np.clip(colour[..., :3], 0, 255), 255 * colour[..., 3]])
    # a quarter of a pixel is a step; a lens is smoother
    picture[..., 3] = np.minimum(cv2.GaussianBlur(picture[..., 3], (0, 0), 0.5), 255 * (picture[..., 3] > 0))
    return np.rint(picture).astype(np.uint8), np.rint(near).astype(np.uint8)


@dataclass(frozen=True)
class _Task:
    out: Path
    seed: int
    kind: str
    number: int


def _write(path: Path, picture: np.ndarray) -> None:
    with atomic.replacing(path, durable=False) as temporary:
        options = {"quality": _JPEG_QUALITY} if path.suffix == ".jpg" else {}
        Image.fromarray(picture).save(temporary, **options)  # type: ignore[arg-type]


def _render(task: _Task) -> None:
    """Render one part and its depth, unless both are there."""
    cv2.setNumThreads(1)
    under = task.kind == BACKGROUNDS_DIR
    name = f"{task.kind}{task.number:03}"
    image = task.out / task.kind / f"{name}{'.jpg' if under else '.png'}"
    depth = task.out / f"{task.kind}{DEPTH}" / f"{name}.png"
    if image.exists() and depth.exists():
        return
    rng = np.random.default_rng((task.seed, int(under), task.number))
    picture, near = background(rng) if under else foreground(rng)
    _write(depth, near)
    _write(image, picture)


def render_parts(out: Path, *, backgrounds: int, foregrounds: int, seed: int = 0, jobs: int = -1) -> bool:
    """Render bg/, fg/, bg_depth/ and fg_depth/; the same parameters give the same bytes, whatever `jobs`.

    Args:
        out: the folder.
        backgrounds, foregrounds: how many of each, 2 .. 999.
        seed: of everything.
        jobs: processes, as joblib counts them.

    Returns:
        Whether anything had to be done.

    Raises:
        UserError: a number is out of range, or the folder holds other parts.
    """
    if not (2 <= backgrounds <= 999 and 2 <= foregrounds <= 999):
        raise UserError(f"{backgrounds} backgrounds and {foregrounds} foregrounds: ask for 2 to 999 of each.")
    parameters = {"backgrounds": backgrounds, "foregrounds": foregrounds, "seed": seed, "version": _VERSION}
    state = out / PARAMETERS_FILE
    if state.exists():
        if _PARAMETERS.read(state) != parameters:
            raise UserError(f"{out} was rendered with other parameters: remove the folder, or choose another --out.")
        return False
    if any((out / kind).is_dir() and not (out / f"{kind}{DEPTH}").is_dir() for kind in ("bg", "fg")):
        raise UserError(f"{out} holds other pictures: choose another --out.")
    tasks = [_Task(out, seed, BACKGROUNDS_DIR, n) for n in range(backgrounds)]
    tasks += [_Task(out, seed, FOREGROUNDS_DIR, n) for n in range(foregrounds)]
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    for _ in tqdm(parallel(map(joblib.delayed(_render), tasks)), "render", len(tasks), unit="part", disable=None):
        pass
    atomic.write_json(state, parameters)
    return True


@program
def main(
    out: Path = Path("data/composites"),
    backgrounds: Positive = 100,
    foregrounds: Positive = 100,
    seed: Seed = 0,
    jobs: Processes = -1,
) -> None:
    """Render the parts of the embedded composites, with their true depth.

    Args:
        out: the folder.
        backgrounds: scenes.
        foregrounds: cars and simple bodies.
        seed: of everything.
        jobs: processes, as joblib counts them.
    """
    fill(out)
    done = render_parts(out, backgrounds=backgrounds, foregrounds=foregrounds, seed=seed, jobs=jobs)
    what = f"{backgrounds} backgrounds and {foregrounds} foregrounds with depth, in {out}"
    print(f"rendered {what}" if done else f"{what}: already rendered")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
