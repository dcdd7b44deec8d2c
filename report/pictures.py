"""Pictures of a report: galleries of images, truth, blend, errors and every network's mask; the contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np

import atomic
from ensemble.stored_masks import StoredMasks
from kernels.metrics import DICE, Metric
from models.image_file import decode
from report.thumbnail import data_uri

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_THUMBNAIL_WIDTH_PX = 360
_SHEET_WIDTH_PX = 640
# error colours: hit, false alarm, miss
_HIT, _FALSE_ALARM, _MISS = (200, 200, 200), (230, 60, 40), (40, 110, 240)
_AGREED, _DISPUTED = (200, 200, 200), (240, 150, 30)


def error_picture(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where two masks (H, W) bool differ: (H, W, 3) uint8 RGB, black where both are background, light grey where both
    are foreground, red where only the prediction is, blue where only the truth is."""
    picture = np.zeros((*truth.shape, 3), np.uint8)
    picture[predicted & truth] = _HIT
    picture[predicted & ~truth] = _FALSE_ALARM
    picture[~predicted & truth] = _MISS
    return picture


def disagreement_picture(masks: np.ndarray) -> np.ndarray:
    """Where masks (M, H, W) bool differ from each other: (H, W, 3) uint8 RGB, orange there, else as `error_picture`."""
    picture = np.zeros((*masks.shape[1:], 3), np.uint8)
    every, some = masks.all(0), masks.any(0)
    picture[every] = _AGREED
    picture[some & ~every] = _DISPUTED
    return picture


def reduce(picture: np.ndarray, width_px: int) -> np.ndarray:
    """A picture (H, W) or (H, W, 3) uint8 made smaller by area; coloured errors are thickened first, as lines one
    pixel wide would vanish in the average."""
    height, width = picture.shape[:2]
    if picture.ndim == 3:
        reach = max(1, round(width / width_px / 2))
        kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
        original, picture = picture, picture.copy()
        for colour in (_FALSE_ALARM, _MISS, _DISPUTED):
            where = cv2.inRange(original, colour, colour)
            if cv2.hasNonZero(where):
                picture[cv2.dilate(where, kernel) > 0] = colour
    return cv2.resize(picture, (width_px, round(width_px * height / width)), interpolation=cv2.INTER_AREA)


def _encoded(picture: np.ndarray, suffix: str) -> bytes:
    bgr = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, 80] if suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    ok, data = cv2.imencode(suffix, bgr, options)
    if not ok:
        raise ValueError(f"a picture of shape {picture.shape} cannot be written as {suffix}")
    return data.tobytes()


def picture_uri(picture: np.ndarray, suffix: str) -> str:
    """The data URI of a picture (H, W) or (H, W, 3) uint8 RGB as ".jpg" or ".png"."""
    return data_uri(_encoded(picture, suffix), "image/jpeg" if suffix == ".jpg" else "image/png")


@dataclass(frozen=True)
class Pane:
    """A small picture on the page (a data URI) that links to a large one beside it."""

    title: str
    thumbnail: str
    link: str


@dataclass(frozen=True)
class Case:
    """One image of a gallery: its name, a line about it, its panes, and where to look first, as CSS has places."""

    name: str
    note: str
    panes: list[Pane]
    spot: str = ""


class Album:
    """The folder of large pictures beside a page; a picture is written once, whatever galleries show it.

    Args:
        folder: of the large pictures.
        relative: how the page links to it.
    """

    def __init__(self, folder: Path, relative: str) -> None:
        self._folder = folder
        self._relative = relative
        self._written: set[str] = set()

    def pane(self, image: str, title: str, picture: np.ndarray, *, photograph: bool = False) -> Pane:
        """Write a full-size picture, (H, W) bool or uint8 or (H, W, 3) uint8 RGB; returns its pane."""
        if picture.dtype == bool:
            picture = picture * np.uint8(255)
        suffix = ".jpg" if photograph else ".png"
        kind = "image/jpeg" if photograph else "image/png"
        name = f"{Path(image).stem}-{''.join(c if c.isalnum() else '-' for c in title.lower())}{suffix}"
        if name not in self._written:
            with atomic.replacing(self._folder / name) as temporary:
                temporary.write_bytes(_encoded(picture, suffix))
            self._written.add(name)
        small = cv2.resize(picture, _small(picture), interpolation=cv2.INTER_AREA) if photograph else None
        thumbnail = _encoded(reduce(picture, _THUMBNAIL_WIDTH_PX) if small is None else small, suffix)
        return Pane(title, data_uri(thumbnail, kind), f"{self._relative}/{name}")

    def remove_others(self) -> None:
        """Remove pictures of an earlier report that this one does not show."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.suffix in (".png", ".jpg") and path.name not in self._written:
                path.unlink()


def _small(picture: np.ndarray) -> tuple[int, int]:
    height, width = picture.shape[:2]
    return _THUMBNAIL_WIDTH_PX, round(_THUMBNAIL_WIDTH_PX * height / width)


def worst_spot(wrong: np.ndarray) -> str:
    """Where most of a mask (H, W) bool is true, in a window of an eighth of it: "x% y%"; the middle if nowhere.

    >>> worst_spot(np.arange(16 * 32).reshape(16, 32) == 3 * 32 + 8)
    '26.6% 21.9%'
    """
    height, width = wrong.shape
    window = (max(1, width // 8) | 1, max(1, height // 8) | 1)
    share = cv2.boxFilter(wrong.astype(np.float32), -1, window, borderType=cv2.BORDER_CONSTANT)
    # the sums of floats differ in their last bits: the middle of all places that are as bad
    ys, xs = np.nonzero(share >= share.max() - 1e-4)
    y, x = ys[len(ys) // 2], np.median(xs[ys == ys[len(ys) // 2]])
    return f"{100 * (x + 0.5) / width:.1f}% {100 * (y + 0.5) / height:.1f}%"


def case(
    album: Album,
    reader: StoredMasks,
    trusted: np.ndarray,
    image: str,
    path: Path,
    truth: np.ndarray | None,
    note: str,
) -> Case:
    """The panes of one image: photograph, truth, blend, error, where networks disagree, each network's mask.

    Args:
        album: where large pictures go.
        reader: the networks; the blend is drawn only where the truth is known.
        trusted: positions of the networks whose disagreement is drawn.
        image: its name.
        path: of the photograph.
        truth: (H, W) bool, or None.
        note: a line about it.
    """
    planes = reader.planes(image)
    each = reader.each(planes)
    panes = [album.pane(image, "image", decode(path), photograph=True)]
    wrong = each[trusted].any(0) & ~each[trusted].all(0)
    if truth is not None:
        blend = reader.mask(image, planes)
        wrong = blend != truth
        panes += [
            album.pane(image, "truth", truth),
            album.pane(image, "blend", blend),
            album.pane(image, "error", error_picture(blend, truth)),
        ]
    if len(trusted) > 1:
        panes.append(album.pane(image, "disagreement", disagreement_picture(each[trusted])))
    panes += [album.pane(image, name, mask) for name, mask in zip(reader.names, each, strict=True)]
    return Case(image, note, panes, worst_spot(wrong))


def contact_sheet(
    path: Path,
    reader: StoredMasks,
    rows: Sequence[tuple[str, float, Path, np.ndarray]],
    metric: Metric = DICE,
    zooms: Sequence[tuple[Mapping[str, Any], Sequence[tuple[str, np.ndarray]]]] = (),
) -> None:
    """Draw image, truth, blend and error for some images, and enlarged parts; PNG, whole or not at all.

    Args:
        path: of the PNG.
        reader: of the blend's out-of-fold logits, so that no network saw the image it is drawn on.
        rows: (image name, its score, path of the photograph, (H, W) bool truth).
        metric: of the scores.
        zooms: as `report.boundary.zooms` gives them.
    """
    lines = len(rows) + len(zooms)
    figure, axes = plt.subplots(lines, 4, figsize=(16, 2.75 * lines + 0.5), squeeze=False)
    for line, (example, pictures) in zip(axes[len(rows) :], zooms, strict=True):
        for axis, (title, picture) in zip(line, pictures, strict=False):
            axis.imshow(picture)
            axis.set_title(f"{example['image']}: {title}", fontsize=9)
        for axis in line:
            axis.axis("off")
    for line, (name, score, photograph, truth) in zip(axes, rows, strict=False):
        predicted = reader.mask(name, reader.planes(name))
        white = np.uint8(255)
        pictures = (
            (name, decode(photograph)),
            ("truth", truth * white),
            (f"blend, {metric.label} {score:.4f}", predicted * white),
            ("error: red too much, blue too little", error_picture(predicted, truth)),
        )
        for axis, (title, picture) in zip(line, pictures, strict=True):
            axis.imshow(reduce(picture, _SHEET_WIDTH_PX), cmap="gray" if picture.ndim == 2 else None)
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    figure.tight_layout(pad=0.6)
    with atomic.replacing(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png")
    plt.close(figure)
