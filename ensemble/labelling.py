"""Who labels a set of pseudo-labels, which images it is of, and how sure the labels are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from command_line import UserError
from competition import Competition
from ensemble.blend_file import FittedBlend, scores_file
from ensemble.pseudo_choice import TAKEN, Expectation, certainty, choose, measure
from folds.contents import Content
from folds.csv_table import read_table
from folds.images import TrainingSet, list_masks, read_mask
from folds.pseudo_set import ALL_FOLDS, Labeller, Labels, Maker, Source, Teacher, by_number, make_labeller, store_path
from folds.task import read_manifest
from kernels.dice import counts
from kernels.metrics import find_metric
from models.runtimes import TORCH
from predict.members import Member
from predict.predictor import predict

# of a set's folder: measures that are done, removed once the set is chosen
PARTS = "parts"
_TABLE_HINT = "choose the blend again (make fit)"


def makers_of(blend: FittedBlend) -> tuple[list[str], Maker, dict[int, Maker]]:
    """The members that labels are made of; the maker of all folds' networks; and, by fold, what makes labels without
    that fold: with the weights and the threshold that were chosen without it, where they were."""
    without = blend.get("chosen_without", {})
    own = dict(zip(blend["members"], blend["weights"], strict=True))
    chosen: dict[int, tuple[dict[str, float], float]] = {
        int(fold): (cast("dict[str, Any]", each)["weights"], cast("dict[str, Any]", each)["threshold"])
        for fold, each in without.items()
        if "weights" in each and "threshold" in each
    }
    used = {name for weights, _ in (*chosen.values(), (own, 0.0)) for name, weight in weights.items() if weight > 0}
    names = [name for name in blend["member_cv"] if name in used]

    def maker(fold: int, weights: Mapping[str, float], threshold: float) -> Maker:
        return {"fold": fold, "weights": [float(weights.get(name, 0.0)) for name in names], "threshold": threshold}

    every = maker(ALL_FOLDS, own, blend["threshold"])
    return names, every, {fold: maker(fold, *each) for fold, each in chosen.items()}


@dataclass(frozen=True)
class Labelling:
    """What labels are of, and by whom.

    Attributes:
        facts, training: the competition, and its training images.
        root: `runs/<competition>`.
        home: the set's folder.
        members: the teachers.
        makers: by fold, those that the set's labels are made by.
        source, labels: of the set.
        images: folder of the images.
        names: of the images.
        contents: what the images hold, by name.
    """

    facts: Competition
    training: TrainingSet
    root: Path
    home: Path
    members: Sequence[Member]
    makers: Mapping[int, Maker]
    source: Source
    labels: Labels
    images: Path
    names: Sequence[str]
    contents: Mapping[str, Content]

    def labeller(self, fold: int, source: Source, maker: Maker | None = None) -> Labeller:
        """What labels images of a source for a fold; by `maker`, if given."""
        names = [member.name for member in self.members]
        return make_labeller(self.root, names, maker or self.makers[fold], source, self.facts.size, self.home)

    def predict(self) -> None:
        """Have the teachers predict what they have not."""
        for fold in self.makers if self.source != "training" else ():
            for member in self.members:
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

    def out_of_fold(self, scores: pd.DataFrame, without: Mapping[int, Maker], every: Maker, jobs: int) -> pd.DataFrame:
        """The measures of the training images' out-of-fold labels, each by the maker that was chosen without it."""
        parts = []
        for fold, rows in by_number(scores):
            maker = without.get(fold, every)
            labeller = self.labeller(fold, "training", maker)
            found = measure(labeller, rows["image"].tolist(), self.home / PARTS, jobs=jobs, label=f"out of fold {fold}")
            parts.append(found.set_index(rows.index))
        return pd.concat(parts).sort_index()

    def table(self, expectation: Expectation, least: float, most: int, jobs: int) -> pd.DataFrame:
        """One row an image and maker: its measures, the expected score, and what becomes of it."""
        parts = []
        for fold in self.makers:
            label = "measure" if fold == ALL_FOLDS else f"measure, fold {fold}"
            found = measure(self.labeller(fold, self.source), self.names, self.home / PARTS, jobs=jobs, label=label)
            found.insert(1, "fold", fold)
            expected = expectation.at(certainty(found), without=None if fold == ALL_FOLDS else fold)
            parts.append(with_decisions(found, expected, self.known(self.names), least, most))
        return pd.concat(parts, ignore_index=True)

    def truth(self, table: pd.DataFrame, masks: Path) -> np.ndarray:
        """(N,) the score of every row's label, where the truth is known."""
        metric, full = find_metric(self.facts.metric), self.facts.size
        files = list_masks(masks, self.facts)
        scores = []
        for fold, rows in by_number(table):
            labeller = self.labeller(fold, self.source)
            for name in rows["image"]:
                logits = labeller.mean(labeller.planes(name))
                mask = (logits if logits.shape == full else labeller.frame.invert(logits, full)) > 0
                true = self.facts.mask_name(name)
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
