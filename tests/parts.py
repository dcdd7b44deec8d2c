"""Folders of parts for composites, made on the spot: coloured grounds, and round and square things with soft edges."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIZE = (45, 62)


def write_parts(data: Path, *, backgrounds: int = 5, foregrounds: int = 6, depth: bool = True, **settings: int) -> Path:
    """Make `bg`, `fg`, with `depth` their depth maps, and composites.json of `settings` if there are any."""
    rng = np.random.default_rng(7)
    for folder in ("bg", "fg", *(("bg_depth", "fg_depth") if depth else ())):
        (data / folder).mkdir(parents=True)
    for i in range(backgrounds):
        coarse = rng.integers(0, 256, (3, 4, 3), np.uint8)
        picture = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        Image.fromarray(picture).save(data / "bg" / f"ground_{i}.{'png' if i % 2 else 'jpg'}")
        if depth:
            near = np.repeat(np.linspace(10, 150 + i, SIZE[0]).astype(np.uint8)[:, None], SIZE[1], axis=1)
            Image.fromarray(near).save(data / "bg_depth" / f"ground_{i}.png")
    for i in range(foregrounds):
        height, width = 17 + i, 23 - i
        alpha = np.zeros((height, width), np.uint8)
        cv2.ellipse(alpha, (width // 2, height // 2), (width // 2 - 2, height // 2 - 2), 0, 0, 360, 255, -1)
        picture = np.dstack([np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8), cv2.blur(alpha, (3, 3))])
        Image.fromarray(picture).save(data / "fg" / f"thing.{i}.png")
        if depth:
            Image.fromarray(np.full((height, width), 90 + 5 * i, np.uint8)).save(data / "fg_depth" / f"thing.{i}.png")
    if settings:
        (data / "composites.json").write_text(json.dumps(settings))
    return data
