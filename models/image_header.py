"""What an image file says before its pixels: format, bits, channels and orientation, and whether it can be read at all.

Headers are read here, not by an image library: one refuses a PNG for a comment in it, another reads 16 bits as 8.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from command_line import UserError
from competition import Size

JPEG, PNG, WEBP, TIFF, AVIF, HEIC = "JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIC"
_SIGNATURES = (
    (JPEG, b"\xff\xd8"),
    (PNG, b"\x89PNG\r\n\x1a\n"),
    (TIFF, b"II*\0"),
    (TIFF, b"MM\0*"),
    (TIFF, b"II+\0"),
    (TIFF, b"MM\0+"),
    ("GIF", b"GIF8"),
    ("BMP", b"BM"),
    ("JPEG2000", b"\0\0\0\x0cjP  "),
    ("JPEG2000", b"\xff\x4f\xff\x51"),
    ("JPEG XL", b"\0\0\0\x0cJXL "),
    ("JPEG XL", b"\xff\x0a"),
    ("Photoshop", b"8BPS"),
    ("PDF", b"%PDF"),
)
# formats that nothing here decodes
_UNREADABLE = ("JPEG XL", "Photoshop", "PDF")
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_ORIENTATION_TAG = 0x0112
# metadata of a JPEG lie in segments of at most 64 KiB before the picture
_HEAD_BYTES = 1 << 18
_FAULTS = (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Header:
    """What an image file says before its pixels.

    Attributes:
        format: "JPEG", "PNG" and so on; "" where the first bytes are of none that is known here.
        bits: of a channel; 8 where the format or its header does not say.
        channels: as stored, an index into a palette being one; 0 where the header does not say.
        mode: channels in letters, as Pillow has them ("L", "RGB", "RGBA", "P" ...); "" where the header does not say.
        orientation: EXIF's 1..8, of the pixels in the order in which they are decoded; 1 is upright.
        size: (height, width) as stored; None where it is not read here.
        pixels_at: where the picture's own bytes begin in a JPEG.
    """

    format: str
    bits: int = 8
    channels: int = 0
    mode: str = ""
    orientation: int = 1
    size: Size | None = None
    pixels_at: int = 0


def _orientation(exif: bytes) -> int:
    """The orientation that an EXIF block says, with or without the `Exif\\0\\0` before it; 1 where it is broken."""
    try:
        block = Image.Exif()
        block.load(exif)
        value = block.get(_ORIENTATION_TAG, 1)
    except _FAULTS:
        return 1
    return value if value in range(1, 9) else 1


def _orientation_by_pillow(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data)) as file:
            value = file.getexif().get(_ORIENTATION_TAG, 1)
    except _FAULTS:
        return 1
    return value if value in range(1, 9) else 1


def _jpeg(data: bytes) -> Header:
    size: Size | None = None
    bits, channels, position = 8, 0, 2
    while position + 9 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xDA:  # start of scan
            break
        if size is None and marker in range(0xC0, 0xD0) and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, position + 4)
            size = height, width
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    # without a frame header there is no picture to turn
    turned = size is not None and b"Exif\x00\x00" in data[:_HEAD_BYTES]
    orientation = _orientation_by_pillow(data) if turned else 1
    mode = {1: "L", 3: "RGB", 4: "CMYK"}.get(channels, "")
    return Header(JPEG, bits, channels, mode, orientation, size, position)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, stop) of each chunk of a PNG, from its length to its checksum, as far as they are whole."""
    position = 8
    while position + 12 <= len(data):
        stop = position + 12 + int.from_bytes(data[position : position + 4])
        if stop > len(data):
            return
        yield data[position + 4 : position + 8], position, stop
        position = stop


def _png(data: bytes) -> Header:
    if len(data) < 33 or data[12:16] != b"IHDR":
        return Header(PNG)
    bits, colour = data[24], data[25]
    channels, mode = {0: (1, "L"), 2: (3, "RGB"), 3: (1, "P"), 4: (2, "LA"), 6: (4, "RGBA")}.get(colour, (0, ""))
    if mode == "L" and bits in (1, 16):
        mode = "1" if bits == 1 else "I;16"
    exif = b""
    # a large picture has thousands of chunks
    if b"eXIf" in data:
        exif = next((data[start + 8 : stop - 4] for name, start, stop in _png_chunks(data) if name == b"eXIf"), b"")
    return Header(PNG, bits, channels, mode, _orientation(exif) if exif else 1)


# beside those that every PNG has: transparency, and further pictures
_OF_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")


def png_of_pixels_alone(data: bytes) -> bytes:
    """A PNG without its comments, profiles and times, for which Pillow refuses some; other files as they are."""
    if not data.startswith(b"\x89PNG"):
        return data
    kept = [data[start:stop] for name, start, stop in _png_chunks(data) if name[:1].isupper() or name in _OF_PIXELS]
    return data[:8] + b"".join(kept)


def _webp(data: bytes) -> Header:
    position = 12
    while position + 8 <= len(data):
        stop = position + 8 + int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"EXIF":
            return Header(WEBP, orientation=_orientation(data[position + 8 : stop]))
        position = stop + (stop - position) % 2
    return Header(WEBP)


# of a TIFF's tags: their type's size in bytes; those used here are whole numbers
_TIFF_TYPES = {1: 1, 3: 2, 4: 4, 16: 8}
_BITS, _PHOTOMETRIC, _CHANNELS = 258, 262, 277


def _tiff_tags(data: bytes) -> dict[int, list[int]]:
    """Whole numbers in the first directory of a TIFF or a BigTIFF, by tag; those that are broken are left out."""
    order: str = "little" if data[:1] == b"I" else "big"
    big = 0x2B in (data[2], data[3])

    def number(start: int, length: int) -> int:
        if start + length > len(data):
            raise IndexError(start)
        return int.from_bytes(data[start : start + length], order)  # type: ignore[arg-type]

    tags: dict[int, list[int]] = {}
    word, head, entry = (8, 8, 20) if big else (4, 2, 12)
    try:
        start = number(8 if big else 4, word)
        for k in range(min(number(start, head), 1000)):
            at = start + head + k * entry
            tag, kind, count = number(at, 2), number(at + 2, 2), number(at + 4, word)
            if tag not in (_BITS, _PHOTOMETRIC, _CHANNELS) or kind not in _TIFF_TYPES:
                continue
            width, count = _TIFF_TYPES[kind], min(count, 64)
            values = at + 4 + word if width * count <= word else number(at + 4 + word, word)
            tags[tag] = [number(values + i * width, width) for i in range(count)]
    except IndexError:
        pass
    return tags


def _tiff(data: bytes) -> Header:
    tags = _tiff_tags(data)
    channels = max(tags.get(_CHANNELS) or [1])
    bits = max(tags.get(_BITS) or [1])
    palette = tags.get(_PHOTOMETRIC) == [3]
    mode = "P" if palette else {1: "1" if bits == 1 else "L", 2: "LA", 3: "RGB"}.get(channels, "")
    # its orientation is undone by the decoder
    return Header(TIFF, bits, channels, mode)


def _boxed(data: bytes) -> Header | None:
    """Of a file in boxes, as AVIF and HEIC are."""
    if data[4:8] != b"ftyp":
        return None
    stop = min(int.from_bytes(data[:4]), 256)
    brands = {data[at : at + 4] for at in (8, *range(16, stop, 4))}
    if brands & _AVIF_BRANDS:
        # OpenCV leaves the file's own turns and mirrors undone
        return Header(AVIF, orientation=_orientation_by_pillow(data))
    return Header(HEIC) if brands & _HEIC_BRANDS else None


_READERS = {JPEG: _jpeg, PNG: _png, TIFF: _tiff}


def header_of(data: bytes) -> Header:
    """What an image file's content says before its pixels; of what is broken, what can be made out."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    kind = next((kind for kind, signature in _SIGNATURES if data.startswith(signature)), "")
    if reader := _READERS.get(kind):
        return reader(data)
    return _boxed(data) or Header(kind)


def too_deep(path: Path, bits: int) -> UserError:
    """What is said of an image of more than 8 bits a channel."""
    return UserError(
        f"{path} has {bits} bits a channel, of which only the upper 8 would be used: save it with 8 bits, its levels "
        "spread over 0 .. 255."
    )


def too_many_channels(path: Path, channels: int) -> UserError:
    """What is said of an image of channels that no network here takes."""
    return UserError(
        f"{path} has {channels} channels, and images have 1 (grey), 3 (RGB) or 4 (RGB and alpha): save three of them "
        "as RGB."
    )


def refuse_unreadable(path: Path, header: Header) -> None:
    """Raise UserError for an image whose pixels cannot be read, or only in part: too deep, too many channels, a format
    that nothing here decodes."""
    if header.format in _UNREADABLE:
        raise UserError(f"{path} is a {header.format} file, which is not read here: save it as JPEG or PNG.")
    if header.bits > 8:
        raise too_deep(path, header.bits)
    if header.channels > 4:
        raise too_many_channels(path, header.channels)
