"""What the metadata say of train and test: makes and years of one that the other lacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from command_line import UserError
from competition import Competition
from folds.csv_table import read_table
from report.explore.listing import Listing, Pictures

# a column of more different words is no table to read
_MOST_VALUES = 80
_MOST_BINS = 24


@dataclass(frozen=True)
class Fact:
    """One column of the metadata.

    Attributes:
        column: its name.
        counts: (value, number in train, number in test), most frequent first, or where the values are numbers in their
            order; groups are counted, or images where there are no groups. Empty where nearly every value is another.
        values: how many different ones there are.
        only_in_test: values that no training group has; of numbers none are named.
        outside: test groups whose number is beyond all of train.
        numbers: whether the values are numbers; those are counted in bins where there are many.
    """

    column: str
    counts: list[tuple[str, int, int]]
    values: int
    only_in_test: list[str] = field(default_factory=list)
    outside: int = 0
    numbers: bool = False


def _keys(pictures: Pictures, competition: Competition) -> list[str]:
    """What the metadata know of a set, each once."""
    return sorted({competition.group(n) if competition.has_groups else competition.key(n) for n in pictures.names})


def _of_numbers(column: str, train: np.ndarray, test: np.ndarray) -> Fact:
    both = np.concatenate([train, test])
    distinct = np.unique(both)
    if len(distinct) <= _MOST_BINS:
        counts = [(f"{value:g}", int((train == value).sum()), int((test == value).sum())) for value in distinct]
    else:
        edges = np.histogram_bin_edges(both, _MOST_BINS)
        of_train, of_test = (np.histogram(values, edges)[0] for values in (train, test))
        middles = (edges[:-1] + edges[1:]) / 2
        counts = [(f"{m:.4g}", int(a), int(b)) for m, a, b in zip(middles, of_train, of_test, strict=True)]
    outside = int(((test < train.min()) | (test > train.max())).sum()) if len(train) and len(test) else 0
    return Fact(column, counts, len(distinct), outside=outside, numbers=True)


def _of_words(column: str, train: pd.Series, test: pd.Series) -> Fact:
    in_train, in_test = train.value_counts(), test.value_counts()
    total = in_train.add(in_test, fill_value=0).sort_index().sort_values(ascending=False, kind="stable")
    only = [str(value) for value in total.index if value in in_test.index and value not in in_train.index]
    counts = []
    if len(total) <= _MOST_VALUES:
        counts = [(str(v), int(in_train.get(v, 0)), int(in_test.get(v, 0))) for v in total.index]
    return Fact(column, counts, len(total), only)


def facts(listing: Listing, data: Path) -> tuple[list[Fact], list[str]]:
    """Every column of the metadata, the competition's own breakdown first; and sentences about what is lacking.

    Args:
        listing: the images, all of them: files are not opened.
        data: the competition's folder.
    """
    competition = listing.competition
    if competition.metadata_file is None:
        return [], []
    path = data / competition.metadata_file
    if not path.is_file():
        return [], [f"{path} is missing: there is nothing to break the images down by."]
    try:
        table = read_table(path, [competition.metadata_key], "copy it again", numbers=[])
    except UserError as error:
        return [], [str(error)]
    table = table.drop_duplicates(competition.metadata_key).set_index(competition.metadata_key)
    train, test = _keys(listing.train, competition), _keys(listing.test, competition)
    notes = []
    for name, keys in (("train", train), ("test", test)):
        if unknown := [key for key in keys if key not in table.index]:
            notes.append(f"{path.name} does not list {len(unknown)} of the {len(keys)} of {name}, as {unknown[0]}.")
    columns = sorted(table.columns, key=lambda column: column != competition.metadata_breakdown)
    found = []
    for column in columns:
        of_train, of_test = (table[column].reindex(keys).dropna() for keys in (train, test))
        if pd.api.types.is_numeric_dtype(table[column]):
            fact = _of_numbers(column, of_train.to_numpy(float), of_test.to_numpy(float))
        else:
            fact = _of_words(column, of_train.astype(str), of_test.astype(str))
        if fact.values > 1:
            found.append(fact)
    return found, notes
