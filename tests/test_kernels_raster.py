"""The z-buffer and its shading against obvious versions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.raster import FAR, compose, rasterise, shade
from tests import naive_raster

SIZE = (24, 30)


def triangles_of(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    points = np.column_stack([
        rng.uniform(-8, SIZE[1] + 8, 3 * count), rng.uniform(-8, SIZE[0] + 8, 3 * count), rng.uniform(2, 9, 3 * count),
    ])  # fmt: skip
    normals = rng.normal(size=points.shape).astype(np.float32)
    return points, normals, np.arange(3 * count).reshape(count, 3), rng.integers(1, 5, count).astype(np.uint8)


@given(seed=st.integers(0, 10**6), count=st.integers(0, 6))
def test_rasterise_agrees_with_the_obvious_version(seed: int, count: int) -> None:
    scene = triangles_of(seed, count)
    depth, normal, material = rasterise(*scene, SIZE)
    wanted_depth, wanted_material, wanted_normal = naive_raster.rasterise(*scene, SIZE)
    np.testing.assert_array_equal(material, wanted_material)
    np.testing.assert_allclose(depth, wanted_depth, rtol=1e-5)
    np.testing.assert_allclose(normal, wanted_normal, rtol=1e-3, atol=1e-4)


def test_the_nearer_triangle_hides_the_farther_whatever_the_order() -> None:
    corners = np.array([[-50.0, -50.0], [400.0, -50.0], [-50.0, 400.0]])
    points = np.vstack([np.column_stack([corners, np.full(3, z)]) for z in (5.0, 3.0)])
    normals = np.zeros((6, 3), np.float32)
    for order in ([0, 1], [1, 0]):
        triangles = np.array([[0, 1, 2], [3, 4, 5]])[order]
        depth, _, material = rasterise(points, normals, triangles, np.array([1, 2], np.uint8)[order], SIZE)
        assert set(np.unique(material)) == {2}
        np.testing.assert_allclose(depth, 3.0)


def test_depth_is_right_in_perspective() -> None:
    # a plane z = 4 + x / 2 in space: on the screen its reciprocal is linear, not the depth itself
    def project(x: float, y: float) -> list[float]:
        z = 4 + x / 2
        return [10 * x / z + 15, 10 * y / z + 12, z]

    points = np.array([project(-4, -20), project(20, -20), project(-4, 20), project(20, 20)])
    depth, _, _ = rasterise(
        points, np.zeros((4, 3), np.float32), np.array([[0, 1, 2], [1, 3, 2]]), np.ones(2, np.uint8), SIZE
    )
    for column in range(2, SIZE[1]):
        # ray through the column: x / z = (column - 15) / 10
        slope = (column - 15) / 10
        assert depth[12, column] == pytest.approx(4 / (1 - slope / 2), rel=1e-5)


def test_a_triangle_behind_the_camera_is_not_drawn() -> None:
    points = np.array([[0.0, 0.0, -1.0], [20.0, 0.0, 5.0], [0.0, 20.0, 5.0]])
    depth, _, material = rasterise(
        points, np.zeros((3, 3), np.float32), np.array([[0, 1, 2]]), np.ones(1, np.uint8), SIZE
    )
    assert not material.any()
    assert (depth == FAR).all()


def test_coverage_is_the_share_of_covered_samples() -> None:
    material = np.array([[1, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]], np.uint8)
    normal = np.zeros((4, 4, 3), np.float32)
    normal[..., 2] = 1
    palette = np.array([[0, 0, 0], [100, 50, 25]], np.float32)
    up = np.array([0.0, 0.0, 1.0])
    colour = shade(normal, material, palette, np.zeros(2, np.float32), up, up)
    np.testing.assert_array_equal(colour[..., 3], [[0.25, 0.5], [1, 0.75]])
    # matt, lit from above and seen from above: all three parts of the light, whatever the coverage
    lit = colour[colour[..., 3] > 0][:, :3]
    np.testing.assert_allclose(lit, np.tile(palette[1] * 1.02, (4, 1)), rtol=1e-5)


def test_compose_lays_colour_over_the_floor_and_adds_noise_once() -> None:
    background = np.full((4, 5, 3), 100, np.float32)
    floor = np.zeros((4, 5, 4), np.float32)
    floor[..., 3] = 0.5
    floor[..., 0] = 7
    colour = np.zeros((2, 2, 4), np.float32)
    colour[0, 0] = (200, 200, 200, 1)
    colour[1, 1] = (200, 200, 200, 0.5)
    noise = np.zeros((3, 3, 3), np.float32)
    noise[..., 2] = 3
    image = compose(background, floor, colour, (1, 2), noise, (0, 0))
    assert image[0, 0].tolist() == [57, 50, 53]
    assert image[1, 2].tolist() == [200, 200, 203]
    assert image[2, 3].tolist() == [129, 125, 128]
    bright = compose(background * 3, floor + 1, colour, (1, 2), noise, (0, 0))
    assert bright.max() == 255
    # a car that leaves the picture is cut
    assert compose(background, floor, colour, (3, 4), noise, (0, 0))[3, 4].tolist() == [200, 200, 203]


def test_what_does_not_fit_is_refused() -> None:
    points, normals, triangles, materials = triangles_of(0, 2)
    with pytest.raises(ValueError, match="not there"):
        rasterise(points[:4], normals[:4], triangles, materials, SIZE)
    with pytest.raises(ValueError, match="as many materials"):
        rasterise(points, normals, triangles, materials[:1], SIZE)
    with pytest.raises(ValueError, match="do not fit"):
        rasterise(points, normals[:2], triangles, materials, SIZE)
    with pytest.raises(ValueError, match="odd side"):
        shade(
            np.zeros((3, 4, 3), np.float32), np.zeros((3, 4), np.uint8), np.zeros((1, 3)), np.zeros(1), *np.eye(3)[:2]
        )
    with pytest.raises(ValueError, match="do not fit"):
        background, floor, colour = (np.zeros((4, 4, c), np.float32) for c in (3, 3, 4))
        compose(background, floor, colour, (0, 0), np.zeros((1, 1, 3), np.float32), (0, 0))
