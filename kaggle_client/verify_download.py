"""Looking at every file of a downloaded competition: does it open, is it the right size, does all fit together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import atomic
from command_line import UserError
from competition import Competition
from folds.csv_table import load_table
from folds.images import list_images, list_masks, read_mask
from folds.mask_levels import unexpected
from folds.parallel import in_parallel
from json_file import Count, Schema, closed
from kernels import rle
from models.image_file import ImageFile

LEDGER_FILE = ".verified.json"
# what is not there is fetched
_AGAIN = "remove what is wrong, and run the same command again."
_CHUNK = 64
_SAVE_EVERY = 32
# of so many, starting processes takes longer than looking
_FEW = 255


@dataclass(frozen=True)
class Look:
    """The files of one chunk, to be opened in a process of its own.

    Attributes:
        folder: where they are.
        names: of the files.
        masks: whether they are masks, otherwise images.
        rows: what a table says of masks, run lengths by file name; a mask that it lacks is compared with nothing.
        table: that table, for messages.
    """

    competition: Competition
    folder: Path
    names: tuple[str, ...]
    masks: bool
    rows: Mapping[str, str] = field(default_factory=dict)
    table: str = ""

    def faults(self) -> list[tuple[str, str]]:
        """(name, sentence) of every file that cannot be used."""
        found = []
        size = self.competition.size
        for name in self.names:
            path = self.folder / name
            try:
                if self.masks:
                    mask = read_mask(path, size)
                    if name in self.rows and not self._agrees(mask, self.rows[name]):
                        found.append((name, f"{path} and its row in {self.table} differ: {_AGAIN}"))
                    elif sentence := unexpected(np.count_nonzero(mask), path, self.competition):
                        found.append((name, sentence))
                else:
                    file = ImageFile(path)
                    file.check()
                    if file.size != size:
                        shown, expected = ("x".join(map(str, s)) for s in (file.size, size))
                        found.append((name, f"{path} has {shown} pixels (height x width), expected {expected}."))
            except UserError as error:
                found.append((name, str(error)))
        return found

    def _agrees(self, mask: np.ndarray, row: str) -> bool:
        try:
            runs = rle.parse(row.encode(), size=self.competition.size)
        except ValueError:
            return False
        return np.array_equal(runs, rle.encode(mask, order=self.competition.order))


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    # the time of change of the content can be set back, as copying does; that of the entry cannot
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@closed
@dataclass(frozen=True)
class _Verified:
    """What the ledger's file holds: the size (height, width) that files had to have, and the stamps of the good."""

    size: tuple[Count, Count]
    good: dict[str, tuple[Count, int, int]]


_VERIFIED = Schema(_Verified, "which files were found good is not known any more, and all are looked at again")


class _Ledger:
    """Which files were found good, by size and time of change."""

    def __init__(self, path: Path, competition: Competition) -> None:
        self._path = path
        # a file that is good for one size need not be for another
        self._size = competition.size
        self._good: dict[str, tuple[int, int, int]] = {}
        try:
            found = _VERIFIED.read_if_there(path)
            if found is not None and found.size == self._size:
                self._good = found.good
        except UserError as error:
            print(error)

    def unknown(self, folder: Path, names: Iterable[str]) -> list[str]:
        return [n for n in names if self._good.get(self._key(folder, n)) != _stamp(folder / n)]

    def _key(self, folder: Path, name: str) -> str:
        return f"{folder.relative_to(self._path.parent).as_posix()}/{name}"

    def add(self, folder: Path, names: Iterable[str]) -> None:
        for name in names:
            self._good[self._key(folder, name)] = _stamp(folder / name)

    def save(self) -> None:
        atomic.write_text(self._path, json.dumps({"size": self._size, "good": self._good}))


def _open_all(looks: Sequence[Look], ledger: _Ledger, jobs: int) -> Iterator[str]:
    """Open the files of every look; yields a sentence for each that cannot be used."""
    total = sum(len(look.names) for look in looks)
    if not total:
        return
    looked = in_parallel(
        Look.faults, looks, total, label="verify", unit="file", size=lambda look: len(look.names), few=_FEW, jobs=jobs
    )
    for i, (look, faults) in enumerate(zip(looks, looked, strict=True)):
        bad = {name for name, _ in faults}
        ledger.add(look.folder, (name for name in look.names if name not in bad))
        if i % _SAVE_EVERY == _SAVE_EVERY - 1:
            ledger.save()
        yield from (sentence for _, sentence in faults)
    ledger.save()


def _names(folder: Path, competition: Competition, count: int | None) -> tuple[list[str], list[str]]:
    """Image names of a folder, and what is wrong with them as a whole."""
    try:
        names = list_images(folder, competition)
    except UserError as error:
        return [], [str(error)]
    if count is not None and len(names) != count:
        remedy = "run the same command again" if len(names) < count else "remove what does not belong there"
        return names, [f"{folder} holds {len(names):,} images, expected {count:,}: {remedy}."]
    return names, []


def _first(names: set[str]) -> str:
    return f"{min(names)}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _columns(path: Path, keys: Sequence[str]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Some columns of a CSV file, row by row, and what is wrong with it."""
    try:
        table = load_table(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        return [], [f"{path} is missing: run the same command again."]
    except ValueError:
        return [], [f"{path} is not a CSV file: {_AGAIN}"]
    for key in keys:
        if key not in table.columns:
            return [], [f"{path} has no column {key}: {_AGAIN}"]
    # a row that ends early lacks its last cells
    return list(table[list(keys)].fillna("").itertuples(index=False, name=None)), []


def _column(path: Path, key: str) -> tuple[set[str], list[str]]:
    """The values of one column of a CSV file, and what is wrong with it."""
    rows, faults = _columns(path, [key])
    return {value for (value,) in rows}, faults


class _Verification:
    """The parts of one data folder, what is wrong with them, and the files still to be opened."""

    def __init__(self, competition: Competition, data: Path, ledger: _Ledger) -> None:
        self._competition, self._data, self._ledger = competition, data, ledger
        self.faults: list[str] = []
        self.looks: list[Look] = []
        # image names by folder, and the rows of a table by file
        self._images: dict[str, list[str]] = {}

    def _groups(self, part: str) -> set[str]:
        return {self._competition.group(name) for name in self._images.get(part, ())}

    def _look(self, folder: Path, names: Sequence[str], *, masks: bool, rows: Mapping[str, str] | None = None) -> None:
        unknown = self._ledger.unknown(folder, names)
        table = str(self._data / self._competition.truth_table) if rows and self._competition.truth_table else ""
        for start in range(0, len(unknown), _CHUNK):
            chunk = tuple(unknown[start : start + _CHUNK])
            some = {name: rows[name] for name in chunk if name in rows} if rows else {}
            self.looks.append(Look(self._competition, folder, chunk, masks, some, table))

    def images(self, part: str, count: int | None) -> None:
        """Names and number of the images of a folder."""
        names, faults = _names(self._data / part, self._competition, count)
        self._images[part] = names
        self.faults += faults
        self._look(self._data / part, names, masks=False)

    def masks(self, *, with_table: bool) -> None:
        """A mask for every training image and no other; and that each is what the table of run lengths says."""
        folder = self._data / self._competition.masks_dir
        try:
            files = list_masks(folder, self._competition)
        except UserError as error:
            self.faults.append(str(error))
            return
        masks = set(files)
        train = self._images.get(self._competition.train_dir)
        expected = {self._competition.mask_name(name) for name in train} if train else masks
        if not masks:
            self.faults.append(f"{folder} is missing or holds no mask: run the same command again.")
        elif lacking := expected - masks:
            self.faults.append(f"{folder} lacks {_first(lacking)}: run the same command again.")
        if orphans := masks - expected:
            named = {files[name] for name in orphans}
            self.faults.append(f"{folder} holds masks of no training image, {_first(named)}: remove them.")
        rows = {}
        if with_table and self._competition.truth_table:
            # what is wrong with the table is said where its rows are compared
            table = _columns(self._data / self._competition.truth_table, self._competition.header)[0]
            image_name, mask_name = self._competition.image_name, self._competition.mask_name
            rows = {mask_name(image_name(key)): text for key, text in table}
            rows = {files[name]: text for name, text in rows.items() if name in files}
        self._look(folder, sorted(files[name] for name in masks & expected), masks=True, rows=rows)

    def metadata(self, table: str) -> None:
        """Every group has its row."""
        path = self._data / table
        known, faults = _column(path, self._competition.metadata_key)
        self.faults += faults
        unknown = set().union(*map(self._groups, self._images)) - known
        if unknown and not faults:
            self.faults.append(f"{path} does not cover {_first(unknown)}: {_AGAIN}")

    def rows(self, name: str, part: str) -> None:
        """A table of run lengths has a row for every image of a folder, and no other."""
        rows, faults = _column(self._data / name, self._competition.header[0])
        self.faults += faults
        images = {self._competition.key(name) for name in self._images.get(part, ())}
        if images and not faults and rows != images:
            table, folder = self._data / name, self._data / part
            self.faults.append(f"{table} and {folder} differ, first at {_first(rows ^ images)}: {_AGAIN}")

    def disjoint(self) -> None:
        """No group is in training and in test."""
        if both := self._groups(self._competition.train_dir) & self._groups(self._competition.test_dir):
            self.faults.append(f"{self._data} has {_first(both)} both in training and in test: {_AGAIN}")


def verify(competition: Competition, data: Path, parts: Iterable[str], *, jobs: int = -1) -> list[str]:
    """Verify a downloaded competition; files found good before, and unchanged since, are not opened again.

    Counts, names, that every image opens and has the competition's size, every mask two levels and that size, that
    images and masks pair up, metadata covers every group, no group is in both sets, and the tables name exactly the
    images of their set, and the masks that there are.

    Args:
        competition: the competition.
        data: the folder of its files.
        parts: the names in it to look at, such as "train" and "metadata.csv".
        jobs: processes, as joblib counts them.

    Returns:
        A sentence for each fault; empty if all is well.
    """
    wanted = set(parts)
    ledger = _Ledger(data / LEDGER_FILE, competition)
    work = _Verification(competition, data, ledger)
    better = [folder for archive in competition.archives if archive.better for folder in archive.folders]
    for folder in (competition.train_dir, competition.test_dir, *better):
        if folder in wanted:
            work.images(folder, competition.count(folder))
    if competition.masks_dir in wanted:
        work.masks(with_table=competition.truth_table in wanted)
    if competition.metadata_file is not None and competition.metadata_file in wanted:
        work.metadata(competition.metadata_file)
    if competition.sample_file in wanted:
        work.rows(competition.sample_file, competition.test_dir)
    if competition.truth_table is not None and competition.truth_table in wanted:
        work.rows(competition.truth_table, competition.train_dir)
    work.disjoint()
    return work.faults + list(_open_all(work.looks, ledger, jobs))
