"""Composites of a foreground on a background, with mask and depth, by their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kernels.composite_grid import Grid
from kernels.paste import compose_into


def _pack(picture: np.ndarray, near: np.ndarray | None) -> np.ndarray:
    """A foreground as the loop reads it, 8 h w bytes: colour and its alpha, a byte for a byte; alpha; nearness."""
    alpha = picture[..., 3]
    near = np.zeros_like(alpha) if near is None else near
    each = picture[..., :3], np.repeat(alpha[..., None], 3, axis=2), alpha, near
    return np.concatenate([plane.ravel() for plane in each])


@dataclass(frozen=True)
class Composites:
    """Some composites.

    Attributes:
        images: (n, H, W, 3) uint8 RGB.
        alphas: (n, H, W) uint8, how much of each pixel is foreground, 255 for all.
        nears: (n, H, W) uint8 nearness, 0 far .. 255 near; None where there is no depth. The foreground keeps its
            relief and is raised, as a whole, until it hides nothing that is nearer than it: on ground that comes
            nearer downwards it stands where its foot is.
    """

    images: np.ndarray
    alphas: np.ndarray
    nears: np.ndarray | None


class Parts:
    """Backgrounds and foregrounds, checked once and laid out for pasting.

    Args:
        backgrounds: (B, H, W, 3) uint8 RGB; kept, not copied.
        foregrounds: each (h, w, 4) uint8 RGB and alpha, h <= H and w <= W.
        background_near, foreground_near: (B, H, W) and each (h, w) uint8 nearness, 0 far .. 255 near; None where
            there is no depth.

    Raises:
        ValueError: shapes or types do not fit.
    """

    def __init__(
        self,
        backgrounds: np.ndarray,
        foregrounds: Sequence[np.ndarray],
        background_near: np.ndarray | None = None,
        foreground_near: Sequence[np.ndarray] | None = None,
    ) -> None:
        if backgrounds.ndim != 4 or backgrounds.shape[3] != 3 or backgrounds.dtype != np.uint8:
            raise ValueError(f"backgrounds are (B, H, W, 3) uint8, not {backgrounds.shape} {backgrounds.dtype}")
        count, height, width = backgrounds.shape[:3]
        if not count or not foregrounds:
            raise ValueError("there is no background, or no foreground")
        for picture in foregrounds:
            if picture.ndim != 3 or picture.shape[2] != 4 or picture.dtype != np.uint8:
                raise ValueError(f"a foreground is (h, w, 4) uint8, not {picture.shape} {picture.dtype}")
            if picture.shape[0] > height or picture.shape[1] > width:
                raise ValueError(f"a foreground of {picture.shape[:2]} exceeds backgrounds of {height, width}")
        if (background_near is None) != (foreground_near is None):
            raise ValueError("depth is of backgrounds and foregrounds, or of neither")
        near: Sequence[np.ndarray | None] = [None] * len(foregrounds)
        far = np.empty((0, height, width), np.uint8)
        if background_near is not None and foreground_near is not None:
            near, far = foreground_near, background_near
            if far.shape != backgrounds.shape[:3] or len(near) != len(foregrounds):
                raise ValueError("there is one depth map a background and one a foreground")
            for picture, own in zip(foregrounds, foreground_near, strict=True):
                if own.shape != picture.shape[:2]:
                    raise ValueError(f"a depth map of {own.shape} does not fit a foreground of {picture.shape[:2]}")
            if any(maps.dtype != np.uint8 for maps in (far, *foreground_near)):
                raise ValueError("depth maps are uint8")
        self.size: tuple[int, int] = (height, width)
        self.backgrounds = np.ascontiguousarray(backgrounds)
        self.foregrounds = foregrounds
        self.background_near: np.ndarray | None = np.ascontiguousarray(far) if len(far) else None
        self.foreground_near = foreground_near
        # flat bytes, as the loops take them
        self._pictures = self.backgrounds.reshape(count, 3 * height * width)
        self._far = np.ascontiguousarray(far).reshape(len(far), height * width)
        # each as it is, and mirrored
        packed = [
            _pack(picture[:, ::step], None if own is None else own[:, ::step])
            for picture, own in zip(foregrounds, near, strict=True)
            for step in (1, -1)
        ]
        self._packed = np.concatenate(packed)
        self._offsets = np.cumsum([0, *(len(each) for each in packed)])
        self._sizes = np.array([picture.shape[:2] for picture in foregrounds], np.int64)

    @property
    def has_depth(self) -> bool:
        """Whether depth maps were given."""
        return self.background_near is not None

    def grid(self, *, positions: int = 20, mirrored: bool = True) -> Grid:
        """All composites of these parts."""
        return Grid(len(self.backgrounds), len(self.foregrounds), positions, mirrored)

    def compose(
        self, grid: Grid, seed: int, indices: Sequence[int] | np.ndarray, out: Composites | None = None
    ) -> Composites:
        """Some of the composites of a grid, in the order of `indices`.

        Args:
            grid: of these parts.
            seed: of the places, at least 0.
            indices: (n,) items of `grid`.
            out: is filled and returned, if given: the result of a call for as many.

        Raises:
            IndexError: an item that the grid does not have.
        """
        wanted = np.asarray(indices, np.int64)
        count, pixels = len(wanted), self.size[0] * self.size[1]
        if out is None:
            out = Composites(
                np.empty((count, *self.size, 3), np.uint8),
                np.empty((count, *self.size), np.uint8),
                np.empty((count, *self.size), np.uint8) if len(self._far) else None,
            )
        stray = compose_into(
            self._packed,
            self._offsets,
            self._sizes,
            self._pictures,
            self._far,
            self.size[1],
            grid.positions,
            1 + grid.mirrored,
            seed,
            wanted,
            out.images.reshape(count, 3 * pixels),
            out.alphas.reshape(count, pixels),
            self._far if out.nears is None else out.nears.reshape(count, pixels),
        )
        if stray >= 0:
            raise IndexError(f"item {wanted[stray]} of {len(grid)}")
        return out
