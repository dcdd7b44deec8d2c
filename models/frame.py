"""The only place that knows how a full frame becomes a network's input, and a network's logits the full frame.

Ways to fit a frame to a network:
- "resize": the JPEG is decoded at the smallest of the codec's reduced sizes that is still large enough, then the part
  of it that the image covers is reduced by area; logits come back by bilinear interpolation (pixel centres aligned, as
  `align_corners=False`).
- "pad": the frame keeps its pixels and is padded at the right and the bottom (1918 -> 1920); logits are cropped.
- "reflect": the frame keeps its pixels and is padded on all sides by its own reflection, which a small image has more
  of than a large one (101 -> 128); logits are cropped.
- "reflect-2x": the same of the frame at twice its size (101 -> 202 -> 256), bilinear both ways.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from command_line import UserError
from competition import Size
from kernels.tiles import enlarged_at, enlarged_tiles, gather, tile_areas
from models.image_file import OTHER_SIZE, ImageFile, reduction
from models.variant import ENLARGED, Fit, Variant

# of the geometry between a full frame and a network's input. 1: a JPEG decoded at 1/4 or 1/8 was resized as if it
# covered the image, which it exceeds by some pixels wherever the size is no multiple of 4 or 8
_VERSION = 2

# share of a frame's sides that an image has at least which is padded to it, where padding is not for more than a rest
NEARLY = 0.9
# the networks whose finders look for one object in a whole image
_OF_WHOLE_IMAGES = ("windowed-unet",)


@functools.cache
def enlarges_as_opencv(size: Size, full: Size) -> bool:
    """Whether `kernels.tiles.enlarged_tiles` and `enlarged_at` give what `cv2.resize` does here, to the bit.

    OpenCV interpolates by code of its own or of a library, as it was built and as the processor is, and these round
    differently. All pixels of a frame of noise tell: which pixels each one lies between, and how sums are rounded, does
    not depend on what they hold.

    Args:
        size: (h, w) of planes, at most that of the frame.
        full: (H, W) of the frame.
    """
    plane = np.random.default_rng(0).standard_normal(size, np.float32)
    whole = cv2.resize(plane, (full[1], full[0]), interpolation=cv2.INTER_LINEAR).reshape(-1)
    out = np.empty(len(whole), np.float32)
    enlarged_tiles(plane, full, np.ones(tile_areas(full).shape, bool), out)
    return np.array_equal(out, whole) and np.array_equal(enlarged_at(plane, full, np.arange(len(whole))), whole)


@dataclass(frozen=True)
class Frame:
    """A network's side of the frame: `size` (height, width) in pixels, and how full frames are fitted to it.

    `apply` and `invert` are opposites: what `invert` returns lies on the pixels that `apply` was given.

    Attributes:
        size, fit: as the network's variant has them.
        whole: the network knows whole images alone, neither parts of them nor what is smaller in a larger one: those of
            another size than it pads are resized to it (`of`).
    """

    size: Size
    fit: Fit = "resize"
    whole: bool = False

    def of(self, full: Size) -> Frame:
        """The frame that an image of `full` (H, W), which need not be of the network's competition, goes through.

        >>> Frame((64, 96), "pad", whole=True).of((128, 192))
        Frame(size=(64, 96), fit='resize', whole=False)
        >>> Frame((64, 96), "pad", whole=True).of((64, 95)).fit
        'pad'
        """
        if self.fit == "resize" or not self.whole:
            return self
        fits = all(NEARLY * own <= side <= own for own, side in zip(self.size, self.enlarged(full), strict=True))
        return self if fits else Frame(self.size)

    def version(self, full: Size) -> int:
        """Which version of the geometry this frame has for images of one size.

        Inputs and networks of another version do not belong together. It is the oldest version that does the same, so
        what was made before a change that did not touch it stays good.

        Args:
            full: (H, W) of the images.
        """
        factor = reduction(full, self.size) if self.fit == "resize" else 1
        return 1 if all(side % factor == 0 for side in full) else _VERSION

    def input_of(self, file: ImageFile) -> np.ndarray:
        """The network's input from an image file, (h, w, 3) uint8 RGB; UserError as `load`."""
        reduced = file.reduced(self.size) if self.fit == "resize" else None
        return self.apply(file.image()) if reduced is None else reduced

    def enlarged(self, full: Size) -> Size:
        """(H, W) that an image of `full` has within a frame that pads."""
        factor = ENLARGED[self.fit]
        return full[0] * factor, full[1] * factor

    def exceeded_by(self, full: Size) -> bool:
        """Whether the network takes an image of `full` in tiles alone: it pads, and the image is too large for that."""
        if self.fit == "resize":
            return False
        inner = self.enlarged(full)
        return inner[0] > self.size[0] or inner[1] > self.size[1]

    def enlarge(self, image: np.ndarray) -> np.ndarray:
        """An image (H, W) or (H, W, C) at the size that it has within a frame that pads; itself where that is it."""
        height, width = self.enlarged((image.shape[0], image.shape[1]))
        if image.shape[:2] == (height, width):
            return image
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)

    def inside(self, full: Size) -> tuple[slice, slice]:
        """The rows and columns that an image of `full` takes within a frame that pads.

        Raises:
            UserError: it does not fit.
        """
        if self.exceeded_by(full):
            raise UserError(
                f"an image of {full[0]}x{full[1]} pixels does not fit a network of {self.size[0]}x{self.size[1]} that "
                "pads: choose a variant with fit='resize', or predict in tiles."
            )
        inner = self.enlarged(full)
        above, left = (0, 0) if self.fit == "pad" else ((s - i) // 2 for s, i in zip(self.size, inner, strict=True))
        return slice(above, above + inner[0]), slice(left, left + inner[1])

    def load(self, path: Path, expected: Size | None = None) -> tuple[np.ndarray, Size]:
        """Read an image file as the network's input.

        Args:
            path: image file.
            expected: the full size it must have; None accepts any.

        Returns:
            (h, w, 3) uint8 RGB at the network's size, and the image's full size.

        Raises:
            UserError: missing, unreadable, cut off, of another size than `expected`, or too large for a network that
                pads.
        """
        inputs, full = load_for([self], path, expected)
        return inputs[self], full

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Fit an image to the network.

        Args:
            image: (H, W) or (H, W, C) uint8 or float32; not modified.

        Returns:
            (h, w) or (h, w, C) of the same dtype. "pad" repeats the border pixels, "reflect" all but them.
        """
        height, width = self.size
        if self.fit != "resize":
            rows, columns = self.inside((image.shape[0], image.shape[1]))
            border = cv2.BORDER_REPLICATE if self.fit == "pad" else cv2.BORDER_REFLECT_101
            sides = rows.start, height - rows.stop, columns.start, width - columns.stop
            return cv2.copyMakeBorder(self.enlarge(image), *sides, border)
        if image.shape[:2] == self.size:
            return image
        grows = image.shape[0] < height or image.shape[1] < width
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR if grows else cv2.INTER_AREA)

    def apply_mask(self, mask: np.ndarray) -> np.ndarray:
        """Fit a mask to the network as coverage: how much of each of the network's pixels is foreground.

        Args:
            mask: (H, W) bool.

        Returns:
            (h, w) uint8, 0 (none) .. 255 (all).
        """
        return self.apply(mask.astype(np.uint8) * np.uint8(255))

    def invert(self, logits: np.ndarray, full: Size) -> np.ndarray:
        """Bring logits back to the full frame.

        Linear, so any weighted sum of logits of one size may be taken before instead of after.

        Args:
            logits: (h, w) float32 at the network's size.
            full: (H, W) of the frame.

        Returns:
            (H, W) float32; a view where nothing had to be computed.
        """
        if logits.shape != self.size:
            raise ValueError(f"logits of shape {logits.shape} do not belong to a network of {self.size}")
        if self.fit != "resize":
            logits = logits[self.inside(full)]
        if logits.shape == full:
            return logits
        return cv2.resize(logits, (full[1], full[0]), interpolation=cv2.INTER_LINEAR)

    def grows(self, full: Size) -> bool:
        """Whether `invert` is no more than an interpolation to a frame that is at least as large on both sides."""
        return self.fit == "resize" and self.size[0] <= full[0] and self.size[1] <= full[1]

    def _by_pixel(self, full: Size) -> bool:
        """Whether single pixels of what `invert` gives can be had alone."""
        return self.grows(full) and self.size != full and enlarges_as_opencv(self.size, full)

    def invert_tiles(self, logits: np.ndarray, full: Size, chosen: np.ndarray, out: np.ndarray) -> None:
        """The pixels of some tiles of what `invert` gives, to the bit; the rest is not computed where that can be.

        Args:
            logits: (h, w) float32 at the network's size.
            full: (H, W) of the frame.
            chosen: bool, as `kernels.tiles.tile_areas` has tiles.
            out: (P,) float32 for all pixels of these tiles in row-major order of the frame; written.
        """
        if self._by_pixel(full):
            enlarged_tiles(np.ascontiguousarray(logits), full, chosen, out)
        else:
            gather(self.invert(logits, full), chosen, out)

    def invert_at(self, logits: np.ndarray, full: Size, pixels: np.ndarray) -> np.ndarray:
        """(K,) float32: single pixels of what `invert` gives, to the bit.

        Args:
            logits, full: as `invert_tiles`.
            pixels: (K,) int64 positions in row-major order of the frame.
        """
        if self._by_pixel(full):
            return enlarged_at(np.ascontiguousarray(logits), full, pixels)
        return self.invert(logits, full).reshape(-1)[pixels]

    def transfer(self, logits: np.ndarray, to: Frame, full: Size) -> np.ndarray:
        """Bring logits of this frame into another one.

        Where both are resized they cover the same area, so this is one bilinear interpolation; where one pads, the
        way leads through the full frame.

        Args:
            logits: (h, w) float32 at this frame's size; not modified.
            to: the frame whose pixels they are wanted on.
            full: (H, W) of the full frame.

        Returns:
            float32 of the size of `to`; `logits` itself where the frames are equal.
        """
        if self == to:
            return logits
        if self.fit == to.fit == "resize":
            return self.invert(logits, to.size)
        return to.apply(self.invert(logits, full))


def load_for(frames: Iterable[Frame], path: Path, expected: Size | None = None) -> tuple[dict[Frame, np.ndarray], Size]:
    """Read an image file as the inputs of several networks, each as `Frame.load` gives it.

    The file is read once, and decoded once for each of the codec's sizes that the networks need: most often one.

    Args, Raises: as `Frame.load`.

    Returns:
        Per frame (h, w, 3) uint8 RGB, and the image's full size.
    """
    file = ImageFile(path)
    full = file.size
    if expected is not None and full != expected:
        raise UserError(
            f"{path} has {full[0]}x{full[1]} pixels (height x width), expected {expected[0]}x{expected[1]}: "
            f"{OTHER_SIZE}."
        )
    return {frame: frame.input_of(file) for frame in dict.fromkeys(frames)}, full


def frame_of(variant: Variant) -> Frame:
    """The frame of a variant's network."""
    return Frame(variant.size, variant.fit, whole=variant.network in _OF_WHOLE_IMAGES)
