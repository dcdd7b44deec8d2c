"""The obvious z-buffer: every sample asks every triangle."""

from __future__ import annotations

import numpy as np


def rasterise(
    points: np.ndarray, normals: np.ndarray, triangles: np.ndarray, materials: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, material and normal of each sample of `kernels.raster.rasterise`."""
    depth = np.full(size, 1e9)
    material = np.zeros(size, np.uint8)
    normal = np.zeros((*size, 3))
    for y in range(size[0]):
        for x in range(size[1]):
            for t, corners in enumerate(triangles):
                xy = points[corners, :2]
                system = np.vstack([xy.T, np.ones(3)])
                if abs(np.linalg.det(system)) < 1e-12:
                    continue
                share = np.linalg.solve(system, [x, y, 1])
                if (share < 0).any():
                    continue
                z = 1 / (share / points[corners, 2]).sum()
                if z < depth[y, x]:
                    depth[y, x], material[y, x] = z, materials[t]
                    normal[y, x] = share @ normals[corners]
    return depth, material, normal
