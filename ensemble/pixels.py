"""Boosted pixels: near the boundary, trees decide by the networks' logits and the picture at full size.

All networks see the same reduced picture, and err alike. Where their combined logits are near 0, trees see what they do
not: the picture at full size around the pixel, beside the logits. Elsewhere the logits stay as they are.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from competition import Size
from ensemble.blend_file import PIXELS_VOTE
from ensemble.trees import Trees
from ensemble.voting import LINEAR
from kernels.boundary_pixels import feature_names, pixel_features
from kernels.smoothing import smoothed
from models.frame import Frame

NAME = PIXELS_VOTE


def full_frame(full: Size) -> Frame:
    """The frame of an image that keeps all its pixels."""
    return Frame(full, "pad")


def step_of(frames: Sequence[Frame], full: Size) -> float:
    """Pixels of the full frame that one pixel of the finest network covers; at least 1."""
    areas = [math.prod(full) / math.prod(frame.size) for frame in frames if frame.fit == "resize"]
    if len(areas) < len(frames):
        return 1.0
    return max(1.0, math.sqrt(min(areas)))


@dataclass(frozen=True)
class Band:
    """The pixels of one image that trees decide.

    Attributes:
        logits: (H, W) float32: the combined logits.
        rows, columns: (P,) int64: where they are within the band's width of 0.
        features: (P, F) float32, as `kernels.boundary_pixels.feature_names` lists them.
    """

    logits: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    features: np.ndarray

    def within(self, width: float) -> Band:
        """The part of it that is narrower: pixels below `width` in absolute value."""
        inside = np.abs(self.features[:, 0]) < np.float32(width)
        if inside.all():
            return self
        return Band(self.logits, self.rows[inside], self.columns[inside], self.features[inside])

    def decided_by(self, trees: Trees) -> np.ndarray:
        """(H, W) float32: the trees' logits within the band, the combined ones elsewhere.

        Trees look at each pixel by itself, and a boundary is smooth: what they say of its neighbours counts too.
        """
        decided = self.logits.copy()
        said = trees.logits(self.features)
        decided[self.rows, self.columns] = smoothed(said, self.rows, self.columns, decided.shape)
        return decided


def band_of(
    planes: Sequence[np.ndarray],
    frames: Sequence[Frame],
    weights: Sequence[float],
    full: Size,
    image: np.ndarray,
    *,
    width: float,
    trained_on: Size,
    some: int = 0,
    seed: Sequence[int] = (),
) -> Band:
    """What trees decide on in one image.

    Args:
        planes, frames, weights: as `ensemble.voting.Combination` takes them.
        full: (H, W) of the frame.
        image: (H, W, C) uint8.
        width: of the band, in logits: pixels below it in absolute value.
        trained_on: (H, W) of the images that the trees are of.
        some: take at most so many of the pixels, drawn evenly; 0 takes all.
        seed: of the draw.
    """
    logits = np.ascontiguousarray(LINEAR(planes, frames, weights, full))
    flat = np.flatnonzero(np.abs(logits) < np.float32(width))
    if some and len(flat) > some:
        flat = np.sort(np.random.default_rng(list(seed)).choice(flat, some, replace=False))
    rows, columns = np.divmod(flat, full[1])
    # one network's own logits are the combined ones
    several = len(planes) if len(planes) > 1 else 0
    own = np.empty((several, *full), np.float32)
    for m in range(several):
        own[m] = frames[m].invert(planes[m], full)
    features = pixel_features(
        logits,
        own,
        image,
        rows,
        columns,
        step_px=step_of(frames, full),
        unit_px=math.sqrt(math.prod(full) / math.prod(trained_on)),
    )
    return Band(logits, rows, columns, features)


def names_of_features(networks: int, channels: int = 3) -> list[str]:
    """The features of a pixel beside so many networks; their groups stand before the colon."""
    return feature_names(networks if networks > 1 else 0, channels)


@dataclass(frozen=True)
class BoostedPixels:
    """A fitted `ensemble.voting.Combination`; pickles to workers.

    Attributes:
        trees: they answer with a logit.
        weights: of the networks in the combined logits.
        width: of the band, in logits.
        trained_on: (H, W) of the images that it was fitted on.
    """

    trees: Trees
    weights: tuple[float, ...]
    width: float
    trained_on: Size

    @property
    def label(self) -> str:
        """Its name and the digest of what it has learned."""
        return f"{NAME} {self.digest()}"

    def digest(self) -> str:
        """16 hex digits that identify what it does."""
        facts = f"{self.trees.digest()} {self.weights} {self.width} {self.trained_on}"
        return hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()

    def image_frame(self, frames: Sequence[Frame], full: Size) -> Frame:
        """All pixels of the image."""
        return full_frame(full)

    def __call__(
        self,
        planes: Sequence[np.ndarray],
        frames: Sequence[Frame],
        weights: Sequence[float],
        full: Size,
        image: np.ndarray | None = None,
    ) -> np.ndarray:
        """Full-size logits, (H, W) float32, foreground above 0: the trees' within the band, else the networks'.

        Args:
            planes, frames: of the networks it was fitted on, in their order.
            weights: not used, as it has its own.
            full: (H, W) of the frame.
            image: (H, W, C) uint8 in `image_frame`.

        Raises:
            ValueError: the image is not given.
        """
        if image is None:
            raise ValueError("boosted pixels need the image")
        return self.band(planes, frames, full, image).decided_by(self.trees)

    def band_key(self) -> tuple[object, ...]:
        """Equal for those to which a pixel of an image looks the same, whatever their width."""
        return self.weights, self.trained_on

    def band(self, planes: Sequence[np.ndarray], frames: Sequence[Frame], full: Size, image: np.ndarray) -> Band:
        """What the trees decide on in an image; arguments as of a call."""
        return band_of(planes, frames, self.weights, full, image, width=self.width, trained_on=self.trained_on)
