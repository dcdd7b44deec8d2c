"""Folds: groups (cars) stay whole, balanced in images, mask area and groups; `folds.csv` is the one record of it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd

from command_line import UserError
from folds.balance import balance
from folds.csv_table import load_table, write_table
from folds.images import TrainingSet

COLUMNS = ("image", "group", "fold", "area_px")
FOLDS = 5


def split_groups(groups: np.ndarray, areas_px: np.ndarray, *, folds: int, seed: int) -> np.ndarray:
    """Assign groups to folds, so that folds are as equal as possible in images, in mean mask area and in groups.

    Groups are ranked by mean area and taken in blocks of `folds`; within a block, the group with the largest area
    goes to the fold whose mean area is smallest so far. Where groups differ in their numbers of images, the result is
    where `folds.balance` starts from.

    Args:
        groups: (N,) group of every image.
        areas_px: (N,) mask area of every image, in pixels.
        folds: at least 2.
        seed: decides ties and where the last, incomplete block goes.

    Returns:
        (N,) int64 fold of every image, 0 .. folds - 1.

    Raises:
        UserError: fewer groups than folds.
    """
    unique, member = np.unique(groups, return_inverse=True)
    if len(unique) < 2:
        raise UserError(
            f"all {len(groups)} images belong to one group ({unique[0] if len(unique) else 'none'}), and a split holds "
            "whole groups out: add images of other groups, or tell groups apart."
        )
    if folds < 2 or len(unique) < folds:
        raise UserError(
            f"{len(unique)} groups cannot be split into {folds} folds: ask for between 2 and {len(unique)} folds "
            "(--folds), or add images."
        )
    rng = np.random.default_rng(seed)
    images, area = np.bincount(member), np.bincount(member, weights=areas_px)
    mean_area = area / images
    order = rng.permutation(len(unique))
    order = order[np.argsort(-mean_area[order], kind="stable")]
    totals = np.zeros(folds)
    fold_of_group = np.empty(len(unique), np.int64)
    for start in range(0, len(order), folds):
        block = order[start : start + folds]
        ties = rng.permutation(folds)
        ranked = ties[np.argsort(totals[ties], kind="stable")]
        for group, fold in zip(block, ranked, strict=False):
            fold_of_group[group] = fold
            totals[fold] += mean_area[group]
    if images.min() < images.max():
        fold_of_group = balance(fold_of_group, images, area, folds=folds, seed=seed)
    return fold_of_group[member]


def digest(table: pd.DataFrame) -> str:
    """16 hex digits that identify which image is in which fold.

    Args:
        table: has the columns image and fold, sorted by image as `check` leaves it.
    """
    rows = "".join(f"{image},{fold}\n" for image, fold in zip(table["image"], table["fold"], strict=True))
    return hashlib.blake2b(rows.encode(), digest_size=8).hexdigest()


def _named(table: pd.DataFrame, training: TrainingSet) -> pd.DataFrame:
    """The table with images by file name: a user's own may have their keys, as the submission and groups.csv do."""
    names = {training.competition.key(name): name for name in training.names}
    names |= {name: name for name in training.names}
    return table.assign(image=[names.get(image, image) for image in table["image"]])


def check(table: pd.DataFrame, training: TrainingSet, source: Path, *, own: bool = False) -> pd.DataFrame:
    """Check a fold table against the training set.

    Args:
        table: has at least the columns image (file names, or the keys of the submission's rows) and fold.
        training: the images it must cover, each once.
        source: where the table came from, for messages.
        own: it is the user's, not one that a runs folder keeps.

    Returns:
        The table with the columns image, group, fold, in the order of `training.names`; area_px if it was there.

    Raises:
        UserError: columns or images are missing, unknown or double, a fold is no whole number from 0 on, a fold is
            empty, or a group stands in two folds (a leak); the message names them.
    """
    if not {"image", "fold"} <= set(table.columns):
        raise UserError(f"{source} needs the columns image and fold; it has {', '.join(map(str, table.columns))}.")
    if table["image"].isna().any():
        row = int(table["image"].isna().argmax()) + 1
        raise UserError(f"{source} has a row without an image name (row {row}): give the name, or remove the row.")
    table = _named(table, training)
    doubles = table["image"][table["image"].duplicated()]
    if len(doubles):
        raise UserError(f"{source} lists {doubles.iloc[0]} twice: keep one row an image.")
    lacking = sorted(set(training.names) - set(table["image"]))
    unknown = sorted(set(table["image"]) - set(training.names))
    if lacking or unknown:
        what = f"lists {unknown[0]}, which is not in {training.data}" if unknown else f"lacks {lacking[0]}"
        raise UserError(
            f"{source} {what} ({len(lacking)} images lacking, {len(unknown)} unknown): it was made for other data; "
            + (
                "mend its rows, or leave --folds-csv out to have a split made."
                if own
                else "put the images back, remove it to have a new split made, or choose another runs folder."
            )
        )
    table = table.set_index("image").loc[list(training.names)].reset_index()
    fold = pd.to_numeric(table["fold"], errors="coerce")
    if fold.isna().any() or (fold < 0).any() or (fold % 1 != 0).any():
        bad = table.loc[fold.isna() | (fold < 0) | (fold % 1 != 0)].iloc[0]
        raise UserError(f"{source} puts {bad['image']} into fold {bad['fold']}: number the folds 0, 1, 2, ...")
    table["fold"] = fold.astype(np.int64)
    present = np.unique(table["fold"])
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if len(gaps) or len(present) == 1:
        raise UserError(f"{source} leaves fold {gaps[0] if len(gaps) else 1} empty: number the folds 0, 1, 2, ...")
    table["group"] = training.groups()
    spread = table.groupby("group")["fold"].nunique()
    leaks = list(spread[spread > 1].index)
    if leaks:
        shown = ", ".join(leaks[:5]) + (" ..." if len(leaks) > 5 else "")
        raise UserError(
            f"{source} puts images of one group into different folds (groups {shown}): validation would see "
            "what training saw; move each group into one fold."
        )
    return table[[c for c in COLUMNS if c in table.columns]]


def read(path: Path, training: TrainingSet, *, own: bool = False) -> pd.DataFrame:
    """Read and check a fold table. Raises UserError as `check` does, or if the file is no CSV."""
    try:
        table = load_table(path, dtype={"image": str, "group": str})
    except ValueError:
        raise UserError(f"{path} is not a CSV file: give one with the columns image and fold.") from None
    except FileNotFoundError:
        raise UserError(f"{path} is missing: give the path of a CSV with the columns image and fold.") from None
    return check(table, training, path, own=own)


def find_or_make(
    path: Path,
    training: TrainingSet,
    areas_px: np.ndarray,
    *,
    own: Path | None,
    folds: int = 0,
    seed: int | None = None,
) -> pd.DataFrame:
    """The fold table of a runs folder, made at the first call.

    Args:
        path: `runs/<competition>/folds.csv`.
        training: the images.
        areas_px: (N,) mask areas in pixels, in the order of `training.names`.
        own: a user's own table, used instead of a new split; it must agree with a table that is already there.
        folds: that the table must have; 0 takes what it has, and FOLDS for a new one.
        seed: that the split must be of; None takes what is there, and 0 for a new one.

    Returns:
        The table, columns image, group, fold, area_px, in the order of `training.names`.

    Raises:
        UserError: as `check`; or `own`, or the split of `seed`, differs from the table that runs were already trained
            on, or both are given; or a table has another number of folds.
    """
    if own is not None and seed is not None:
        raise UserError(
            f"{own} is a split already, so --split-seed {seed} has nothing to choose: leave one of them out."
        )
    source = own or path
    if own is not None or path.exists():
        table = read(source, training, own=own is not None)
        if folds not in (0, count := int(table["fold"].max()) + 1):
            raise UserError(
                f"{source} has {count} folds, not {folds}: leave --folds out, or choose another runs folder."
            )
    if own is not None:
        if path.exists() and not (read(path, training)["fold"] == table["fold"]).all():
            raise UserError(
                f"{own} differs from {path}, which earlier runs were trained on: choose another runs folder."
            )
    elif path.exists():
        if seed is not None:
            wanted = split_groups(training.groups(), areas_px, folds=int(table["fold"].max()) + 1, seed=seed)
            if not (table["fold"] == wanted).all():
                raise UserError(
                    f"{path}, which earlier runs were trained on, is not the split of --split-seed {seed}: leave that "
                    "out, or choose another runs folder."
                )
        return table
    else:
        fold = split_groups(training.groups(), areas_px, folds=folds or FOLDS, seed=seed or 0)
        table = check(pd.DataFrame({"image": training.names, "fold": fold}), training, path)
    table["area_px"] = areas_px
    write_table(path, table, float_format=None)
    return table


def parse_folds(text: str, count: int) -> list[int]:
    """Folds as `F=` takes them: `0`, `0,2`, the range `0..4`, or `all`.

    Raises:
        UserError: not of that form, or a fold that the split does not have.

    >>> parse_folds("0..2,4", 5)
    [0, 1, 2, 4]
    """
    if text == "all":
        return list(range(count))
    chosen: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,18})(?:\.\.([0-9]{1,18}))?", part.strip())
        if match is None:
            raise UserError(f"{text!r} is no choice of folds: give one (F=0), some (F=0,2), a range (F=0..4) or all.")
        low, high = int(match[1]), int(match[2] or match[1])
        # before the range is made: it may be of any length
        if high >= count or low > high:
            raise UserError(f"there is no fold {low if low > high else high}: the split has folds 0..{count - 1}.")
        chosen += range(low, high + 1)
    return sorted(set(chosen))
