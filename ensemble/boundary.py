"""The boundary refiner: what it is, what it is given, and how it mends a blend's logits near their boundary.

Small U-Nets see the image and the blend's logits, at half of full resolution, in tiles that lie on the band around the
boundary of the blend's mask, and add to the logits there. Further from the boundary than `reach_px` nothing changes,
whatever they say. Untrained, what they add is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from competition import Size
from ensemble.band import Tile, band_of, cut, tile_size, tiles_on
from json_file import closed
from models.build import build, divisor
from models.frame import Frame
from models.precision import FLOAT32, Precision, autocast, for_prediction, native
from models.variant import IMAGENET_MEAN, IMAGENET_STD, Variant

NAME = "boundary"
# image, and the blend's logits
_PLANES = 4
# logits of this size become inputs of size 1
_SCALE = 4.0
# tiles that go through a network at a time: memory does not grow with the image
_AT_ONCE = 16


@closed
@dataclass(frozen=True)
class Boundary:
    """What a boundary refiner is.

    Attributes:
        full: (H, W) of the images that it learned from.
        size: (h, w) at which it sees an image.
        reach_px: of the band around the blend's boundary, in pixels of images of size `full`; in images of another
            size it is as wide as it is there for the networks.
        tile_px: side of the tiles, divisible by what the network needs.
        margin_px: that a tile sees around the part that its answer is taken for.
        widths: planes of the network's levels.
        limit: what logits are clipped at before the network sees them.
    """

    full: Size
    size: Size
    reach_px: float = 8.0
    tile_px: int = 96
    margin_px: int = 8
    widths: tuple[int, ...] = (16, 32, 64, 96)
    limit: float = 8.0

    @property
    def frame(self) -> Frame:
        """In which the network sees the image."""
        return Frame(self.size)

    def variant(self) -> Variant:
        """The network, as one of a tile."""
        return Variant(
            name=NAME,
            network="unet",
            size=tile_size(self.size, self.tile_px, 2 ** (len(self.widths) - 1)),
            recipe=NAME,
            options={"widths": self.widths, "zero": True},
            in_channels=_PLANES,
            mean=(*IMAGENET_MEAN, 0.0),
            std=(*IMAGENET_STD, 1.0),
            tta=(),
        )

    def allowed(self, mask: np.ndarray) -> np.ndarray:
        """Where it may change the logits of a mask, (H, W) bool, from the mask, (H, W) bool."""
        scale = min(side / own for side, own in zip(mask.shape, self.full, strict=True))
        return band_of(mask, self.reach_px * scale)

    def band(self, allowed: np.ndarray) -> np.ndarray:
        """The pixels of `size` that have part in where it may change logits, (h, w) bool."""
        return self.frame.apply_mask(allowed) > 0


def boundary_for(full: Size, *, reduction: float = 2.0, **more: object) -> Boundary:
    """The refiner of a competition's images of size `full`, which it sees `reduction` times smaller.

    >>> boundary_for((1280, 1918)).size
    (640, 959)
    """
    height, width = (max(1, round(side / reduction)) for side in full)
    return Boundary(full, (height, width), **more)  # type: ignore[arg-type]


def inputs_of(boundary: Boundary, image: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """What the network sees.

    Args:
        boundary: what the refiner is.
        image: (h, w, 3) uint8 RGB.
        coarse: (h, w) float32 logits of the blend, the mask where they are above 0.

    Returns:
        (4, h, w) float32.
    """
    planes = np.empty((_PLANES, *coarse.shape), np.float32)
    mean, std = (np.array(values, np.float32) * 255 for values in (IMAGENET_MEAN, IMAGENET_STD))
    planes[:3] = ((image - mean) / std).transpose(2, 0, 1)
    np.clip(coarse, -boundary.limit, boundary.limit, out=planes[3])
    planes[3] /= _SCALE
    return planes


@dataclass(frozen=True)
class BoundaryRefiner:
    """A stage after the blend (`ensemble.blend.Refiner`): the mean of what several networks add. Pickles to workers.

    Attributes:
        boundary: what it is.
        states: of its networks, one a fold: tensors by name.
        digest: of all that it has learned.
        precisions: that they were trained in, and predict in where the CPU has them; float32 where none are given.
    """

    boundary: Boundary
    states: Sequence[dict[str, torch.Tensor]]
    digest: str
    precisions: Sequence[Precision] = ()
    _networks: list[torch.nn.Module] = field(default_factory=list, repr=False, compare=False)

    def __reduce__(self) -> tuple[object, ...]:
        return BoundaryRefiner, (self.boundary, self.states, self.digest, self.precisions)

    @property
    def label(self) -> str:
        """Its name and the digest of what it has learned."""
        return f"{NAME} {self.digest}"

    def image_frame(self, full: Size) -> Frame:
        """The frame in which it needs the image: the same for images of any size."""
        return self.boundary.frame

    def _built(self) -> list[torch.nn.Module]:
        if not self._networks:
            variant = self.boundary.variant()
            made = []
            for state in self.states:
                network = build(variant, pretrained=False)
                network.load_state_dict(state)
                made.append(network.eval().to(memory_format=torch.channels_last))  # type: ignore[call-overload]
            # threads that build at once build the same
            self._networks[:] = made
        return self._networks

    def _added(self, batch: np.ndarray) -> np.ndarray:
        """What the networks add, in the mean: (T, h, w) float32 for inputs (T, 4, h, w) float32."""
        device = torch.device("cpu")
        inputs = torch.from_numpy(batch).to(memory_format=torch.channels_last)
        networks, here = self._built(), native("cpu")
        total: torch.Tensor | None = None
        for network, trained in zip(networks, self.precisions or [FLOAT32] * len(networks), strict=True):
            with torch.inference_mode(), autocast(for_prediction(trained, here), device):
                added = network(inputs).float()
                total = added if total is None else total + added
        assert total is not None
        return (total / len(networks))[:, 0].numpy()

    def _residual(self, coarse: np.ndarray, image: np.ndarray, tiles: Sequence[Tile]) -> np.ndarray:
        """(h, w) float32 that is to be added to `coarse`, 0 where no tile's core lies."""
        residual = np.zeros(coarse.shape, np.float32)
        for start in range(0, len(tiles), _AT_ONCE):
            some = tiles[start : start + _AT_ONCE]
            batch = np.stack([inputs_of(self.boundary, cut(image, tile), cut(coarse, tile)) for tile in some])
            for tile, added in zip(some, self._added(batch), strict=True):
                residual[tile.core] = added[tile.core_in_seen]
        return residual

    def __call__(self, logits: np.ndarray, image: np.ndarray | None) -> np.ndarray:
        """Full-size logits, near their boundary with what the networks add to them.

        Args:
            logits: (H, W) float32, the mask where they are above 0; not modified.
            image: (h, w, 3) uint8 RGB in `image_frame`.

        Returns:
            (H, W) float32; `logits` itself where there is no boundary.

        Raises:
            ValueError: there is no image.
        """
        if image is None:
            raise ValueError("the refiner needs the image")
        allowed = self.boundary.allowed(logits > 0)
        # one pixel more: a full-size pixel lies between several
        near = cv2.dilate(self.boundary.band(allowed).view(np.uint8), np.ones((3, 3), np.uint8)) > 0
        variant = self.boundary.variant()
        tiles = list(tiles_on(near, variant.size, self.boundary.margin_px))
        if not tiles:
            return logits
        frame, full = self.boundary.frame, (logits.shape[0], logits.shape[1])
        residual = frame.invert(self._residual(frame.apply(logits), image, tiles), full)
        return np.where(allowed, logits + residual, logits)


def check_boundary(boundary: Boundary) -> None:
    """ValueError where a refiner cannot be so."""
    if min(boundary.full + boundary.size) < 1 or not boundary.widths or min(boundary.widths) < 1:
        raise ValueError("full, size or widths are below 1, expected at least 1")
    step = divisor(boundary.variant())
    if boundary.tile_px < step or boundary.tile_px % step:
        raise ValueError(f"tile_px is {boundary.tile_px}, expected a multiple of {step}")
    if boundary.reach_px < 1 or boundary.margin_px < 0 or boundary.limit <= 0:
        raise ValueError("reach_px, margin_px or limit are too small, expected 1, 0 and more than 0 at least")
