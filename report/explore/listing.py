"""What lies in the folders of a competition: images, masks and tables, and whatever is missing, double or strange."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from command_line import UserError
from competition import Competition
from folder_listing import ends_in, list_folder
from folds.csv_table import read_table
from folds.images import TrainingSet, as_spelled, find_training_set, list_masks, read_groups


@dataclass(frozen=True)
class Pictures:
    """The images of one set, "train" or "test"; pickles to workers.

    Attributes:
        name: "train" or "test".
        folder: of the images.
        names: of the images, sorted by group and view.
        groups: of the images, in the order of `names`.
        training: where their masks are; None for a test set.
    """

    name: str
    folder: Path
    names: tuple[str, ...]
    groups: tuple[str, ...]
    training: TrainingSet | None = None


@dataclass(frozen=True)
class Listing:
    """What the folders hold.

    Attributes:
        competition: its facts; the size is the images' own where they are composed.
        train, test: the images with a good name, and of the training images those with a mask.
        faults: names of files by what is wrong with them.
        notes: one sentence for each thing that is not there and was gone without.
    """

    competition: Competition
    train: Pictures
    test: Pictures
    faults: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _add(faults: dict[str, list[str]], kind: str, names: Iterable[str]) -> None:
    if found := list(names):
        faults.setdefault(kind, []).extend(found)


def _images(folder: Path, competition: Competition, faults: dict[str, list[str]]) -> list[str]:
    names: list[str] = []
    seen: dict[str, str] = {}
    if not folder.is_dir():
        return names
    listing = list_folder(folder, competition.image_suffixes)
    # masks are no strangers where both share a folder
    shared = competition.train_dir == competition.masks_dir
    others = [name for name in listing.others if not (shared and ends_in(name, [competition.mask_suffix]))]
    _add(faults, "no image by its name", [f"{folder.name}/{name}" for name in others])
    for name in listing.names:
        if not competition.follows_pattern(name):
            _add(faults, "not named as the competition names its images", [f"{folder.name}/{name}"])
        else:
            other = seen.setdefault(competition.stem(name).lower(), name)
            if other != name:
                _add(faults, "names that differ in case or suffix alone", [f"{folder.name}/{other}, {name}"])
            names.append(name)
    return names


def _in_order(names: list[str], groups: list[str], competition: Competition) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and groups, sorted by group and view."""
    ordered = sorted(zip(groups, [competition.view(n) or "" for n in names], names, strict=True))
    return tuple(name for _, _, name in ordered), tuple(group for group, _, _ in ordered)


def _test(competition: Competition, data: Path, faults: dict[str, list[str]], notes: list[str]) -> Pictures:
    folder = data / competition.test_dir
    names = _images(folder, competition, faults)
    if not names:
        notes.append(f"There are no test images ({folder} is missing or empty), so nothing is compared with them.")
    sample = data / competition.sample_file
    if names and sample.is_file():
        try:
            table = read_table(sample, competition.header[:1], "copy it again", numbers=[])
        except UserError as error:
            notes.append(str(error))
        else:
            keys = [competition.image_name(key) for key in table[competition.header[0]]]
            rows = as_spelled(keys, folder, competition)
            _add(faults, "rows of the sample submission without an image", sorted(set(rows) - set(names)))
            _add(faults, "test images that the sample submission does not list", sorted(set(names) - set(rows)))
            _add(faults, "listed twice in the sample submission", pd.Series(rows)[pd.Series(rows).duplicated()])
    groups = [competition.group(name) for name in names]
    return Pictures("test", folder, *_in_order(names, groups, competition))


def _composed(competition: Competition, data: Path) -> Listing:
    training = find_training_set(competition, data)
    ordered = _in_order(list(training.names), training.groups().tolist(), competition)
    notes = [
        "The images are composed when asked for: what stands here is of those that are scored, as files there are "
        "parts alone, and there is no test set."
    ]
    facts = training.competition
    return Listing(facts, Pictures("train", data, *ordered, training), Pictures("test", data, (), ()), {}, notes)


def list_files(competition: Competition, data: Path) -> Listing:
    """List the files of a competition without opening an image.

    Args:
        competition: its facts.
        data: its folder.

    Raises:
        UserError: there is no training image with a mask.
    """
    if competition.composed:
        return _composed(competition, data)
    faults: dict[str, list[str]] = {}
    notes: list[str] = []
    found = _images(data / competition.train_dir, competition, faults)
    masks = list_masks(data / competition.masks_dir, competition)
    wanted = {competition.mask_name(name): name for name in found}
    _add(faults, "training images without a mask", [wanted[m] for m in sorted(set(wanted) - set(masks))])
    _add(faults, "masks without an image", sorted(masks[m] for m in set(masks) - set(wanted)))
    names = sorted(wanted[mask] for mask in set(masks) & set(wanted))
    if not names:
        raise UserError(
            f"{data / competition.train_dir} and {data / competition.masks_dir} hold no image with its mask: put the "
            "competition's files there, or name their place with DATA=..."
        )
    groups = [competition.group(name) for name in names]
    table = data / (competition.groups_file or "")
    if table.is_file():
        try:
            groups = list(read_groups(table, competition, names))
        except UserError as error:
            notes.append(f"{error} Here every image is its own group.")
    ordered = _in_order(names, groups, competition)
    training = TrainingSet(competition, data, ordered[0], "", (), mask_files=masks)
    train = Pictures("train", data / competition.train_dir, *ordered, training)
    return Listing(competition, train, _test(competition, data, faults, notes), faults, notes)


def sample(pictures: Pictures, most: int, seed: int = 0) -> Pictures:
    """A set's images, or where there are more than `most` of them, those of groups drawn at random, whole.

    >>> from competition import COMPETITIONS
    >>> many = Pictures("test", Path(), tuple("abcdef"), tuple("112233"))
    >>> [len(sample(many, most).names) for most in (6, 5, 3, 1)]
    [6, 4, 2, 1]
    """
    if len(pictures.names) <= most:
        return pictures
    sizes = pd.Series(pictures.groups).value_counts(sort=False)
    shuffled = sizes.sample(frac=1, random_state=seed)
    chosen = set(shuffled.index[shuffled.cumsum() <= most]) or {shuffled.index[0]}
    kept = [i for i, group in enumerate(pictures.groups) if group in chosen][:most]
    names, groups = (tuple(each[i] for i in kept) for each in (pictures.names, pictures.groups))
    return Pictures(pictures.name, pictures.folder, names, groups, pictures.training)
