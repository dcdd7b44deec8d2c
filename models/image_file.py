"""Image files: whole ones decode to upright RGB, at full size or at one of the JPEG codec's reduced sizes.

A JPEG decoded at 1/f has ceil(size / f) pixels a side, which cover f times as many pixels: 1918 / 4 gives 480 columns
that cover 1920. Whoever resizes a reduced picture must account for that, or everything in it moves.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from command_line import UserError
from competition import Size
from models import codec_warnings
from shortage import is_out_of_memory

# the codec's reduced sizes, smallest picture first
FACTORS = (8, 4, 2)
_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_JPEG = b"\xff\xd8"
# the end-of-image marker is looked for in the last bytes first; some writers append kilobytes of padding after it
_TAIL_BYTES = 1024
_END = b"\xff\xd9"
# metadata lie in segments of at most 64 KiB before the picture
_HEAD_BYTES = 1 << 18
_ORIENTATION_TAG = 0x0112


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: copy it there.") from None
    except OSError as error:
        # one bad file or disk block must not end a run over thousands
        raise UserError(f"{path} cannot be read ({error.strerror}): allow it, or copy the file again.") from None
    # OpenCV fills what a truncated JPEG lacks with grey and says nothing
    if data[:2] == _JPEG:
        # thumbnails before the picture have end markers of their own
        start = _jpeg_segments(data)[1]
        if data.find(_END, max(start, len(data) - _TAIL_BYTES)) < 0 and data.rfind(_END, start) < 0:
            raise UserError(f"{path} is cut off (no end-of-image marker): copy the file again.")
    return data


def _jpeg_segments(data: bytes) -> tuple[Size | None, int]:
    """Of a JPEG: (height, width) from its frame header, before its orientation is applied, None where there is none;
    and where the picture's own bytes begin."""
    size: Size | None = None
    position = 2
    while data[:2] == _JPEG and position + 9 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xDA:  # start of scan
            break
        if size is None and marker in range(0xC0, 0xD0) and marker not in (0xC4, 0xC8, 0xCC):
            size = int.from_bytes(data[position + 5 : position + 7]), int.from_bytes(data[position + 7 : position + 9])
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return size, position


def _orientation(data: bytes) -> int:
    """The EXIF orientation 1..8 of a JPEG; 1, upright, where it has none or a broken one."""
    if b"Exif\x00\x00" not in data[:_HEAD_BYTES]:
        return 1
    try:
        with Image.open(io.BytesIO(data)) as file:
            value = file.getexif().get(_ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, Image.DecompressionBombError):
        return 1
    return value if value in range(1, 9) else 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation."""
    if orientation >= 5:
        image = cv2.transpose(image)
    # after the transposition of 5..8, their flips are those of 1, 2, 4 and 3 in this order
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else cv2.flip(image, flip)


def out_of_memory(path: Path) -> str:
    """The sentence for a picture that there was not memory enough for: of any size, as others take it too."""
    return (
        f"{path} cannot be decoded, as memory ran out: end what else runs or take fewer --jobs, or reduce it if it has "
        "more pixels than others."
    )


class ImageFile:
    """One image file, read at once and decoded on demand, once for each reduced size asked for.

    Args:
        path: JPEG, PNG or whatever OpenCV reads.

    Raises:
        UserError: missing, refused, or cut off; the message names the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = _read(path)
        # None for other formats than JPEG, which have no reduced sizes
        self._stored = _jpeg_segments(self._data)[0]
        self._orientation = 1 if self._stored is None else _orientation(self._data)
        self._decoded: dict[int, np.ndarray] = {}

    def _in_stored_order(self, size: Size) -> Size:
        """An upright size as the file stores its rows and columns, or back."""
        return size if self._orientation < 5 else (size[1], size[0])

    def _pixels(self, factor: int) -> np.ndarray:
        """(ceil(H / factor), ceil(W / factor), 3) uint8 RGB as stored, not upright."""
        if factor not in self._decoded:
            flag = _FLAGS[factor]
            if self._stored is not None:
                # the orientation is undone here: what the last row and column cover depends on it
                flag |= cv2.IMREAD_IGNORE_ORIENTATION
            try:
                image = cv2.imdecode(np.frombuffer(self._data, np.uint8), flag) if self._data else None
            except cv2.error as error:
                if is_out_of_memory(error):
                    raise UserError(out_of_memory(self._path)) from None
                # more pixels than OpenCV takes
                raise UserError(
                    f"{self._path} cannot be decoded ({error.err or 'by OpenCV'}): reduce it or take it out of the "
                    "folder."
                ) from None
            if image is None:
                raise UserError(
                    f"{self._path} is not an image that can be read: copy the file again or take it out of the folder."
                )
            self._decoded[factor] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return self._decoded[factor]

    def image(self) -> np.ndarray:
        """The whole image, (H, W, 3) uint8 RGB, upright.

        Raises:
            UserError: not an image; the message names the file.
        """
        return _upright(self._pixels(1), self._orientation)

    @property
    def size(self) -> Size:
        """(H, W) of the upright image, in pixels. Raises UserError as `image`."""
        stored = self._stored
        if stored is None:
            height, width = self._pixels(1).shape[:2]
            stored = (height, width)
        return self._in_stored_order(stored)

    def check(self) -> None:
        """Decode the whole stream, at the size at which that is fastest, and without what codecs warn of as damage.

        Raises:
            UserError: as `image`; or a part of it is damaged, which `image` fills with grey.
        """
        with codec_warnings.refused(self._path):
            self._pixels(FACTORS[0] if self._stored is not None else 1)

    def reduced(self, size: Size) -> np.ndarray | None:
        """The image reduced to `size`, by way of the smallest of the codec's sizes that is not below it.

        Args:
            size: (h, w), upright.

        Returns:
            (h, w, 3) uint8 RGB, upright, each pixel the mean of the area of the full image that it covers; None where
            the codec has no size that serves.

        Raises:
            UserError: not an image; the message names the file.
        """
        if self._stored is None:
            return None
        wanted = self._in_stored_order(size)
        factor = reduction(self._stored, wanted)
        if factor == 1:
            return None
        return _upright(_resized(self._pixels(factor), factor, self._stored, wanted), self._orientation)


def _scales(full: Size, factor: int, size: Size) -> tuple[float, float]:
    """Pixels of the result for one pixel of the picture decoded at 1/factor, down and across."""
    return size[0] * factor / full[0], size[1] * factor / full[1]


def reduction(full: Size, size: Size) -> int:
    """The factor by which a JPEG of `full` (H, W) is reduced in decoding when `size` (h, w) is wanted: 8, 4, 2 or 1."""
    for factor in FACTORS:
        if any(f < factor * s for f, s in zip(full, size, strict=True)):
            continue
        decoded = tuple(-(-f // factor) for f in full)
        if any(f % factor for f in full):
            down, across = _scales(full, factor, size)
            if (round(decoded[0] * down), round(decoded[1] * across)) == decoded:
                # OpenCV would copy instead of resizing by so little
                continue
        return factor
    return 1


def _resized(picture: np.ndarray, factor: int, full: Size, size: Size) -> np.ndarray:
    """A picture of ceil(full / factor) pixels, reduced by area so that `full` / factor of them become `size`."""
    if all(f % factor == 0 for f in full):
        return picture if picture.shape[:2] == size else cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
    down, across = _scales(full, factor, size)
    # with scales instead of a size, OpenCV takes them as they are; what the last row and column cover beyond the
    # image may add one to the result, which goes
    return cv2.resize(picture, None, fx=across, fy=down, interpolation=cv2.INTER_AREA)[: size[0], : size[1]]


def decode(path: Path) -> np.ndarray:
    """Decode a whole image file.

    Args:
        path: JPEG, PNG or whatever OpenCV reads.

    Returns:
        (H, W, 3) uint8 RGB; a photograph is turned upright, as its EXIF orientation says.

    Raises:
        UserError: missing, refused, not an image, or cut off; the message names the file.
    """
    return ImageFile(path).image()
