"""One pass over the images: statistics of each, sums for mean pictures, and masks of neighbouring views compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from command_line import UserError
from competition import Competition, Size
from folds.parallel import in_parallel
from kernels import rle
from kernels.dice import counts_runs
from kernels.topology import pieces_and_holes
from models.frame import Frame
from models.image_file import ImageFile
from report.explore.listing import Pictures

# images that a process takes at a time, unless a group has more
_CHUNK = 16
# the longer side of what statistics are taken on, at most
_LONGEST_PX = 256
# of the fingerprint: comparisons of neighbouring pixels, and a small grey picture to check with
_HASH_SIDE, _THUMBNAIL = 16, (24, 32)
# views of which every pair is compared; of more, neighbours alone
_MOST_VIEWS = 36
# of an image; these tell train from test (report/explore/shift.py)
STATISTICS = {
    "brightness": "mean grey, 0..255",
    "contrast": "standard deviation of grey",
    "red": "mean, 0..255",
    "green": "mean, 0..255",
    "blue": "mean, 0..255",
    "colourfulness": "largest less smallest channel",
    "dark": "share of pixels below 8",
    "bright": "share of pixels above 247",
    "sharpness": "log variance of the Laplacian",
    "bytes_per_px": "of the file",
}


@dataclass(frozen=True)
class View:
    """The images of one view, added up at reduced size; of images without views, all of them.

    Attributes:
        count: of images, and of masks where there are any.
        image: (h, w, 3) uint32, their sum.
        coverage: (h, w) uint32, of the masks' coverage 0..255.
    """

    count: int
    image: np.ndarray
    coverage: np.ndarray


@dataclass(frozen=True)
class Survey:
    """What the pass has found.

    Attributes:
        images: one row an image that could be read: set, image, group, view, bytes, height, width, format, mode, digest
            of its bytes, those of `STATISTICS`, and of masks area_share, boundary_px, row, column (0..1, centre of
            mass), pieces, holes, touches_edge.
        hashes: (N, 32) uint8: 256 bits an image, in the order of `images`.
        thumbnails: (N, 24, 32) uint8 grey.
        pairs: of masks of one group in two views: group, first, second, iou, dice.
        views: {(set, view): sums}; the view is "" where there are none.
        faults: names of files by what is wrong with them.
        small: (h, w) of the sums.
    """

    images: pd.DataFrame
    hashes: np.ndarray
    thumbnails: np.ndarray
    pairs: pd.DataFrame
    views: dict[tuple[str, str], View]
    faults: dict[str, list[str]]
    small: Size


@dataclass
class _Found:
    rows: list[dict[str, Any]] = field(default_factory=list)
    hashes: list[np.ndarray] = field(default_factory=list)
    thumbnails: list[np.ndarray] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)
    coverages: list[np.ndarray] = field(default_factory=list)
    pairs: list[tuple[str, str, str, float, float]] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)


def small_size(full: Size) -> Size:
    """The size that statistics are taken at: a whole fraction of the full one, for which codecs have a short way.

    >>> small_size((1280, 1918)), small_size((101, 101))
    ((160, 239), (101, 101))
    """
    factor = -(-max(full) // _LONGEST_PX)
    return full[0] // factor, full[1] // factor


def dhash(grey: np.ndarray) -> np.ndarray:
    """(32,) uint8: 256 bits, whether each of 16 x 16 places of a grey picture (h, w) is darker than its right one.

    Equal for a picture that was resized, compressed again, or made brighter or darker as a whole.
    """
    places = cv2.resize(grey, (_HASH_SIDE + 1, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(places[:, :-1] < places[:, 1:])


def statistics(picture: np.ndarray, grey: np.ndarray) -> dict[str, float]:
    """The statistics of a picture (h, w, 3) uint8 RGB and of its grey (h, w), all of `STATISTICS` but bytes."""
    red, green, blue = (float(value) for value in cv2.mean(picture)[:3])
    mean, deviation = cv2.meanStdDev(grey)
    spread = cv2.absdiff(picture.max(2), picture.min(2))
    return {
        "brightness": float(mean[0, 0]),
        "contrast": float(deviation[0, 0]),
        "red": red,
        "green": green,
        "blue": blue,
        "colourfulness": float(cv2.mean(spread)[0]),
        "dark": np.count_nonzero(grey < 8) / grey.size,
        "bright": np.count_nonzero(grey > 247) / grey.size,
        "sharpness": float(np.log1p(cv2.Laplacian(grey, cv2.CV_32F).var())),
    }


def mask_shape(mask: np.ndarray, runs: np.ndarray) -> dict[str, float]:
    """What there is to say of a mask (H, W) bool with the runs (R, 2).

    Returns:
        area_share: 0..1 of the frame; boundary_px: edges between pixels of foreground and background; row, column: the
        centre of mass as shares of height and width, nan of an empty mask; pieces, holes; touches_edge: 0 or 1.
    """
    height, width = mask.shape
    bits = mask.view(np.uint8)
    by_row, by_column = (
        cv2.reduce(bits, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().astype(np.int64) for axis in (1, 0)
    )
    area = int(by_row.sum())
    pieces, holes = pieces_and_holes(runs, (height, width))
    boundary = cv2.countNonZero(bits[1:] ^ bits[:-1]) + cv2.countNonZero(bits[:, 1:] ^ bits[:, :-1])
    return {
        "area_share": area / mask.size,
        "boundary_px": boundary,
        "row": (by_row @ np.arange(height) / area + 0.5) / height if area else np.nan,
        "column": (by_column @ np.arange(width) / area + 0.5) / width if area else np.nan,
        "pieces": pieces,
        "holes": holes,
        "touches_edge": int(bool(by_row[0] or by_row[-1] or by_column[0] or by_column[-1])),
    }


def _file_facts(path: Path, file: ImageFile) -> dict[str, Any]:
    content = path.read_bytes()
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    height, width = file.size
    return {
        "bytes": len(content),
        "height": height,
        "width": width,
        "format": file.format,
        "mode": file.mode,
        "digest": digest,
        "bytes_per_px": len(content) / (height * width),
    }


def _picture(pictures: Pictures, name: str, small: Size) -> tuple[np.ndarray, dict[str, Any]]:
    """(h, w, 3) uint8 RGB at reduced size, and what the file says."""
    if pictures.training is not None and pictures.training.composed:
        full = pictures.training.picture(name)
        facts = {"bytes": 0, "height": full.shape[0], "width": full.shape[1], "format": "composed", "mode": "RGB"}
        return cv2.resize(full, small[::-1], interpolation=cv2.INTER_AREA), {**facts, "digest": "", "bytes_per_px": 0}
    path = pictures.folder / name
    file = ImageFile(path)
    # damage is looked for at the codec's smallest size, which is the one that statistics take
    file.check()
    picture = file.reduced(small)
    if picture is None:
        picture = cv2.resize(file.image(), small[::-1], interpolation=cv2.INTER_AREA)
    return picture, _file_facts(path, file)


def _compare_views(found: _Found, group: str, views: list[tuple[str, np.ndarray]]) -> None:
    """Masks of a group's views, as runs, with each other; of very many views, neighbours alone."""
    ends = list(pairwise(range(len(views))))
    if len(views) <= _MOST_VIEWS:
        ends = [(i, j) for i in range(len(views)) for j in range(i + 1, len(views))]
    for i, j in ends:
        both, first, second = counts_runs(views[i][1], views[j][1])
        union = first + second - both
        dice, iou = (2 * both / (first + second), both / union) if union else (1.0, 1.0)
        found.pairs.append((group, views[i][0], views[j][0], iou, dice))


def _look(competition: Competition, small: Size, some: tuple[Pictures, int, int]) -> _Found:
    cv2.setNumThreads(1)
    pictures, start, stop = some
    found, frame = _Found(), Frame(small)
    views: dict[str, list[tuple[str, np.ndarray]]] = {}
    for name, group in zip(pictures.names[start:stop], pictures.groups[start:stop], strict=True):
        view = competition.view(name)
        row = {"set": pictures.name, "image": name, "group": group, "view": view or ""}
        try:
            picture, facts = _picture(pictures, name, small)
            if pictures.training is not None:
                mask = pictures.training.mask(name)
                runs = rle.encode(mask)
                facts |= mask_shape(mask, runs)
                found.coverages.append(frame.apply_mask(mask))
                if view is not None:
                    views.setdefault(group, []).append((view, runs))
        except UserError as error:
            found.faults.append((name, str(error)))
            continue
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        found.rows.append({**row, **facts, **statistics(picture, grey)})
        found.hashes.append(dhash(grey))
        found.thumbnails.append(cv2.resize(grey, _THUMBNAIL[::-1], interpolation=cv2.INTER_AREA))
        found.pictures.append(picture)
    for group, each in views.items():
        _compare_views(found, group, each)
    return found


def _chunks(pictures: Pictures) -> Iterator[tuple[int, int]]:
    """Where to cut a set so that every group stays whole."""
    start, groups = 0, pictures.groups
    for at in range(1, len(groups) + 1):
        if at == len(groups) or (at - start >= _CHUNK and groups[at] != groups[at - 1]):
            yield start, at
            start = at


def _add(views: dict[tuple[str, str], View], found: _Found) -> None:
    for i, (row, picture) in enumerate(zip(found.rows, found.pictures, strict=True)):
        key = row["set"], row["view"]
        if key not in views:
            views[key] = View(0, np.zeros(picture.shape, np.uint32), np.zeros(picture.shape[:2], np.uint32))
        old = views[key]
        np.add(old.image, picture, out=old.image)
        # of a test set there is none
        if found.coverages:
            np.add(old.coverage, found.coverages[i], out=old.coverage)
        views[key] = View(old.count + 1, old.image, old.coverage)


def survey(sets: list[Pictures], competition: Competition, *, jobs: int = -1) -> Survey:
    """Read every image of some sets once, and the training masks.

    Args:
        sets: the images; those of a group one after the other.
        competition: its facts.
        jobs: processes, as joblib counts them.
    """
    small = small_size(competition.size)
    parts = [(pictures, start, stop) for pictures in sets for start, stop in _chunks(pictures)]
    total = sum(len(pictures.names) for pictures in sets)
    look = partial(_look, competition, small)
    whole = _Found()
    views: dict[tuple[str, str], View] = {}
    faults: dict[str, list[str]] = {}
    for found in in_parallel(look, parts, total, label="read images", size=lambda part: part[2] - part[1], jobs=jobs):
        whole.rows += found.rows
        whole.hashes += found.hashes
        whole.thumbnails += found.thumbnails
        whole.pairs += found.pairs
        for _, fault in found.faults:
            faults.setdefault("cannot be used", []).append(fault)
        _add(views, found)
    images = pd.DataFrame(whole.rows)
    if not len(images):
        raise UserError("no image can be read: see what is wrong with each by python -m folds.images.")
    return Survey(
        images,
        np.array(whole.hashes),
        np.array(whole.thumbnails),
        pd.DataFrame(whole.pairs, columns=["group", "first", "second", "iou", "dice"]),
        dict(sorted(views.items())),
        faults,
        small,
    )
