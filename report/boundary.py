"""What boosted pixels do at the boundary, in pictures: a part of an image, its mask before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from competition import Size
from folds.images import TrainingSet, read_mask
from kernels import rle
from models.image_file import decode
from report.pictures import error_picture, picture_uri

# of what is shown, beside the full frame
ZOOM = 3
_OUTLINE = (255, 210, 0)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_NEAREST)


def zooms(
    training: TrainingSet, examples: Sequence[Mapping[str, Any]], full: Size
) -> list[tuple[Mapping[str, Any], list[tuple[str, np.ndarray]]]]:
    """Of each example (`ensemble.pixel_report.Example`), titles and enlarged pictures (H, W, 3) uint8 RGB: the part of
    the image with the outline of the truth, and the errors of its mask before and after."""
    found = []
    for example in examples:
        size = example["height"], example["width"]
        window = np.s_[example["top"] : example["top"] + size[0], example["left"] : example["left"] + size[1]]
        truth = read_mask(training.mask_path(example["image"]), full)[window]
        part = _enlarged(np.ascontiguousarray(decode(training.image_path(example["image"]))[window]))
        outlines, _ = cv2.findContours(_enlarged(truth.astype(np.uint8)), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(part, outlines, -1, _OUTLINE, 1)
        masks = [(title, rle.decode(rle.parse(example[key], size=size), size)) for title, key in _SIDES]
        pictures = [(title, _enlarged(error_picture(mask, truth))) for title, mask in masks]
        found.append((example, [("image, truth outlined", part), *pictures]))
    return found


_SIDES = (("networks alone", "before"), ("with the picture", "after"))


def gallery(training: TrainingSet, examples: Sequence[Mapping[str, Any]], full: Size) -> list[dict[str, Any]]:
    """`zooms` as the page takes them: name, note, and pictures as data URIs."""
    return [
        {
            "name": example["image"],
            "note": f"gains {example['gain']:+.4f}",
            "pictures": [
                {"title": title, "note": "", "picture": picture_uri(picture, ".jpg" if k == 0 else ".png")}
                for k, (title, picture) in enumerate(pictures)
            ],
        }
        for example, pictures in zooms(training, examples, full)
    ]
