"""Triangle meshes: points, their normals, triangles and a material for each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# materials; 0 is nothing
PAINT, GLASS, TYRE, METAL, DARK, HEADLIGHT, TAILLIGHT, PLATE, PLASTIC, CHROME, FABRIC = range(1, 12)


@dataclass(frozen=True)
class Mesh:
    """points (P, 3) float64 in metres, normals (P, 3) float32, triangles (T, 3) int64, materials (T,) uint8.

    The car's frame: x forward, y to its left, z up, the origin on the ground below its middle.
    """

    points: np.ndarray
    normals: np.ndarray
    triangles: np.ndarray
    materials: np.ndarray


def join(meshes: list[Mesh]) -> Mesh:
    """One mesh of several."""
    offsets = np.cumsum([0, *(len(m.points) for m in meshes[:-1])])
    return Mesh(
        np.concatenate([m.points for m in meshes]),
        np.concatenate([m.normals for m in meshes]),
        np.concatenate([m.triangles + offset for m, offset in zip(meshes, offsets, strict=True)]),
        np.concatenate([m.materials for m in meshes]),
    )


def grid(points: np.ndarray, materials: np.ndarray | int) -> Mesh:
    """A mesh over a grid of points.

    Args:
        points: (U, V, 3); rows and columns are joined to their neighbours.
        materials: (U - 1, V - 1) material of each cell, or one for all.

    Returns:
        Two triangles a cell; normals from the grid's own tangents.
    """
    u, v = points.shape[:2]
    along, across = np.gradient(points, axis=0), np.gradient(points, axis=1)
    normals = np.cross(along, across)
    length = np.linalg.norm(normals, axis=2, keepdims=True)
    normals = np.where(length > 1e-12, normals / np.maximum(length, 1e-12), [0.0, 0.0, 1.0])
    index = np.arange(u * v).reshape(u, v)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    triangles = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], 2).reshape(-1, 3)
    cells = np.broadcast_to(np.asarray(materials, np.uint8), (u - 1, v - 1))
    return Mesh(
        points.reshape(-1, 3), normals.reshape(-1, 3).astype(np.float32), triangles, np.repeat(cells.ravel(), 2)
    )


def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float], material: int) -> Mesh:
    """A closed ellipsoid."""
    theta, phi = np.meshgrid(np.linspace(0, np.pi, 10), np.linspace(0, 2 * np.pi, 17), indexing="ij")
    sphere = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)
    return grid(sphere * np.array(radii) + np.array(centre), material)


def rod(start: np.ndarray, end: np.ndarray, radius: float, material: int) -> Mesh:
    """A round rod from `start` to `end` (3,), tapering to half its radius."""
    axis = (end - start) / np.linalg.norm(end - start)
    side = np.cross(axis, [0.3, 1.0, 0.2])
    side /= np.linalg.norm(side)
    other = np.cross(axis, side)
    angles = np.linspace(0, 2 * np.pi, 7)
    ring = np.cos(angles)[:, None] * side + np.sin(angles)[:, None] * other
    return grid(np.stack([start + radius * ring, end + 0.5 * radius * ring]), material)


def box(low: tuple[float, float, float], high: tuple[float, float, float], material: int) -> Mesh:
    """A box between two corners."""
    corners = np.array([low, high])
    faces = []
    for axis in range(3):
        first, second = [k for k in range(3) if k != axis]
        for side in (0, 1):
            face = np.empty((2, 2, 3))
            face[..., axis] = corners[side, axis]
            face[:, :, first] = corners[:, first][:, None]
            face[:, :, second] = corners[:, second][None, :]
            faces.append(grid(face, material))
    return join(faces)


def wheel(centre: tuple[float, float, float], radius: float, width: float, spokes: int, spoke_share: float) -> Mesh:
    """A wheel whose axle is along y, its face towards the sign of the centre's y.

    Between the spokes the dark brake and well are seen: they belong to the car, as in the real masks.
    """
    x, y, z = centre
    outward = 1.0 if y > 0 else -1.0
    angles = np.linspace(0, 2 * np.pi, 121)
    # from the inner edge over the tread to the rim's hub
    profile = [
        (0.90, -width), (0.98, -width * 0.9), (1.0, -width * 0.5), (0.985, -0.02), (0.93, 0.0), (0.80, 0.004),
        (0.715, 0.0), (0.70, -0.03), (0.62, -0.035), (0.50, -0.03), (0.36, -0.022), (0.24, -0.012), (0.17, -0.01),
        (0.0, -0.01),
    ]  # fmt: skip
    share, depth = np.array(profile).T
    points = np.empty((len(profile), len(angles), 3))
    points[..., 0] = x + radius * share[:, None] * np.cos(angles)
    points[..., 1] = y + outward * depth[:, None]
    points[..., 2] = z + radius * share[:, None] * np.sin(angles)
    middle = (angles[:-1] + angles[1:]) / 2
    on_spoke = (np.cos(spokes * middle) + 1) / 2 > 1 - spoke_share
    cells = np.full((len(profile) - 1, len(angles) - 1), TYRE)
    cells[6:8] = METAL
    cells[8:11] = np.where(on_spoke, METAL, DARK)
    cells[11:] = METAL
    return grid(points, cells)
