"""Small pictures that stand in a page itself."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import cv2
import numpy as np

_QUALITY = 80
_WIDE_PX = 240


@dataclass(frozen=True)
class Thumbnail:
    """A small picture in the page: its data URI, and two lines about it."""

    picture: str
    title: str
    note: str = ""


def data_uri(data: bytes, kind: str) -> str:
    """The data URI of a file's bytes; `kind` is its media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def jpeg_uri(picture: np.ndarray, wide_px: int = _WIDE_PX) -> str:
    """The data URI of (h, w, 3) uint8 RGB or (h, w) grey, at most `wide_px` wide, at least half of that."""
    width = picture.shape[1]
    wide = min(max(width, wide_px // 2), wide_px)
    if wide != width:
        size = wide, max(1, round(wide * picture.shape[0] / width))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if wide < width else cv2.INTER_NEAREST)
    bgr = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return data_uri(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes(), "image/jpeg")
