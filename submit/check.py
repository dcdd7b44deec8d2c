"""`python -m submit.check FILE`: every fault of a submission, found before Kaggle finds it. Streams; needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from command_line import UserError, program
from competition import Competition
from ensemble.blend_file import Foreground
from folds.images import list_images
from kernels.rle import parse
from path_names import shown, visible, why_not
from program_flags import CompetitionName, files_of
from submit.submission_file import manifest_beside
from submit.writer import open_rows, split_row
from text_file import decode

_SHOWN = 20


@dataclass
class Report:
    """What is wrong with a submission.

    Attributes:
        path: the file.
        rows: data rows read.
        faults: how many there are.
        first: sentences of the first 20, each with row number and image name.
        warnings: sentences on what is no fault and yet not to be expected.
    """

    path: Path
    rows: int = 0
    faults: int = 0
    first: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """No fault."""
        return self.faults == 0

    def add(self, sentence: str) -> None:
        """Count a fault; keep its sentence if it is among the first."""
        self.faults += 1
        if len(self.first) < _SHOWN:
            self.first.append(sentence)

    def counted(self) -> str:
        """The number of faults, for people."""
        return f"{self.faults} fault{'' if self.faults == 1 else 's'}"

    def __str__(self) -> str:
        if self.ok:
            return "\n".join([f"{self.path}: {self.rows} rows, no fault", *map("warning: {}".format, self.warnings)])
        more = f"\n... and {self.faults - len(self.first)} more" if self.faults > len(self.first) else ""
        return f"{self.path}: {self.counted()} in {self.rows} rows\n" + "\n".join(self.first) + more


# how far from the training masks rows may be before they are warned of: beyond it lies nothing that a test set of the
# same kind has, within it much that a small one has
_EMPTY_APART, _AREA_APART, _ROWS_APART = 0.2, 1.5, 0.05


class _Areas:
    """Foreground of the rows, beside what the blend was fitted on."""

    def __init__(self, size_px: int, expected: Foreground | None) -> None:
        self._size_px = size_px
        self._expected = expected
        self._rows = self._empty = self._strange = 0
        self._first = ""

    def add(self, name: str, runs: np.ndarray) -> None:
        self._rows += 1
        if not len(runs):
            self._empty += 1
        elif self._expected is not None:
            share = int(runs[:, 1].sum()) / self._size_px
            if not self._expected["least"] / _AREA_APART <= share <= self._expected["most"] * _AREA_APART:
                self._strange += 1
                self._first = self._first or f"{name} with {share:.2%}"

    def warnings(self) -> list[str]:
        count, expected = self._rows, self._expected
        look = "look at some of its masks before it is sent"
        if count and self._empty == count:
            return [f"every row is empty, not one mask has a pixel: {look}"]
        found = []
        if expected is not None and count:
            if abs(self._empty / count - expected["empty"]) > _EMPTY_APART:
                found.append(
                    f"{self._empty / count:.0%} of the rows are empty, of the masks that the blend was chosen on "
                    f"{expected['empty']:.0%}: {look}"
                )
            if self._strange > _ROWS_APART * count:
                found.append(
                    f"{self._strange} rows have far more or less foreground ({self._first} first) than the masks that "
                    f"the blend was chosen on, {expected['least']:.2%} to {expected['most']:.2%} of the frame: {look}"
                )
        return found


def check(path: Path, *, competition: Competition, names: Sequence[str], expected: Foreground | None = None) -> Report:
    """Check a submission: header, names, order, count, and every row's runs.

    Args:
        path: `.csv`, `.csv.gz` or `.zip`.
        competition: its header, size and pixel order.
        names: the images it must have, in order, by the names of their files.
        expected: how much foreground the blend was fitted on (`foreground` of blend.json); rows unlike it are warned
            of.

    Returns:
        The report; row 1 is the first after the header.

    Raises:
        UserError: the file is missing, damaged or cut off.
    """
    report = Report(path)
    keys = [competition.key(name) for name in names]
    position = {key: i for i, key in enumerate(keys)}
    seen = bytearray(len(names))
    before = -1
    areas = _Areas(competition.size[0] * competition.size[1], expected)
    with open_rows(path) as lines:
        header = b"".join(split_row(lines.readline())).decode("utf-8", "replace")
        if header.startswith("\ufeff"):
            report.add("header: a byte-order mark stands before it: save the file as UTF-8 without one")
        elif header != ",".join(competition.header):
            report.add(f"header: {header[:80]!r}, expected {','.join(competition.header)!r}")
        for row, line in enumerate(lines, 1):
            report.rows = row
            raw, comma, text = split_row(line)
            if not raw and not comma:
                report.add(f"row {row}: the line is empty")
                continue
            name = raw.decode("utf-8", "replace")
            place = position.get(name)
            where = f"row {row} ({visible(name[:60])})"
            if not comma:
                report.add(f"{where}: no comma between image name and runs")
            if place is None:
                report.add(f"{where}: not an image of this submission")
            elif seen[place]:
                report.add(f"{where}: the image is listed twice")
            elif place < before:
                # against the row before, not against the row's number: one lost row is one fault, not thousands
                report.add(f"{where}: out of order, it belongs before {keys[before]}")
            if place is not None:
                seen[place] = 1
                before = place
            try:
                areas.add(visible(name), parse(text, size=competition.size))
            except ValueError as error:
                report.add(f"{where}: {error}")
    for place, found in enumerate(seen):
        if not found:
            report.add(f"{keys[place]}: no row")
    report.warnings = areas.warnings()
    return report


def expected_of(path: Path) -> Foreground | None:
    """How much foreground the blend was fitted on that made a submission; None where no manifest beside it says."""
    manifest = manifest_beside(path)
    return None if manifest is None else manifest.get("blend", {}).get("foreground")


def sample_names(data: Path, competition: Competition) -> list[str]:
    """Image names of the competition's sample submission, in order.

    Raises:
        UserError: the file is missing, is no sample submission, or names no image, or one twice.
    """
    path = data / competition.sample_file
    own = f"put the competition's own file there, or mend the entry {competition.name!r} in competition.py"
    try:
        # not at every character that Unicode ends lines with
        text = decode(path.read_bytes()).replace("\r\n", "\n")
        header, *rows = text.split("\n")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: it fixes the rows of a submission and their order; copy it.") from None
    except ValueError:
        text = ""
    if not text:
        raise UserError(f"{path} is not a sample submission: {own}.")
    if b"".join(split_row(header.encode())).decode() != ",".join(competition.header):
        raise UserError(f"{path} begins with {header[:80]!r}, not {','.join(competition.header)!r}: {own}.")
    keys = [split_row(row.encode())[0].decode() for row in rows if row]
    if not keys:
        raise UserError(f"{path} names no image: {own}.")
    suffix = competition.row_suffix
    if suffix and (key := next((key for key in keys if key.endswith(suffix)), None)):
        raise UserError(
            f"{path} names {key} by its file, and a row of {competition.name} leaves the {suffix} off: {own}."
        )
    names = [competition.image_name(key) for key in keys]
    for row, name in enumerate(names, 1):
        if reason := why_not(name):
            raise UserError(f"{path} names {shown(name)} in row {row}, no image's name, as {reason}: {own}.")
    if len(set(names)) < len(names):
        double = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"{path} names {double} twice: {own}.")
    return names


@program
def main(
    file: Annotated[Path, tyro.conf.Positional],
    competition: CompetitionName = "carvana",
    data: Path | None = None,
    images: Path | None = None,
) -> None:
    """Check a submission against the competition's sample submission; exit status 1 if it has a fault.

    Args:
        file: the submission, .csv, .csv.gz or .zip.
        data: the folder of the sample submission; data/<competition> by default.
        images: a folder of images instead: the submission must have a row for each, sorted by name.
    """
    facts, data = files_of(competition, data)
    if images is not None:
        if not images.is_dir():
            raise UserError(f"{images} is not a folder: name the folder of the images that were predicted.")
        names = list_images(images, facts)
    else:
        names = sample_names(data, facts)
    report = check(file, competition=facts, names=names, expected=expected_of(file))
    print(report)
    if not report.ok:
        raise UserError(f"{file} is not fit to be submitted: {report.counted()}.")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
