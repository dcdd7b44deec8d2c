"""What boosted pixels do, for people: how many pixels they change, what each group of features is worth, and where to
look. Every image is looked at by trees that have not seen its fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

import atomic
from ensemble.blend_file import PIXELS_REPORT_FILE
from ensemble.oof_data import OofData
from ensemble.pixel_gain import some_of_each_fold
from ensemble.pixels import BoostedPixels, names_of_features
from ensemble.selection import Candidate
from folds.inputs import Inputs
from folds.parallel import cut, in_parallel
from folds.scoring import score_of
from json_file import Count, Schema, Share, extensible
from kernels.rle import decode, encode_text
from models.frame import Frame

# images of each fold that are looked at
_IMAGES = 6
_CHUNK = 4
# what is shown of an image, in pixels of the full frame
ZOOM = (144, 216)
# of all pictures' features together
PICTURE = "the picture"
_OF_THE_PICTURE = ("colour", "edge", "regions")


@extensible
class Example(TypedDict):
    """A part of an image: its mask before and after, as run-length text in row-major order."""

    image: str
    top: Annotated[int, Field(ge=0)]
    left: Annotated[int, Field(ge=0)]
    height: Count
    width: Count
    before: str
    after: str
    gain: float


@extensible
class PixelReport(TypedDict):
    """The content of pixels_report.json; FORMATS.md tells what each field means."""

    images: Count
    band_px: float
    changed_px: float
    righted: Share
    gain: float
    groups: dict[str, float]
    examples: list[Example]


PIXEL_REPORT = Schema(PixelReport, "choose the blend again (make fit), or remove the file")


def _columns(names: Sequence[str]) -> dict[str, list[int]]:
    """Positions of the features of each group, and of the whole picture's."""
    groups: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        group = name.partition(":")[0]
        groups.setdefault(group, []).append(k)
        if group in _OF_THE_PICTURE:
            groups.setdefault(PICTURE, []).append(k)
    return groups


def most_changed(changed: np.ndarray, size: tuple[int, int] = ZOOM) -> tuple[int, int, int, int]:
    """Top, left, height and width of the window that holds most of (H, W) bool `changed`.

    >>> most_changed(np.eye(8, dtype=bool)[::-1] & (np.arange(8) > 4), (3, 3))
    (0, 5, 3, 3)
    """
    height, width = (min(side, most) for side, most in zip(changed.shape, size, strict=True))
    sums = np.zeros((changed.shape[0] + 1, changed.shape[1] + 1), np.int64)
    sums[1:, 1:] = changed.cumsum(0).cumsum(1)
    held = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = np.divmod(int(held.argmax()), held.shape[1])
    return int(top), int(left), height, width


def _looked_at(
    stackers: Mapping[int, BoostedPixels], oof: OofData, pictures: Inputs, positions: Sequence[int]
) -> list[tuple[dict[str, float], Example]]:
    """Of each image its figures, among them what its score loses for want of each group, and the example of it."""
    cv2.setNumThreads(1)
    groups = _columns(names_of_features(len(oof.stores)))
    found = []
    for p in positions:
        pixels, runs = stackers[int(oof.fold[p])], oof.truth.of(p)
        band = pixels.band(oof.planes(p), oof.frames, oof.full, pictures.image(p))
        decided = band.decided_by(pixels.trees)
        before, after, truth = band.logits > 0, decided > 0, decode(runs, oof.full)
        with_them, without = score_of(decided, runs, oof.metric), score_of(band.logits, runs, oof.metric)
        figures = {
            "band": len(band.rows),
            "changed": int((before != after).sum()),
            "righted": int(((before != after) & (after == truth)).sum()),
            "gain": with_them - without,
        }
        order, own = np.random.default_rng(p).permutation(len(band.rows)), band.features.copy()
        for group, columns in groups.items():
            band.features[:, columns] = own[order][:, columns]
            figures[f"group {group}"] = with_them - score_of(band.decided_by(pixels.trees), runs, oof.metric)
            band.features[:, columns] = own[:, columns]
        top, left, height, width = most_changed(before != after)
        window = np.s_[top : top + height, left : left + width]
        example: Example = {
            "image": oof.images[p], "top": top, "left": left, "height": height, "width": width,
            "before": encode_text(np.ascontiguousarray(before[window])).decode(),
            "after": encode_text(np.ascontiguousarray(after[window])).decode(),
            "gain": figures["gain"],
        }  # fmt: skip
        found.append((figures, example))
    return found


def look_into(candidate: Candidate, oof: OofData, pictures: Mapping[Frame, Inputs], *, jobs: int = -1) -> PixelReport:
    """Look at some images of each fold by the trees that were grown without it.

    A group's worth is what the score loses where its features are shuffled among the pixels of an image.

    Args:
        candidate: the fitted way `pixels`.
        oof: the networks, in its order.
        pictures: the training images by frame, with those at full size.
        jobs: processes, as joblib counts them.
    """
    stackers = {k: stacker for k, stacker in candidate.nested_stackers.items() if isinstance(stacker, BoostedPixels)}
    frame = next(iter(stackers.values())).image_frame(oof.frames, oof.full)
    positions = some_of_each_fold(oof.fold, _IMAGES)
    look = partial(_looked_at, stackers, oof, pictures[frame])
    parts = in_parallel(look, cut(positions, _CHUNK), len(positions), label="look into pixels", few=0, jobs=jobs)
    figures, examples = zip(*(each for part in parts for each in part), strict=True)

    def mean(name: str) -> float:
        return float(np.mean([each[name] for each in figures]))

    ranked = sorted(examples, key=lambda example: -example["gain"])
    middle = len(ranked) // 2
    shown = dict.fromkeys([*range(min(3, len(ranked))), middle, len(ranked) - 1])
    return {
        "images": len(positions),
        "band_px": mean("band"),
        "changed_px": mean("changed"),
        "righted": mean("righted") / max(mean("changed"), 1e-9),
        "gain": mean("gain"),
        "groups": {name.removeprefix("group "): mean(name) for name in figures[0] if name.startswith("group ")},
        "examples": [ranked[k] for k in shown],
    }


def save(folder: Path, report: PixelReport) -> None:
    """Write it into the folder of a blend."""
    atomic.write_json(folder / PIXELS_REPORT_FILE, dict(report))


def load(folder: Path) -> dict[str, Any] | None:
    """What `save` wrote; None where there is none. UserError where it is damaged."""
    found = PIXEL_REPORT.read_if_there(folder / PIXELS_REPORT_FILE)
    return None if found is None else dict(found)
