"""Image files: whole ones decode to upright RGB, at full size or at one of the JPEG codec's reduced sizes.

A JPEG decoded at 1/f has ceil(size / f) pixels a side, which cover f times as many pixels: 1918 / 4 gives 480 columns
that cover 1920. Whoever resizes a reduced picture must account for that, or everything in it moves.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from command_line import UserError
from competition import Size
from models import codec_warnings
from models.heif import heif_pixels
from models.image_header import AVIF, HEIC, JPEG, header_of, refuse_unreadable, too_deep, too_many_channels
from shortage import is_out_of_memory

# what to do where a file has another size than its competition's entry gives
OTHER_SIZE = "put the competition's own file back, or, where all files are so, mend `size` in competition.py"

# the codec's reduced sizes, smallest picture first
FACTORS = (8, 4, 2)
_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
# the end-of-image marker is looked for in the last bytes first; some writers append kilobytes of padding after it
_TAIL_BYTES = 1024
_END = b"\xff\xd9"
_FROM_BGR = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
_TO_RGB = {1: cv2.COLOR_GRAY2RGB, 4: cv2.COLOR_RGBA2RGB}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: copy it there.") from None
    except OSError as error:
        # one bad file or disk block must not end a run over thousands
        raise UserError(f"{path} cannot be read ({error.strerror}): allow it, or copy the file again.") from None


def _channels(image: np.ndarray) -> int:
    return int(image.shape[2]) if image.ndim == 3 else 1


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

    Whatever is decoded is looked at for damage that codecs only warn of (models/codec_warnings.py).

    Args:
        path: JPEG, PNG or whatever OpenCV reads; HEIC, where pillow-heif is installed.

    Raises:
        UserError: missing, refused, cut off, or of a kind whose pixels would be read in part (more than 8 bits or four
            channels) or not at all; the message names the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = _read(path)
        self._header = header_of(self._data)
        refuse_unreadable(path, self._header)
        if self._header.format == JPEG:
            # OpenCV fills what a truncated JPEG lacks with grey and says nothing; thumbnails before the picture have
            # end markers of their own
            start = self._header.pixels_at
            tail = max(start, len(self._data) - _TAIL_BYTES)
            if self._data.find(_END, tail) < 0 and self._data.rfind(_END, start) < 0:
                raise UserError(f"{path} is cut off (no end-of-image marker): copy the file again.")
        # None for other formats than JPEG, which have no reduced sizes
        self._stored = self._header.size
        self._decoded: dict[int, np.ndarray] = {}

    @property
    def format(self) -> str:
        """Its format, such as "JPEG"; "?" where that is not known here."""
        return self._header.format or "?"

    @property
    def mode(self) -> str:
        """Its channels in letters, such as "RGB" or "L". Raises UserError as `image`."""
        if self._header.mode:
            return self._header.mode
        return {1: "L", 3: "RGB", 4: "RGBA"}[_channels(self._pixels(1))]

    def _in_stored_order(self, size: Size) -> Size:
        """An upright size as the file stores its rows and columns, or back."""
        return size if self._header.orientation < 5 else (size[1], size[0])

    def _decode(self, flags: int) -> np.ndarray | None:
        if not self._data:
            return None
        encoded = np.frombuffer(self._data, np.uint8)
        try:
            image = cv2.imdecode(encoded, flags)
            # of some (JPEG 2000 of grey and alpha) it knows the colours alone
            return cv2.imdecode(encoded, cv2.IMREAD_COLOR) if image is None and flags < 0 else image
        except cv2.error as error:
            if is_out_of_memory(error):
                raise UserError(out_of_memory(self._path)) from None
            # more pixels than OpenCV takes
            raise UserError(
                f"{self._path} cannot be decoded ({error.err or 'by OpenCV'}): reduce it or take it out of the folder."
            ) from None

    def _pixels(self, factor: int) -> np.ndarray:
        """(ceil(H / factor), ceil(W / factor)[, 3 or 4]) uint8 as stored, not upright: grey, or RGB, or RGBA."""
        if factor not in self._decoded:
            self._decoded[factor] = self._undamaged(factor)
        return self._decoded[factor]

    def _undamaged(self, factor: int) -> np.ndarray:
        if self._header.format == HEIC:
            return heif_pixels(self._path, self._data)
        if self._stored is not None or self._header.format == AVIF:
            # the orientation is undone here: what the last row and column cover depends on it. What AVIF has beyond 8
            # bits is for bright screens
            flags = _FLAGS[factor] | cv2.IMREAD_IGNORE_ORIENTATION
        else:
            flags = cv2.IMREAD_UNCHANGED
        if self._header.format in codec_warnings.FORMATS:
            image = codec_warnings.undamaged(self._path, lambda: self._decode(flags))
        else:
            image = self._decode(flags)
        if image is None:
            raise UserError(
                f"{self._path} is not an image that can be read, or is cut off: copy the file again, save it as JPEG "
                "or PNG, or take it out of the folder."
            )
        if image.dtype != np.uint8:
            # of formats whose headers are not read here
            raise too_deep(self._path, image.dtype.itemsize * 8)
        if image.ndim == 3 and image.shape[2] not in _FROM_BGR:
            raise too_many_channels(self._path, image.shape[2])
        return image if image.ndim == 2 else cv2.cvtColor(image, _FROM_BGR[image.shape[2]])

    def image(self) -> np.ndarray:
        """The whole image, (H, W, 3) uint8 RGB, upright.

        Raises:
            UserError: not an image, or damaged; the message names the file.
        """
        image = _upright(self._pixels(1), self._header.orientation)
        channels = _channels(image)
        return image if channels == 3 else cv2.cvtColor(image, _TO_RGB[channels])

    def as_stored(self) -> np.ndarray:
        """The whole image, upright, with the channels that it has: (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, uint8.

        Of AVIF and HEIC colours alone.

        Raises:
            UserError: as `image`.
        """
        image = _upright(self._pixels(1), self._header.orientation)
        return image[..., 0] if self.mode == "L" and image.ndim == 3 else image

    @property
    def size(self) -> Size:
        """(H, W) of the upright image, in pixels. Raises UserError as `image`."""
        stored = self._stored
        if stored is None:
            height, width = self._pixels(1).shape[:2]
            stored = (height, width)
        return self._in_stored_order(stored)

    def check(self) -> None:
        """Decode the whole stream, at the size at which that is fastest. Raises UserError as `image`."""
        self._pixels(FACTORS[0] if self._stored is not None else 1)

    def reduced(self, size: Size) -> np.ndarray | None:
        """The image reduced to `size`, by way of the smallest of the codec's sizes that is not below it.

        Args:
            size: (h, w), upright.

        Returns:
            (h, w, 3) uint8 RGB, upright, each pixel the mean of the area of the full image that it covers; None where
            the codec has no size that serves.

        Raises:
            UserError: as `image`.
        """
        if self._stored is None:
            return None
        wanted = self._in_stored_order(size)
        factor = reduction(self._stored, wanted)
        if factor == 1:
            return None
        return _upright(_resized(self._pixels(factor), factor, self._stored, wanted), self._header.orientation)


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
        UserError: as `ImageFile` and its `image`; the message names the file.
    """
    return ImageFile(path).image()
