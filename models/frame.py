"""The only place that knows how a full frame becomes a network's input, and a network's logits the full frame.

Two ways to fit a frame to a network:
- "resize": the JPEG is decoded at the smallest of the codec's reduced sizes that is still large enough, then reduced
  by area; logits come back by bilinear interpolation (pixel centres aligned, as `align_corners=False`).
- "pad": the frame keeps its pixels and is padded at the right and the bottom (1918 -> 1920); logits are cropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from command_line import UserError
from competition import Size
from models.variants import Fit, Variant

_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))
# the end-of-image marker is looked for in the last bytes: some writers append padding after it
_TAIL_BYTES = 1024


def _jpeg_size(data: bytes) -> Size | None:
    """(height, width) from a JPEG's frame header; None where there is none."""
    position = 2
    while position + 9 < len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in range(0xC0, 0xD0) and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[position + 5 : position + 7]), int.from_bytes(data[position + 7 : position + 9])
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return None


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: copy it there.") from None
    except OSError as error:
        # one bad file or disk block must not end a run over thousands
        raise UserError(f"{path} cannot be read ({error.strerror}): allow it, or copy the file again.") from None
    # OpenCV fills what a truncated JPEG lacks with grey and says nothing
    if data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-_TAIL_BYTES:]:
        raise UserError(f"{path} is cut off (no end-of-image marker): copy the file again.")
    return data


def _reduction(data: bytes, at_least: Size | None) -> int:
    """OpenCV's flag for the smallest of the codec's sizes that does not fall below `at_least`."""
    full = _jpeg_size(data) if data[:2] == b"\xff\xd8" else None
    if full is None or at_least is None:
        return cv2.IMREAD_COLOR
    # orientation may swap the sides, so both must do for either
    low, need = min(full), max(at_least) if full[0] > full[1] else min(at_least)
    high = max(full)
    for factor, reduced in _REDUCED:
        # near a square, the reduced picture may not show whether the orientation swapped the sides
        swap_shows = full[0] == full[1] or -(-full[0] // factor) != -(-full[1] // factor)
        if low >= factor * need and high >= factor * max(at_least) and swap_shows:
            return reduced
    return cv2.IMREAD_COLOR


def _decoded(path: Path, data: bytes, flag: int) -> tuple[np.ndarray, Size]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    if image is None:
        raise UserError(f"{path} is not an image that can be read: copy the file again or take it out of the folder.")
    height, width = image.shape[:2]
    full = None if flag == cv2.IMREAD_COLOR else _jpeg_size(data)
    if full is None:
        full = (height, width)
    elif (height > width) != (full[0] > full[1]):
        full = (full[1], full[0])
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), full


def decode(path: Path, at_least: Size | None = None) -> tuple[np.ndarray, Size]:
    """Decode an image file.

    Args:
        path: JPEG, PNG or whatever OpenCV reads. A photograph is turned as its EXIF orientation says.
        at_least: (height, width) that the result must not fall below; a JPEG is then decoded at 1/2, 1/4 or 1/8 of
            its size where that is still large enough. None decodes at full size.

    Returns:
        (h, w, 3) uint8 RGB, and the image's full size (height, width) in pixels.

    Raises:
        UserError: missing, refused, not an image, or cut off; the message names the file.
    """
    data = _read(path)
    return _decoded(path, data, _reduction(data, at_least))


@dataclass(frozen=True)
class Frame:
    """A network's side of the frame: `size` (height, width) in pixels, and how full frames are fitted to it.

    `apply` and `invert` are opposites: what `invert` returns lies on the pixels that `apply` was given.
    """

    size: Size
    fit: Fit = "resize"

    def _check_pad(self, full: Size) -> None:
        if full[0] > self.size[0] or full[1] > self.size[1]:
            raise UserError(
                f"an image of {full[0]}x{full[1]} pixels does not fit a network of {self.size[0]}x{self.size[1]} that "
                "pads: choose a variant with fit='resize', or predict in tiles."
            )

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
            (h, w) or (h, w, C) of the same dtype. Padding repeats the border pixels.
        """
        height, width = self.size
        if self.fit == "pad":
            self._check_pad((image.shape[0], image.shape[1]))
            below, right = height - image.shape[0], width - image.shape[1]
            return cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
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
        if self.fit == "pad":
            self._check_pad(full)
            return logits[: full[0], : full[1]]
        if logits.shape == full:
            return logits
        return cv2.resize(logits, (full[1], full[0]), interpolation=cv2.INTER_LINEAR)


def load_for(frames: Iterable[Frame], path: Path, expected: Size | None = None) -> tuple[dict[Frame, np.ndarray], Size]:
    """Read an image file as the inputs of several networks, each as `Frame.load` gives it.

    The file is read once, and decoded once for each of the codec's sizes that the networks need: most often one.

    Args, Raises: as `Frame.load`.

    Returns:
        Per frame (h, w, 3) uint8 RGB, and the image's full size.
    """
    data = _read(path)
    decoded: dict[int, tuple[np.ndarray, Size]] = {}
    inputs: dict[Frame, np.ndarray] = {}
    full: Size = (0, 0)
    for frame in frames:
        if frame in inputs:
            continue
        flag = _reduction(data, frame.size if frame.fit == "resize" else None)
        if flag not in decoded:
            decoded[flag] = _decoded(path, data, flag)
        image, full = decoded[flag]
        if expected is not None and full != expected:
            raise UserError(
                f"{path} has {full[0]}x{full[1]} pixels (height x width), expected {expected[0]}x{expected[1]}: "
                "put the competition's own file back."
            )
        inputs[frame] = frame.apply(image)
    return inputs, full


def frame_of(variant: Variant) -> Frame:
    """The frame of a variant's network."""
    return Frame(variant.size, variant.fit)
