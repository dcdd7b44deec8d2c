"""Who labels a set of pseudo-labels, which images, and how sure the labels are.

A label is the mask of a blend (`ensemble.blend.Blend`), with all that it does: its vote, its threshold, its repairs,
and what empties masks. Labels that are to know nothing of a fold are made by the blend as it was chosen without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from command_line import UserError
from competition import Competition
from ensemble.blend import Blend, blend_of
from ensemble.blend_file import PIXELS_VOTE, FittedBlend, scores_file
from ensemble.chosen_without import chosen_without
from ensemble.pseudo_choice import TAKEN, Expectation, certainty, choose, label, measure
from ensemble.stored_masks import StoredMasks
from folds.contents import Content
from folds.csv_table import read_table
from folds.images import TrainingSet, list_masks, read_mask
from folds.pseudo_set import ALL_FOLDS, Labels, LabelStore, Maker, Source, Teacher, by_number
from folds.run_layout import OOF_STORE, TEST_STORE, fold_folder
from folds.store import LogitStore
from folds.task import read_manifest
from kernels.dice import counts
from kernels.metrics import find_metric
from models.runtimes import TORCH
from predict.members import Member
from predict.predictor import predict

# of a set's folder: measures and labels that are done, removed once the set is chosen
PARTS = "parts"
_TABLE_HINT = "choose the blend again (make fit)"


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
        # one store, whatever fold they are of
        return root / member / OOF_STORE
    if source == "folder":
        return home / (f"{member}.zarr" if fold == ALL_FOLDS else f"{member}-{fold}.zarr")
    return (root / member if fold == ALL_FOLDS else fold_folder(root / member, fold)) / TEST_STORE


def _part(content: Mapping[str, Any], members: Sequence[Member], folder: Path) -> Blend:
    """The blend that a blend.json describes, over those of some members that it has."""
    by_name = {member.name: member for member in members}
    return blend_of(folder, content, [by_name[name] for name in content["members"]])


def blends_of(
    folder: Path, fitted: FittedBlend, members: Sequence[Member], folds: Sequence[int], labels: Labels
) -> tuple[Blend, dict[int, Blend]]:
    """The blend, and by fold the blend as it was chosen without that fold.

    Args:
        folder: of the blend.
        fitted: the content of its blend.json.
        members: all that these have (`ensemble.chosen_without.used_members`).
        folds: all.
        labels: that shall be made.

    Raises:
        UserError: labels that know nothing of a fold are wanted of a blend that has a part which no fold is without.
    """
    contents = {fold: chosen_without(fitted, fold) for fold in folds}
    if labels != "blend" and any(content.get("vote") == PIXELS_VOTE for content in contents.values()):
        raise UserError(
            "boosted pixels are kept as they were fitted on all folds alone, so that every fold's labels would know "
            "its truth: leave out --own-fold and --distil, or choose a blend without them (make fit ARGS=--no-pixels)."
        )
    return _part(fitted, members, folder), {f: _part(content, members, folder) for f, content in contents.items()}


def members_of(blends: Mapping[int, Blend]) -> list[Member]:
    """All members that have a part in some blends."""
    return list({member.name: member for blend in blends.values() for member in blend.members}.values())


@dataclass(frozen=True)
class Labelling:
    """What labels are of, and by whom.

    Attributes:
        facts, training: the competition, and its training images.
        root: `runs/<competition>`.
        home: the set's folder.
        blends: by fold whose networks make the set's labels, or `ALL_FOLDS`, the blend of them.
        source, labels: of the set.
        images: folder of the images.
        names: of the images.
        contents: what the images hold, by name.
    """

    facts: Competition
    training: TrainingSet
    root: Path
    home: Path
    blends: Mapping[int, Blend]
    source: Source
    labels: Labels
    images: Path
    names: Sequence[str]
    contents: Mapping[str, Content]

    @property
    def members(self) -> list[Member]:
        """All that have a part in a label."""
        return members_of(self.blends)

    @property
    def makers(self) -> list[Maker]:
        """What makes the labels, as the set's record says it."""
        return [{"fold": fold, "blend": blend.state()} for fold, blend in self.blends.items()]

    def reader(self, fold: int, source: Source, blend: Blend | None = None) -> StoredMasks:
        """What makes the labels of a source's images of the networks of a fold, or of all; by `blend`, if given."""
        used = self.blends[fold] if blend is None else blend
        stores = [LogitStore.open(store_path(self.root, m.name, source, fold, self.home)) for m in used.members]
        images = self.training.data / self.facts.train_dir if source == "training" else self.images
        return StoredMasks(used, stores, self.facts.size, images)

    def predict(self) -> None:
        """Have the teachers predict what they have not."""
        for fold, blend in self.blends.items() if self.source != "training" else ():
            for member in blend.members:
                one = member if fold == ALL_FOLDS else replace(member, folds=(member.folds[fold],))
                if fold != ALL_FOLDS:
                    one.require_network()
                path = store_path(self.root, member.name, self.source, fold, self.home)
                # what a run has begun with, it goes on with
                runtime = member.begun_runtime() if self.source == "test" else ""
                ready = replace(one, runtime=runtime or TORCH)
                predict(ready, self.names, self.images, self.facts.size, store=path, contents=self.contents)

    def known(self, names: Sequence[str]) -> np.ndarray:
        """(N,) bool: which images are training images, or of their groups; never those of the training set itself."""
        if self.source == "training":
            return np.zeros(len(names), bool)
        groups, digests = set(self.training.groups()), set(self.training.image_digests)
        copies = {name for name, content in self.contents.items() if content.image_digest in digests}
        return np.array([self.facts.group(name) in groups or name in copies for name in names])

    def out_of_fold(self, scores: pd.DataFrame, without: Mapping[int, Blend], jobs: int) -> pd.DataFrame:
        """The measures of the training images' out-of-fold labels, each by the blend that was chosen without it."""
        parts = []
        for fold, rows in by_number(scores):
            reader, names = self.reader(fold, "training", without[fold]), rows["image"].tolist()
            found = measure(reader, names, self.home / PARTS, jobs=jobs, label=f"out of fold {fold}")
            parts.append(found.set_index(rows.index))
        return pd.concat(parts).sort_index()

    def table(self, expectation: Expectation, least: float, most: int, jobs: int) -> pd.DataFrame:
        """One row an image and maker: its measures, the expected score, and what becomes of it."""
        parts = []
        for fold in self.blends:
            what = "measure" if fold == ALL_FOLDS else f"measure, fold {fold}"
            found = measure(self.reader(fold, self.source), self.names, self.home / PARTS, jobs=jobs, label=what)
            found.insert(1, "fold", fold)
            expected = expectation.at(certainty(found), without=None if fold == ALL_FOLDS else fold)
            parts.append(with_decisions(found, expected, self.known(self.names), least, most))
        return pd.concat(parts, ignore_index=True)

    def make(self, taken: Mapping[int, Sequence[str]], jobs: int) -> dict[int, LabelStore]:
        """The labels of the images that are taken, by fold of the maker: written in the folder of parts."""
        made = {}
        for fold, names in taken.items():
            what = "label" if fold == ALL_FOLDS else f"label, fold {fold}"
            made[fold] = label(self.reader(fold, self.source), names, self.home / PARTS, jobs=jobs, label=what)
        return made

    def truth(self, table: pd.DataFrame, masks: Path) -> np.ndarray:
        """(N,) the score of every row's label, where the truth is known."""
        metric, full = find_metric(self.facts.metric), self.facts.size
        files = list_masks(masks, self.facts)
        scores = []
        for fold, rows in by_number(table):
            reader = self.reader(fold, self.source)
            for name in rows["image"]:
                mask, true = reader.mask(name, reader.planes(name)), self.facts.mask_name(name)
                scores.append(metric.of(counts(mask, read_mask(masks / files.get(true, true), full))))
        return np.array(scores)


def with_decisions(
    found: pd.DataFrame, expected: np.ndarray, known: np.ndarray, least: float, most: int
) -> pd.DataFrame:
    """Measures, and beside them the expected score and what becomes of each image."""
    decisions = choose(expected, known, least=least, most=most)
    taken = [int(decision == TAKEN) for decision in decisions]
    return found.assign(expected=expected, taken=taken, reason=decisions)


def teacher_of(member: Member) -> Teacher:
    """A member as a set's record names it."""
    manifest = read_manifest(member.folds[0]) or {}
    teacher: Teacher = {"name": member.name, "weights_digest": member.weights_digest}
    if manifest.get("rounds"):
        teacher["rounds"] = manifest["rounds"]
    return teacher


def oof_scores(folder: Path, training: TrainingSet) -> pd.DataFrame:
    """The table of the training images' out-of-fold scores by a blend; UserError where it is not of these images."""
    path = folder / scores_file(find_metric(training.competition.metric))
    try:
        scores = read_table(path, ["image", "group"], _TABLE_HINT, numbers=["fold", "nested"])
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {_TABLE_HINT}.") from None
    if list(scores["image"]) != list(training.names):
        raise UserError(f"{path} is of other images than {training.data} holds: {_TABLE_HINT}.")
    return scores
