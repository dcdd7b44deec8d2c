"""Pictures as bytes that no library here writes."""

from __future__ import annotations

import struct

import numpy as np


def tiff(pixels: np.ndarray, bits: int, *, big_endian: bool = False) -> bytes:
    """An uncompressed TIFF of (H, W, C) pixels of 8, 12 (packed) or 16 bits."""
    height, width, channels = pixels.shape
    end = ">" if big_endian else "<"
    if bits == 12:
        rows = ["".join(f"{value:012b}" for value in row.ravel()) for row in pixels]
        data = b"".join(int(row + "0" * (-len(row) % 8), 2).to_bytes(-(-len(row) // 8)) for row in rows)
    else:
        data = pixels.astype(f"{end}u{bits // 8}").tobytes()
    extra = channels - (3 if channels >= 3 else 1)
    directory = 8 + len(data)
    lists = directory + 2 + 10 * 12 + 4
    tags: list[tuple[int, int, int, int | bytes]] = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, struct.pack(f"{end}{channels}H", *[bits] * channels)),
        (259, 3, 1, struct.pack(f"{end}H", 1)),
        (262, 3, 1, struct.pack(f"{end}H", 2 if channels >= 3 else 1)),
        (273, 4, 1, 8),
        (277, 3, 1, struct.pack(f"{end}H", channels)),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
        # what cannot be left out of a file of more channels than colours; an empty artist of others
        (338, 3, extra, struct.pack(f"{end}{extra}H", *[0] * extra)) if extra else (315, 2, 1, b""),
    ]
    entries, tail = b"", b""
    for tag, kind, count, value in tags:
        packed = struct.pack(f"{end}I", value) if isinstance(value, int) else value.ljust(4, b"\0")
        if len(packed) > 4:
            packed, tail = struct.pack(f"{end}I", lists + len(tail)), tail + packed
        entries += struct.pack(f"{end}HHI", tag, kind, count) + packed
    start = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{end}I", directory)
    return start + data + struct.pack(f"{end}H", len(tags)) + entries + bytes(4) + tail
