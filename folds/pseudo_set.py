"""A set of pseudo-labels on disk: images that a blend has labelled, and its labels at full size.

What makes a label is a *maker*: a blend, over the networks of all folds or of one. A label is foreground exactly where
that blend's mask is. The rule of leaks is `Labels`:

- "blend": one maker, all folds' networks. Of them all but one were trained on what a fold holds out, so a fold that
  learns from such labels hears of what it is scored on, through images that nobody has labelled.
- "own-fold": a maker for each fold, that fold's own networks, blended as was chosen without the fold. Nothing that the
  fold holds out had a part in what it learns from.
- "out-of-fold": the training images, each labelled by the networks that did not see it. A fold learns from those that
  it does not hold out alone; their networks were trained on what it holds out, as with every stacked network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import numpy as np
import pandas as pd
from pydantic import Field
from typing_extensions import TypedDict

from command_line import UserError
from competition import Competition, Size
from folds.csv_table import read_table
from folds.logit_code import LIMIT
from folds.store import LogitStore
from json_file import Count, Digest, FolderName, Interval, Schema, extensible
from models.frame import Frame

PSEUDO_FILE = "pseudo.json"
PSEUDO_TABLE_FILE = "pseudo.csv"
PSEUDO_PAGE_FILE = "pseudo.html"
# the set of a blend's test images, and of its training images, unless they are named otherwise
PSEUDO_DIR = "pseudo"
DISTILLED_DIR = "distilled"

Source = Literal["test", "folder", "training"]
Labels = Literal["blend", "own-fold", "out-of-fold"]
# the fold of a maker of all folds' networks
ALL_FOLDS = -1

_HINT = "choose the images again (make pseudo)"


@extensible
class Maker(TypedDict):
    """What makes labels: networks of a fold, or of all, and what tells the masks of the blend of them from another's
    (`ensemble.blend.Blend.state`)."""

    fold: int
    blend: dict[str, Any]


@extensible
class Teacher(TypedDict):
    """A member whose logits the labels are made of; `rounds` are those of self-training that it comes from itself."""

    name: FolderName
    weights_digest: str
    rounds: NotRequired[list[dict[str, Any]]]


@extensible
class Calibration(TypedDict):
    """How far the expected score of out-of-fold images, each predicted without its fold, is from their score."""

    images: Count
    mean_error: float
    bias: float
    rank_correlation: float
    taken: Count
    taken_score: float | None


@extensible
class PseudoRecord(TypedDict):
    """The content of pseudo.json; FORMATS.md tells each field."""

    digest: Digest
    competition: str
    blend: FolderName
    source: Source
    labels: Labels
    images: str
    teachers: Annotated[list[Teacher], Field(min_length=1)]
    makers: Annotated[list[Maker], Field(min_length=1)]
    considered: Count
    taken: Count
    least: float
    expected: float | None
    expected_interval: Interval | None
    calibration: Calibration
    known_truth: NotRequired[dict[str, float]]


PSEUDO = Schema(PseudoRecord, _HINT)

# of 0 .. 255: a label's foreground is above it
_HALF = 127


def soft_label(logits: np.ndarray) -> np.ndarray:
    """Logits as a label.

    Args:
        logits: float32 of any shape.

    Returns:
        uint8 of that shape, the probability of foreground times 255: above 127 exactly where a logit is above 0.

    >>> soft_label(np.array([-20, 0, 1e-6, 1], np.float32)).tolist()
    [0, 127, 128, 186]
    """
    soft = np.rint(255 / (1 + np.exp(-np.clip(logits, -50, 50)))).astype(np.uint8)
    # next to 0 the rounding, not the sign, would decide
    return np.where(logits > 0, np.maximum(soft, _HALF + 1), np.minimum(soft, _HALF))


# the logit of every label, of those that are certain what a store holds at most
_LOGITS = np.array([-LIMIT, *np.log(np.arange(1, 255) / (255 - np.arange(1, 255))), LIMIT], np.float32)


@dataclass(frozen=True)
class LabelStore:
    """Labels at full size; pickles to workers.

    Attributes:
        store: of their logits, of which there are 256: a label that is stored takes little more than its boundary.
    """

    store: LogitStore

    @staticmethod
    def create(path: Path, names: Sequence[str], full: Size) -> LabelStore:
        """Those of some images of size `full` (H, W), to be written or, where the store is there, written on."""
        return LabelStore(LogitStore.create(path, names, (1, *full)))

    @staticmethod
    def open(path: Path) -> LabelStore:
        """Those that are there.

        Raises:
            UserError: there are none, or they are damaged.
        """
        if not path.is_dir():
            raise UserError(f"{path} is missing: {_HINT}.")
        return LabelStore(LogitStore.open(path))

    def write(self, name: str, logits: np.ndarray) -> None:
        """Store an image's label, by logits (H, W) float32 that are above 0 where it is foreground."""
        self.store.write(name, _LOGITS[soft_label(logits)][None])

    def soft(self, name: str) -> np.ndarray:
        """An image's label, (H, W) uint8: the probability of foreground times 255, its mask where that is above 127.

        Raises:
            UserError: it is missing or damaged.
        """
        return soft_label(self.store.head(name))

    def target(self, name: str, frame: Frame) -> np.ndarray:
        """An image's label in a network's frame, (h, w) uint8: the probability of foreground times 255."""
        return frame.apply(self.soft(name))


def labels_path(home: Path, fold: int) -> Path:
    """Where the labels of a set in the folder `home` lie that the maker of a fold, or of `ALL_FOLDS`, has made."""
    return home / ("labels.zarr" if fold == ALL_FOLDS else f"labels-{fold}.zarr")


def digest_of(
    source: Source,
    labels: Labels,
    makers: Sequence[Maker],
    taken: Mapping[int, Sequence[str]],
    made: Mapping[int, LabelStore],
) -> str:
    """16 hex digits over the labels of a set: which images, by which makers, and the labels' checksums.

    Args:
        taken: by fold of the maker, the names.
        made: by fold of the maker, the labels.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps([source, labels, [dict(maker) for maker in makers]], sort_keys=True).encode())
    for fold in sorted(taken):
        digest.update(f"{fold} {made[fold].store.digest(taken[fold])}\n".encode())
    return digest.hexdigest()


def by_number(table: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """The rows of a table with a column `fold`, by fold."""
    return [(k, table[table["fold"] == k]) for k in sorted({int(fold) for fold in table["fold"]})]


@dataclass(frozen=True)
class PseudoSet:
    """A set of pseudo-labels that is there, and whose labels are those that were chosen.

    Attributes:
        folder: `runs/<competition>/<blend>/<set>`.
        record: the content of its pseudo.json.
        taken: by fold of the maker, the names of the images, sorted as in the table.
    """

    folder: Path
    record: PseudoRecord
    taken: Mapping[int, tuple[str, ...]]

    @staticmethod
    def read(folder: Path, competition: Competition) -> PseudoSet:
        """The set in a folder.

        Raises:
            UserError: there is none, it is damaged or of another competition, or its labels are not those that were
                chosen.
        """
        try:
            record = PSEUDO.read(folder / PSEUDO_FILE)
            table = read_table(folder / PSEUDO_TABLE_FILE, ["image"], _HINT, numbers=["fold", "taken"])
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is missing: choose the images first (make pseudo).") from None
        if record["competition"] != competition.name:
            raise UserError(
                f"{folder} holds labels of {record['competition']}, not of {competition.name}: name a set of this "
                "competition."
            )
        rows = table[table["taken"] > 0]
        taken = {fold: tuple(part["image"]) for fold, part in by_number(rows)}
        found = PseudoSet(folder, record, taken)
        found._check_digest()
        return found

    def _check_digest(self) -> None:
        record = self.record
        known = {maker["fold"] for maker in record["makers"]}
        if stray := set(self.taken) - known:
            raise UserError(f"{self.folder / PSEUDO_TABLE_FILE} names fold {min(stray)}, which has no maker: {_HINT}.")
        made = {fold: self.labels(fold) for fold in self.taken}
        whole = all(set(names) <= set(made[fold].store.names) for fold, names in self.taken.items())
        now = digest_of(record["source"], record["labels"], record["makers"], self.taken, made) if whole else "none"
        if now != record["digest"]:
            raise UserError(
                f"the labels of {self.folder} are not those that were chosen (digest {now}, then {record['digest']}): "
                f"its table or its labels were changed; {_HINT}."
            )

    def labels(self, fold: int) -> LabelStore:
        """Those that the maker of that fold has made."""
        return LabelStore.open(labels_path(self.folder, fold))
