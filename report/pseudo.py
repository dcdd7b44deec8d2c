"""`python -m report.pseudo`: chooses unlabelled images whose labels by a blend can be trusted, to train on them.

Predicts what is not predicted yet; writes a table of all images, a page, and last pseudo.json. `make pseudo` calls it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import tyro

import atomic
from command_line import UserError, program
from competition import Competition, find_competition
from ensemble.blend import find_blend
from ensemble.blend_file import FittedBlend, blend_folder, read_blend, scores_file
from ensemble.pseudo_choice import MEASURES, TAKEN, Expectation, certainty, choose, measure
from folds.csv_table import read_table
from folds.images import TrainingSet, find_training_set, image_digest, list_images, read_mask
from folds.pseudo_set import (
    ALL_FOLDS,
    DISTILLED_DIR,
    PSEUDO,
    PSEUDO_DIR,
    PSEUDO_FILE,
    PSEUDO_PAGE_FILE,
    PSEUDO_TABLE_FILE,
    Labeller,
    Labels,
    Maker,
    PseudoRecord,
    Source,
    Teacher,
    by_number,
    digest_of,
    make_labeller,
    store_path,
)
from folds.run_layout import finished_folds
from folds.task import read_manifest
from kernels.dice import counts
from kernels.metrics import find_metric, score_in
from models.runtimes import TORCH
from path_names import inside
from predict.members import Member, find_members
from predict.predictor import predict
from report import page
from report.charts import calibration_curve
from report.disagreement import names_of_test_set
from report.pseudo_figures import breakdowns, known_truth, lines

_PARTS = "parts"
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
class _Choice:
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

    def labeller(self, fold: int, source: Source, maker: Maker | None = None) -> Labeller:
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
                predict(replace(one, runtime=runtime or TORCH), self.names, self.images, self.facts.size, store=path)

    def known(self, names: Sequence[str]) -> np.ndarray:
        """(N,) bool: which images are training images, or of their groups; never those of the training set itself."""
        if self.source == "training":
            return np.zeros(len(names), bool)
        groups, digests = set(self.training.groups()), set(self.training.image_digests)
        outside = self.source == "folder"
        return np.array(
            [
                self.facts.group(name) in groups
                or (outside and image_digest((self.images / name).read_bytes()) in digests)
                for name in names
            ]
        )

    def out_of_fold(self, scores: pd.DataFrame, without: Mapping[int, Maker], every: Maker, jobs: int) -> pd.DataFrame:
        """The measures of the training images' out-of-fold labels, each by the maker that was chosen without it."""
        parts = []
        for fold, rows in by_number(scores):
            maker = without.get(fold, every)
            labeller = self.labeller(fold, "training", maker)
            found = measure(
                labeller, rows["image"].tolist(), self.home / _PARTS, jobs=jobs, label=f"out of fold {fold}"
            )
            parts.append(found.set_index(rows.index))
        return pd.concat(parts).sort_index()

    def table(self, expectation: Expectation, least: float, most: int, jobs: int) -> pd.DataFrame:
        """One row an image and maker: its measures, the expected score, and what becomes of it."""
        parts = []
        for fold in self.makers:
            label = "measure" if fold == ALL_FOLDS else f"measure, fold {fold}"
            found = measure(self.labeller(fold, self.source), self.names, self.home / _PARTS, jobs=jobs, label=label)
            found.insert(1, "fold", fold)
            expected = expectation.at(certainty(found), without=None if fold == ALL_FOLDS else fold)
            parts.append(_with_decisions(found, expected, self.known(self.names), least, most))
        return pd.concat(parts, ignore_index=True)

    def truth(self, table: pd.DataFrame, masks: Path) -> np.ndarray:
        """(N,) the score of every row's label, where the truth is known."""
        metric, full = find_metric(self.facts.metric), self.facts.size
        scores = []
        for fold, rows in by_number(table):
            labeller = self.labeller(fold, self.source)
            for name in rows["image"]:
                logits = labeller.mean(labeller.planes(name))
                mask = (logits if logits.shape == full else labeller.frame.invert(logits, full)) > 0
                scores.append(metric.of(counts(mask, read_mask(masks / self.facts.mask_name(name), full))))
        return np.array(scores)


def _with_decisions(
    found: pd.DataFrame, expected: np.ndarray, known: np.ndarray, least: float, most: int
) -> pd.DataFrame:
    decisions = choose(expected, known, least=least, most=most)
    taken = [int(decision == TAKEN) for decision in decisions]
    return found.assign(expected=expected, taken=taken, reason=decisions)


def _teacher(member: Member) -> Teacher:
    manifest = read_manifest(member.folds[0]) or {}
    teacher: Teacher = {"name": member.name, "weights_digest": member.weights_digest}
    if manifest.get("rounds"):
        teacher["rounds"] = manifest["rounds"]
    return teacher


def _oof_scores(folder: Path, training: TrainingSet) -> pd.DataFrame:
    path = folder / scores_file(find_metric(training.competition.metric))
    try:
        scores = read_table(path, ["image", "group"], _TABLE_HINT, numbers=["fold", "nested"])
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {_TABLE_HINT}.") from None
    if list(scores["image"]) != list(training.names):
        raise UserError(f"{path} is of other images than {training.data} holds: {_TABLE_HINT}.")
    return scores


def _refuse_another(home: Path, digest: str) -> None:
    before = PSEUDO.read_if_there(home / PSEUDO_FILE)
    if before is not None and before["digest"] != digest:
        raise UserError(
            f"{home} holds another choice ({before['digest']}, now {digest}), which folds may have been trained on: "
            "remove the folder to choose anew, or name another one (ARGS='--out NAME')."
        )


@program
def main(
    competition: str = "carvana",
    name: str = "blend",
    data: Path | None = None,
    runs: Path = Path("runs"),
    images: Path | None = None,
    distil: bool = False,
    own_fold: bool = False,
    out: str = "",
    least: float = -1.0,
    most: int = 0,
    jobs: int = -1,
) -> None:
    """Choose images whose labels by a blend can be trusted, for training: runs/<competition>/<blend>/pseudo.

    Args:
        competition: a name from competition.py.
        name: of the blend (ensemble.fit) that labels.
        data: the competition's files; data/<competition> by default.
        runs: where trained variants and the blend are.
        images: a folder of unlabelled images, named and sized as the competition's, instead of its test set.
        distil: label the training images instead, each by the networks that did not see it, for a student of the blend.
        own_fold: label the images once for each fold, by that fold's own networks alone, so that no fold learns from
            labels that what it holds out had a part in. Takes a prediction for each fold.
        out: the set's name, and folder in the blend's; pseudo by default, or distilled.
        least: expected score that an image must have; by default the blend's own out-of-fold score, or, with --distil,
            0.
        most: images to take, those of the highest expected score; 0 takes all that have the least.
        jobs: processes, as joblib counts them.
    """
    # 1) what cannot be meant is refused before anything is read
    if distil and (images is not None or own_fold):
        raise UserError("--distil labels the training images out of fold: leave out --images and --own-fold.")
    if most < 0 or (least != -1 and not 0 <= least <= 1):
        raise UserError(f"--least {least:g} --most {most} cannot work: give a score of 0 to 1, and 0 images or more.")
    facts = find_competition(competition)
    if facts.composed:
        raise UserError(
            f"{facts.name} composes its images, so that none is without a label: choose another competition."
        )
    metric = find_metric(facts.metric)
    data = data or facts.default_data()
    root = runs / facts.name
    folder = blend_folder(root, name)
    fitted = read_blend(folder)
    source: Source = "training" if distil else "folder" if images is not None else "test"
    labels: Labels = "out-of-fold" if distil else "own-fold" if own_fold else "blend"
    home = inside(folder, out or (DISTILLED_DIR if distil else PSEUDO_DIR), "--out")

    # 2) who labels, and which images
    find_blend(root, name)
    training = find_training_set(facts, data)
    scores = _oof_scores(folder, training)
    names, every, without = makers_of(fitted)
    folds = sorted(int(fold) for fold in scores["fold"].unique())
    members = find_members(root, names, len(finished_folds(root / names[0])))
    by_fold = {fold: without.get(fold, {**every, "fold": fold}) for fold in folds}
    makers = {ALL_FOLDS: every} if labels == "blend" else by_fold
    if distil:
        place, wanted = training.data / facts.train_dir, list(training.names)
    else:
        place = images if images is not None else data / facts.test_dir
        wanted = list_images(images, facts) if images is not None else names_of_test_set(members, data, facts)
    choice = _Choice(facts, training, root, home, members, makers, source, labels, place, wanted)
    atomic.make_folder(home)
    choice.predict()

    # 3) how sure the networks are, and the score that out-of-fold images of the same certainty have
    measured = choice.out_of_fold(scores, by_fold, every, jobs)
    fold_of = scores["fold"].to_numpy()
    nested = scores["nested"].to_numpy()
    expectation = Expectation.of(certainty(measured), nested, fold_of, scores["group"].to_numpy())
    floor = least if least != -1 else 0.0 if distil else score_in(fitted["cv"])

    # 4) what is taken
    if distil:
        measured.insert(1, "fold", fold_of)
        table = _with_decisions(measured, expectation.nested, choice.known(wanted), floor, most)
    else:
        table = choice.table(expectation, floor, most, jobs)
    taken = table[table["taken"] > 0]
    if not len(taken):
        raise UserError(
            f"of none of the {len(wanted)} images a {metric.label} of {floor:.4f} is to be expected (at most "
            f"{table['expected'].max():.4f}): give a lower --least."
        )
    chosen = {fold: rows["image"].tolist() for fold, rows in by_number(taken)}
    digest = digest_of(
        source, labels, list(makers.values()), chosen, {fold: choice.labeller(fold, source) for fold in chosen}
    )
    atomic.discard(home / _PARTS)
    _refuse_another(home, digest)
    record: PseudoRecord = {
        "digest": digest,
        "competition": facts.name,
        "blend": name,
        "source": source,
        "labels": labels,
        # a folder is found again from wherever training is begun; the competition's own are where DATA says
        "images": str(place.absolute()) if source == "folder" else "",
        "teachers": [_teacher(member) for member in members],
        "makers": list(makers.values()),
        "considered": len(table),
        "taken": len(taken),
        "least": floor,
        "expected": float(taken["expected"].mean()),
        "expected_interval": expectation.interval(taken["expected"].to_numpy(), floor),
        "calibration": expectation.figures(floor),
    }
    masks = data / facts.test_masks_dir if facts.test_masks_dir and source == "test" else None
    if masks is not None and masks.is_dir():
        known = choice.truth(table, masks)
        table[f"known_{metric.name}"] = known
        record["known_truth"] = known_truth(table, known)

    # 5) for people, for training, and last what says that all of it is there
    parts = breakdowns(table, facts)
    with atomic.replacing(home / PSEUDO_TABLE_FILE) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6f")
    page.write(
        home / PSEUDO_PAGE_FILE,
        "pseudo.html.j2",
        title=f"{facts.title}: labels by {name}",
        record=record,
        metric=metric.label,
        measures=MEASURES,
        breakdowns=parts,
        chart=calibration_curve(expectation.bins(), metric),
    )
    atomic.write_json(home / PSEUDO_FILE, PSEUDO.of(record))
    for line in lines(record, parts, metric.label):
        print(line)
    print(f"table  {os.path.relpath(home / PSEUDO_TABLE_FILE)}")
    print(f"page   {os.path.relpath(home / PSEUDO_PAGE_FILE)}")
    print(f"next   make folds V=... ARGS='--pseudo {os.path.relpath(home)} --tag round1'")


if __name__ == "__main__":
    tyro.cli(main)
