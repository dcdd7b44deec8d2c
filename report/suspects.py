"""`python -m report.suspects`: training labels that out-of-fold logits contradict. `make suspects` calls it.

Writes a page with the worst, a table of all labels, and a table of the suspect ones for `--leave-out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import tyro

from command_line import UserError, program
from folder_lock import fill
from folds.csv_table import write_table
from folds.images import TrainingSet, find_training_set
from folds.parallel import cut, in_parallel
from folds.run_layout import (
    CONFIDENCE_FILE,
    SUSPECTS_DIR,
    SUSPECTS_FILE,
    SUSPECTS_PAGE_FILE,
    finished_folds,
    trained_runs,
)
from folds.store import LogitStore
from folds.task import mean_over_images, read_manifest
from kernels.metrics import find_metric
from models.frame import Frame
from predict.members import Member, find_members
from program_flags import CompetitionName, DataFolder, Jobs, NonNegative, places
from report import page
from report.label_confidence import LabelConfidence, label_confidence
from report.scan import trusted_networks
from report.thumbnail import Thumbnail, jpeg_uri

_CHUNK = 16
# how many times as far below the median as the lower quartile suspect labels lie, and at most this share of all
_STRANGE, _MOST_SHARE = 4.5, 0.1
# of the frame's height and width, at least, around the region at fault
_LEAST_ZOOM = 0.22
_WIDE_PX = 360
_LABEL, _NETWORK, _BOX = (255, 40, 120), (30, 200, 255), (255, 220, 0)
COLUMNS = ("image", "confidence", "kind", "evidence_px", "top", "left", "bottom", "right")


@dataclass(frozen=True)
class Witnesses:
    """Networks that have not seen the image they are asked about; pickles to workers.

    Attributes:
        names: of the networks.
        frames: of the networks.
        stores: of their out-of-fold logits.
    """

    names: tuple[str, ...]
    frames: tuple[Frame, ...]
    stores: tuple[LogitStore, ...]

    @staticmethod
    def of(members: Sequence[Member]) -> Witnesses:
        """The networks of members."""
        return Witnesses(
            tuple(m.name for m in members), tuple(m.frame for m in members), tuple(m.oof() for m in members)
        )

    @property
    def finest(self) -> Frame:
        """The frame that all are brought to."""
        return max(self.frames, key=lambda frame: frame.size[0] * frame.size[1])

    def logits(self, image: str, full: tuple[int, int]) -> np.ndarray:
        """(h, w) float32: their mean, in the finest frame."""
        planes = [
            frame.transfer(store.head(image), self.finest, full)
            for frame, store in zip(self.frames, self.stores, strict=True)
        ]
        return np.mean(planes, axis=0).astype(np.float32)


def find_witnesses(root: Path, training: TrainingSet, asked: Sequence[str]) -> Witnesses:
    """The networks that are asked.

    Args:
        root: `runs/<competition>`.
        training: the images.
        asked: names of runs; none for all that are complete and have at most twice the best one's error.

    Raises:
        UserError: there are none, or they were trained on other data.
    """
    metric = find_metric(training.competition.metric)
    runs = {run.name: finished_folds(run) for run in trained_runs(root)}
    folds = max((len(found) for found in runs.values()), default=0)
    names = list(asked) or [name for name, found in runs.items() if len(found) == folds]
    if not names:
        raise UserError(f"{root} has no trained network to ask: train one first (make folds V=...).")
    members = find_members(root, names, folds)
    if not asked:
        manifests = [[read_manifest(fold) or {} for fold in member.folds] for member in members]
        scores = [mean_over_images(own, metric.name) or 0.0 for own in manifests]
        members = [members[i] for i in trusted_networks(np.array(scores))]
    for member in members:
        if member.data_digest != training.digest:
            raise UserError(
                f"{member.folder} was trained on other data than {training.data} holds now: name the data that it was "
                f"trained on (--data), or train it again (make folds V={member.name})."
            )
    return Witnesses.of(members)


def _ask(witnesses: Witnesses, training: TrainingSet, names: Sequence[str]) -> list[LabelConfidence]:
    cv2.setNumThreads(1)
    full = training.competition.size
    return [
        label_confidence(witnesses.logits(name, full), witnesses.finest.apply_mask(training.mask(name)))
        for name in names
    ]


def _box(witnesses: Witnesses, full: tuple[int, int], box: tuple[float, float, float, float]) -> list[int]:
    """(top, left, bottom, right) in pixels of the image, of shares of a network's frame."""
    frame = witnesses.finest
    rows, columns = (slice(0, frame.size[0]), slice(0, frame.size[1]))
    if frame.fit != "resize":
        rows, columns = frame.inside(full)
    found = []
    for share, inner, side, length in zip(box, (rows, columns) * 2, full * 2, frame.size * 2, strict=True):
        within = (share * length - inner.start) / (inner.stop - inner.start)
        found.append(round(min(max(within, 0.0), 1.0) * side))
    return found


def rank(witnesses: Witnesses, training: TrainingSet, *, jobs: int = -1) -> pd.DataFrame:
    """Every label with its confidence and the region that speaks most against it, least confident first.

    Args:
        witnesses: the networks.
        training: the images.
        jobs: processes, as joblib counts them.

    Returns:
        `COLUMNS`: image; confidence 0..1; kind of the region, "" where there is none; evidence_px, pixels of the
        network, each weighed by how sure it is; and the region's box in pixels of the image.
    """
    names = training.names
    ask, parts = partial(_ask, witnesses, training), cut(names, _CHUNK)
    asked = in_parallel(ask, parts, len(names), label="ask networks", unit="label", jobs=jobs)
    found = [confidence for part in asked for confidence in part]
    rows: list[tuple[Any, ...]] = []
    for name, own in zip(names, found, strict=True):
        first = own.regions[0] if own.regions else None
        box = _box(witnesses, training.competition.size, first.box) if first else [0, 0, 0, 0]
        rows.append((name, own.confidence, own.kind, first.evidence if first else 0.0, *box))
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(["confidence", "image"], ignore_index=True)


def suspect(confidence: np.ndarray) -> int:
    """How many labels are suspect, of confidences in rising order (N,).

    Those whose logarithm lies several times as far below the median as the lower quartile does; at most one in ten.
    """
    logarithms = np.log(np.maximum(confidence, 1e-9))
    quartile, middle = np.percentile(logarithms, [25, 50])
    far = logarithms < middle - _STRANGE * max(middle - quartile, 0.02)
    return int(min(far.sum(), _MOST_SHARE * len(confidence)))


def _zoomed(top: int, left: int, bottom: int, right: int, full: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns about a box, of the frame's own shape."""
    share = max((bottom - top) / full[0] * 1.5, (right - left) / full[1] * 1.5, _LEAST_ZOOM)
    cut = []
    for low, high, side in ((top, bottom, full[0]), (left, right, full[1])):
        length = min(side, round(share * side))
        start = min(max(0, (low + high - length) // 2), side - length)
        cut.append(slice(start, start + length))
    return cut[0], cut[1]


def _outlined(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], wide: int) -> np.ndarray:
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture.copy(), lines, -1, colour, wide)


def _pictures(witnesses: Witnesses, training: TrainingSet, row: Any) -> list[Thumbnail]:
    """The image with its label, and the region at fault with the label, and with the networks' mask."""
    full = training.competition.size
    image, label = training.picture(row.image), training.mask(row.image)
    said = witnesses.finest.invert(witnesses.logits(row.image, full), full) > 0
    cut = _zoomed(row.top, row.left, row.bottom, row.right, full)
    wide = max(1, round(full[1] / 240))
    near = max(1, round((cut[1].stop - cut[1].start) / 240))
    whole = _outlined(image, label, _LABEL, wide)
    whole = cv2.rectangle(whole, (cut[1].start, cut[0].start), (cut[1].stop - 1, cut[0].stop - 1), _BOX, wide)
    return [
        Thumbnail(jpeg_uri(whole, _WIDE_PX), row.image, f"{row.kind or 'no region'}; confidence {row.confidence:.4f}"),
        Thumbnail(jpeg_uri(_outlined(image[cut], label[cut], _LABEL, near), _WIDE_PX), "the label", "enlarged"),
        Thumbnail(jpeg_uri(_outlined(image[cut], said[cut], _NETWORK, near), _WIDE_PX), "the networks", "enlarged"),
    ]


@program
def main(
    competition: CompetitionName = "carvana",
    members: str = "",
    data: DataFolder = None,
    runs: Path = Path("runs"),
    count: NonNegative = 0,
    worst: NonNegative = 40,
    jobs: Jobs = -1,
) -> None:
    """Rank the training labels by how far networks that have not seen them bear them out.

    Args:
        members: networks to ask, a comma list; by default all that are trained and have at most twice the best one's
            error.
        runs: where trained variants are; the page goes into runs/<competition>/suspects.
        count: labels that suspects.csv takes, from the worst on; 0 takes those that lie far below most.
        worst: labels on the page.
    """
    facts, data, root = places(competition, data, runs)
    if facts.composed:
        raise UserError(f"{facts.name} composes its images, and the labels with them: there is none to suspect.")
    folder = root / SUSPECTS_DIR
    fill(folder)
    training = find_training_set(facts, data)
    asked = [part.strip() for part in members.split(",") if part.strip()]
    witnesses = find_witnesses(root, training, asked)
    table = rank(witnesses, training, jobs=jobs)
    found = min(count, len(table)) or suspect(table["confidence"].to_numpy())
    for name, rows in ((CONFIDENCE_FILE, table), (SUSPECTS_FILE, table.head(found))):
        write_table(folder / name, rows)
    page.write(
        folder / SUSPECTS_PAGE_FILE,
        "suspects.html.j2",
        title=f"{facts.title}: suspect labels",
        networks=witnesses.names,
        labels=len(table),
        found=found,
        kinds=table.head(found)["kind"].replace("", "no region").value_counts().to_dict(),
        rows=list(table.head(worst).itertuples()),
        pictures=[_pictures(witnesses, training, row) for row in table.head(worst).itertuples()],
    )
    print(f"{found} of {len(table)} labels are suspect, by {', '.join(witnesses.names)}")
    print(f"page      {folder / SUSPECTS_PAGE_FILE}")
    print(f"suspects  {folder / SUSPECTS_FILE}")
    print(f"all       {folder / CONFIDENCE_FILE}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
