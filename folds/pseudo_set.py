"""A set of pseudo-labels on disk: images that networks have labelled, by reference to the logits that these stored.

What makes a label is a *maker*: the members' networks with weights and a threshold. The rule of leaks is `Labels`:

- "blend": one maker, all folds' networks. Of them all but one were trained on what a fold holds out, so a fold that
  learns from such labels hears of what it is scored on, through images that nobody has labelled.
- "own-fold": a maker for each fold, that fold's own networks, weighted without the fold. Nothing that the fold holds
  out had a part in what it learns from.
- "out-of-fold": the training images, each labelled by the networks that did not see it. A fold learns from those that
  it does not hold out alone; their networks were trained on what it holds out, as with every stacked network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import numpy as np
import pandas as pd
from pydantic import Field
from typing_extensions import TypedDict

from command_line import UserError
from competition import Competition, Size
from folds.csv_table import read_table
from folds.run_layout import OOF_STORE, TEST_STORE, fold_folder
from folds.store import LogitStore
from folds.task import read_manifest
from json_file import Count, Digest, FolderName, Interval, Schema, extensible
from models.frame import Frame, frame_of
from models.variant import Variant

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
    """What makes labels of members' logits: their weighted mean above a threshold."""

    fold: int
    weights: list[Annotated[float, Field(ge=0)]]
    threshold: float


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


def _check(record: PseudoRecord) -> None:
    for maker in record["makers"]:
        if len(maker["weights"]) != len(record["teachers"]):
            raise ValueError(
                f"a maker has {len(maker['weights'])} weights, expected one for each of {len(record['teachers'])} "
                "teachers"
            )


PSEUDO = Schema(PseudoRecord, _HINT, _check)


@dataclass(frozen=True)
class Labeller:
    """Networks whose weighted mean logits are labels; pickles to workers.

    Attributes:
        stores, frames: of the members, in order.
        weights: of the members; they sum to 1.
        threshold: foreground is where the mean is above it.
        full: (H, W) of the images.
    """

    stores: Sequence[LogitStore]
    frames: Sequence[Frame]
    weights: Sequence[float]
    threshold: float
    full: Size

    @property
    def frame(self) -> Frame:
        """The members' finest frame, in which they are compared."""
        return max(self.frames, key=lambda frame: frame.size[0] * frame.size[1])

    def planes(self, name: str) -> list[np.ndarray]:
        """Each member's logits of an image less the threshold, (h, w) float32 in `frame`; of one that pads without
        what it pads."""
        frame, found = self.frame, []
        for store, own in zip(self.stores, self.frames, strict=True):
            plane = own.transfer(store.head(name), frame, self.full) - np.float32(self.threshold)
            found.append(plane if frame.fit == "resize" else frame.invert(plane, self.full))
        return found

    def mean(self, planes: Sequence[np.ndarray]) -> np.ndarray:
        """The weighted mean of the members' `planes`, of their shape: foreground is above 0."""
        return np.add.reduce([np.float32(w) * plane for w, plane in zip(self.weights, planes, strict=True)])

    def target(self, name: str, frame: Frame) -> np.ndarray:
        """An image's soft label in a network's frame: (h, w) uint8, the probability of foreground times 255."""
        logits = self.mean(self.planes(name))
        if frame.fit != "resize" and logits.shape != self.full:
            logits = self.frame.invert(logits, self.full)
        return frame.apply(np.rint(255 / (1 + np.exp(-logits))).astype(np.uint8))


def store_path(root: Path, member: str, source: Source, fold: int, home: Path) -> Path:
    """Where a member's logits lie that labels are made of.

    Args:
        root: `runs/<competition>`.
        member: its name.
        source: of the images.
        fold: whose network alone, or `ALL_FOLDS`.
        home: the set's folder, which has those of a folder of images.
    """
    if source == "training":
        return root / member / OOF_STORE
    if source == "folder":
        return home / (f"{member}.zarr" if fold == ALL_FOLDS else f"{member}-{fold}.zarr")
    return (root / member if fold == ALL_FOLDS else fold_folder(root / member, fold)) / TEST_STORE


def frame_of_member(root: Path, member: str) -> Frame:
    """The frame of a trained member in `runs/<competition>`; UserError where it is not there."""
    manifest = read_manifest(fold_folder(root / member, 0))
    if manifest is None:
        raise UserError(f"{root / member} is not trained any more: {_HINT}.")
    return frame_of(Variant.from_json(manifest["variant"]))


def make_labeller(root: Path, members: Sequence[str], maker: Maker, source: Source, full: Size, home: Path) -> Labeller:
    """What labels images of a set.

    Args:
        root: `runs/<competition>`.
        members: names of the teachers.
        maker: their weights.
        source: of the images.
        full: (H, W) of the images.
        home: the set's folder.

    Raises:
        UserError: logits are not there.
    """
    # the logits of training images lie in one store, whatever fold they are of
    stores = [LogitStore.open(store_path(root, name, source, maker["fold"], home)) for name in members]
    frames = [frame_of_member(root, name) for name in members]
    used = [i for i, weight in enumerate(maker["weights"]) if weight > 0]
    total = sum(maker["weights"])
    weights = [maker["weights"][i] / total for i in used]
    return Labeller([stores[i] for i in used], [frames[i] for i in used], weights, maker["threshold"], full)


def digest_of(
    source: Source, labels: Labels, makers: Sequence[Maker], taken: Mapping[int, Sequence[str]], labellers: Any
) -> str:
    """16 hex digits over the labels of a set: which images, by which makers, and the checksums of their logits.

    Args:
        taken: by fold of the maker, the names.
        labellers: by fold of the maker, its `Labeller`.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps([source, labels, [dict(maker) for maker in makers]], sort_keys=True).encode())
    for fold in sorted(taken):
        for store in labellers[fold].stores:
            digest.update(f"{fold} {store.digest(taken[fold])}\n".encode())
    return digest.hexdigest()


def by_number(table: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """The rows of a table with a column `fold`, by fold."""
    return [(k, table[table["fold"] == k]) for k in sorted({int(fold) for fold in table["fold"]})]


@dataclass(frozen=True)
class PseudoSet:
    """A set of pseudo-labels that is there, and whose logits are those that it was chosen by.

    Attributes:
        folder: `runs/<competition>/<blend>/<set>`.
        record: the content of its pseudo.json.
        taken: by fold of the maker, the names of the images, sorted as in the table.
        full: (H, W) of the images.
    """

    folder: Path
    record: PseudoRecord
    taken: Mapping[int, tuple[str, ...]]
    full: Size

    @staticmethod
    def read(folder: Path, competition: Competition) -> PseudoSet:
        """The set in a folder.

        Raises:
            UserError: there is none, it is damaged or of another competition, or its logits were made again since.
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
        found = PseudoSet(folder, record, taken, competition.size)
        found._check_digest()
        return found

    def _check_digest(self) -> None:
        record = self.record
        known = {maker["fold"] for maker in record["makers"]}
        if stray := set(self.taken) - known:
            raise UserError(f"{self.folder / PSEUDO_TABLE_FILE} names fold {min(stray)}, which has no maker: {_HINT}.")
        labellers = {fold: self.labeller(fold) for fold in self.taken}
        now = digest_of(record["source"], record["labels"], record["makers"], self.taken, labellers)
        if now != record["digest"]:
            raise UserError(
                f"the labels of {self.folder} are not those that were chosen (digest {now}, then {record['digest']}): "
                f"its table or the logits of its members were changed; {_HINT}."
            )

    @cached_property
    def root(self) -> Path:
        """`runs/<competition>`."""
        return self.folder.absolute().parent.parent

    def labeller(self, fold: int) -> Labeller:
        """What labels the images of the maker of that fold."""
        maker = next(maker for maker in self.record["makers"] if maker["fold"] == fold)
        members = [teacher["name"] for teacher in self.record["teachers"]]
        return make_labeller(self.root, members, maker, self.record["source"], self.full, self.folder)
