"""Chooses the images whose labels by a blend can be trusted, and writes the set that folds learn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

import atomic
from command_line import UserError
from competition import Competition
from ensemble.blend import find_blend
from ensemble.blend_file import blend_folder, read_blend
from ensemble.chosen_without import used_members
from ensemble.labelling import (
    PARTS,
    Labelling,
    blends_of,
    members_of,
    oof_scores,
    store_path,
    teacher_of,
    with_decisions,
)
from ensemble.pseudo_choice import Expectation, certainty
from folder_lock import fill
from folds.contents import CONTENTS_FILE, changed, read_contents, write_record
from folds.csv_table import write_table
from folds.images import find_training_set, list_images
from folds.pseudo_set import (
    ALL_FOLDS,
    DISTILLED_DIR,
    PSEUDO,
    PSEUDO_DIR,
    PSEUDO_FILE,
    PSEUDO_TABLE_FILE,
    Labels,
    PseudoRecord,
    Source,
    by_number,
    digest_of,
    labels_path,
)
from folds.run_layout import finished_folds
from kernels.metrics import find_metric, score_in
from path_names import inside
from predict.members import find_members
from predict.test_set import names_of_test_set


@dataclass(frozen=True)
class Wanted:
    """What shall be labelled, and how much of it be taken.

    Attributes:
        images: a folder of unlabelled images; None is the test set.
        distil: the training images instead, each by the networks that did not see it.
        own_fold: once for each fold, by that fold's own networks alone.
        out: the set's name; empty for the usual one.
        least: expected score that an image must have; -1 for the blend's out-of-fold score, or 0 of training images.
        most: images to take; 0 takes all that have the least.
    """

    images: Path | None = None
    distil: bool = False
    own_fold: bool = False
    out: str = ""
    least: float = -1.0
    most: int = 0

    def check(self) -> None:
        """UserError where this cannot be meant."""
        if self.distil and (self.images is not None or self.own_fold):
            raise UserError("--distil labels the training images out of fold: leave out --images and --own-fold.")
        if self.most < 0 or (self.least != -1 and not 0 <= self.least <= 1):
            raise UserError(
                f"--least {self.least:g} --most {self.most} cannot work: give a score of 0 to 1, and 0 images or more."
            )

    @property
    def source(self) -> Source:
        """Of the images."""
        return "training" if self.distil else "folder" if self.images is not None else "test"

    @property
    def labels(self) -> Labels:
        """Who makes them."""
        return "out-of-fold" if self.distil else "own-fold" if self.own_fold else "blend"


@dataclass(frozen=True)
class Chosen:
    """A set of pseudo-labels that was written.

    Attributes:
        home: its folder.
        record: the content of its pseudo.json.
        table: of its pseudo.csv, every image considered.
        expectation: the score to be expected at each certainty.
    """

    home: Path
    record: PseudoRecord
    table: pd.DataFrame
    expectation: Expectation


def _known_truth(table: pd.DataFrame, scores: np.ndarray) -> dict[str, float]:
    """What `scores` (N,), of the labels by the true masks, say of those taken and of the others, and of what was
    expected."""
    taken = table["taken"].to_numpy() > 0
    expected = table["expected"].to_numpy()
    told = {"images": float(len(scores)), "mean_error": float(np.abs(scores - expected).mean())}
    for name, rows in (("taken", taken), ("left_out", ~taken)):
        if rows.any():
            told |= {name: float(scores[rows].mean()), f"{name}_expected": float(expected[rows].mean())}
            told[f"{name}_worst"] = float(scores[rows].min())
    if len(np.unique(expected)) > 1 and len(np.unique(scores)) > 1:
        told["rank_correlation"] = float(spearmanr(expected, scores)[0])
    return told


def _refuse_another(home: Path, digest: str) -> None:
    before = PSEUDO.read_if_there(home / PSEUDO_FILE)
    if before is not None and before["digest"] != digest:
        raise UserError(
            f"{home} holds another choice ({before['digest']}, now {digest}), which folds may have been trained on: "
            "remove the folder to choose anew, or name another one (ARGS='--out NAME')."
        )


def choose_set(facts: Competition, data: Path, root: Path, name: str, wanted: Wanted, *, jobs: int = -1) -> Chosen:
    """Have a blend's networks label images, and take those of which enough is expected; predicts what is not predicted.

    Args:
        facts: the competition.
        data: the folder of its files.
        root: `runs/<competition>`.
        name: of the blend.
        wanted: what to label.
        jobs: processes, as joblib counts them.

    Raises:
        UserError: nothing can be labelled so, or no image is taken, or the folder holds another choice.
    """
    # 1) what cannot be meant is refused before anything is read
    wanted.check()
    if facts.composed:
        raise UserError(
            f"{facts.name} composes its images, so that none is without a label: choose another competition."
        )
    metric = find_metric(facts.metric)
    folder = blend_folder(root, name)
    fitted = read_blend(folder)
    source, labels, images = wanted.source, wanted.labels, wanted.images
    home = inside(folder, wanted.out or (DISTILLED_DIR if wanted.distil else PSEUDO_DIR), "--out")
    fill(home)

    # 2) who labels, and which images
    find_blend(root, name)
    training = find_training_set(facts, data)
    scores = oof_scores(folder, training)
    folds = sorted(int(fold) for fold in scores["fold"].unique())
    members = find_members(root, used_members(fitted), len(finished_folds(root / fitted["members"][0])))
    whole, without = blends_of(folder, fitted, members, folds, labels)
    blends = {ALL_FOLDS: whole} if labels == "blend" else without
    if wanted.distil:
        place, asked = training.data / facts.train_dir, list(training.names)
    elif images is not None:
        place, asked = images, list_images(images, facts)
    else:
        place, asked = data / facts.test_dir, names_of_test_set(members_of(blends), data, facts)
    stores = (store_path(root, members[0].name, source, fold, home) for fold in blends)
    contents = read_contents(place, asked, home / CONTENTS_FILE, *(store / CONTENTS_FILE for store in stores))
    labelling = Labelling(facts, training, root, home, blends, source, labels, place, asked, contents)
    labelling.predict()

    # 3) how sure the networks are, and the score that out-of-fold images of the same certainty have
    measured = labelling.out_of_fold(scores, without, jobs)
    fold_of = scores["fold"].to_numpy()
    nested = scores["nested"].to_numpy()
    expectation = Expectation.of(certainty(measured), nested, fold_of, scores["group"].to_numpy())
    floor = wanted.least if wanted.least != -1 else 0.0 if wanted.distil else score_in(fitted["cv"])

    # 4) what is taken
    if wanted.distil:
        measured.insert(1, "fold", fold_of)
        table = with_decisions(measured, expectation.nested, labelling.known(asked), floor, wanted.most)
    else:
        table = labelling.table(expectation, floor, wanted.most, jobs)
    taken = table[table["taken"] > 0]
    if not len(taken):
        raise UserError(
            f"of none of the {len(asked)} images a {metric.label} of {floor:.4f} is to be expected (at most "
            f"{table['expected'].max():.4f}): give a lower --least."
        )
    by_maker = {fold: rows["image"].tolist() for fold, rows in by_number(taken)}
    made = labelling.make(by_maker, jobs)
    digest = digest_of(source, labels, labelling.makers, by_maker, made)
    try:
        _refuse_another(home, digest)
    except UserError:
        atomic.discard(home / PARTS)
        raise
    record: PseudoRecord = {
        "digest": digest,
        "competition": facts.name,
        "blend": name,
        "source": source,
        "labels": labels,
        # a folder is found again from wherever training is begun; the competition's own are where DATA says
        "images": str(place.absolute()) if source == "folder" else "",
        "teachers": [teacher_of(member) for member in labelling.members],
        "makers": labelling.makers,
        "considered": len(table),
        "taken": len(taken),
        "least": floor,
        "expected": float(taken["expected"].mean()),
        "expected_interval": expectation.interval(taken["expected"].to_numpy(), floor),
        "calibration": expectation.figures(floor),
    }
    masks = data / facts.test_masks_dir if facts.test_masks_dir and source == "test" else None
    if masks is not None and masks.is_dir():
        known = labelling.truth(table, masks)
        table[f"known_{metric.name}"] = known
        record["known_truth"] = _known_truth(table, known)

    # 5) for training, and last what says that all of it is there
    if changed(home / CONTENTS_FILE, contents):
        write_record(home / CONTENTS_FILE, contents)
    for fold, its_labels in made.items():
        path = labels_path(home, fold)
        atomic.discard(path)
        its_labels.store.path.rename(path)
    atomic.discard(home / PARTS)
    write_table(home / PSEUDO_TABLE_FILE, table)
    atomic.write_json(home / PSEUDO_FILE, PSEUDO.of(record))
    return Chosen(home, record, table, expectation)
