"""PNG files by isal's deflate: several times as fast as by the codecs' own, a tenth larger, the same pixels."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from isal import isal_zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# PNG's filter "Sub" and its colour types, by channels
_SUB = 1
_COLOUR_TYPES = {1: 0, 3: 2}


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def encode(picture: np.ndarray) -> bytes:
    """A picture as the content of a PNG file.

    Args:
        picture: (H, W) uint8 levels of grey, or (H, W, 3) uint8 RGB; neither side is 0.

    >>> encode(np.zeros((2, 3), np.uint8))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    height, width = picture.shape[:2]
    channels = picture[0, 0].size
    levels = picture.reshape(height, width * channels)
    # each row begins with its filter; of each pixel what it differs by from the one before it
    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = _SUB
    rows[:, 1 : 1 + channels] = levels[:, :channels]
    np.subtract(levels[:, channels:], levels[:, :-channels], out=rows[:, 1 + channels :])
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    body = isal_zlib.compress(rows, 1)
    return _SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
