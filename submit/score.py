"""`python -m submit.score FILE --truth TRUTH`: the score of a submission against known masks, on runs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import tyro

from command_line import UserError, program
from competition import Competition, find_competition
from ensemble.photograph_files import MASK_SUFFIX
from folder_listing import list_folder, without_suffix
from folds.csv_table import write_table
from folds.images import list_masks, read_mask
from kernels.dice import counts_runs
from kernels.metrics import Metric, find_metric
from kernels.rle import encode, parse
from program_flags import CompetitionName
from submit.writer import open_rows, split_row

_AHEAD = 64


@dataclass(frozen=True)
class Score:
    """The score of a submission: `names`, and `scores` (N,) float64 in the same order, by `metric`."""

    names: list[str]
    scores: np.ndarray
    metric: Metric

    @property
    def mean(self) -> float:
        """What the leaderboard would show."""
        return float(self.scores.mean())


def _masks(folder: Path, competition: Competition) -> Iterator[tuple[str, np.ndarray]]:
    """Rows of the masks that `make predict` has written into a folder."""
    for mask in list_folder(folder, [MASK_SUFFIX]).names:
        name = without_suffix(mask, [MASK_SUFFIX]) + competition.image_suffix
        yield name, encode(read_mask(folder / mask, competition.size), order=competition.order)


def _rows(path: Path, competition: Competition) -> Iterator[tuple[str, np.ndarray]]:
    if path.is_dir():
        yield from _masks(path, competition)
        return
    seen: set[bytes] = set()
    with open_rows(path) as lines:
        lines.readline()
        for row, line in enumerate(lines, 1):
            name, _, text = split_row(line)
            try:
                if not name or name in seen:
                    raise ValueError("the image is listed twice" if name else "it names no image")
                seen.add(name)
                yield competition.image_name(name.decode()), parse(text, size=competition.size)
            except (ValueError, UnicodeDecodeError) as error:
                raise UserError(f"{path}, row {row} ({name[:60]!r}): {error}; check the file (submit.check).") from None


def score(path: Path, truth: Path, *, competition: Competition) -> Score:
    """Score a submission image by image.

    Args:
        path: the submission, `.csv`, `.csv.gz` or `.zip`; or a folder of masks as `make predict` writes them.
        truth: a folder of masks, or a file in the submission's own format.
        competition: size, pixel order, mask names and metric.

    Returns:
        The score of every row. The truth may know more images than the submission has rows.

    Raises:
        UserError: a row has no truth, is malformed or is listed twice, there is no row, or a file cannot be read.
    """
    size, metric = competition.size, find_metric(competition.metric)
    if truth.is_dir():
        files = list_masks(truth, competition)

        def true_runs(name: str) -> np.ndarray:
            mask = competition.mask_name(name)
            return encode(read_mask(truth / files.get(mask, mask), size), order=competition.order)
    else:
        known = dict(_rows(truth, competition))

        def true_runs(name: str) -> np.ndarray:
            if name not in known:
                raise UserError(f"{truth} knows nothing of {name}: give the truth of the submitted images.")
            return known[name]

    def one(row: tuple[str, np.ndarray]) -> float:
        return metric.of(counts_runs(row[1], true_runs(row[0])))

    names: list[str] = []
    values: list[float] = []
    batch: list[tuple[str, np.ndarray]] = []
    with ThreadPoolExecutor() as pool:
        for row in _rows(path, competition):
            names.append(row[0])
            batch.append(row)
            if len(batch) == _AHEAD:
                values += pool.map(one, batch)
                batch = []
        values += pool.map(one, batch)
    if not values:
        raise UserError(f"{path} has no row to score.")
    return Score(names, np.array(values), metric)


@program
def main(
    file: Annotated[Path, tyro.conf.Positional],
    truth: Path,
    competition: CompetitionName = "carvana",
    per_image: Path | None = None,
) -> None:
    """Print the mean score of a submission against known masks.

    Args:
        file: the submission, .csv, .csv.gz or .zip, or a folder of masks from make predict.
        truth: folder of masks, or a CSV in the submission's own format.
        per_image: write every image's score to this CSV.
    """
    result = score(file, truth, competition=find_competition(competition))
    worst, metric = int(result.scores.argmin()), result.metric
    print(f"mean {metric.label} {result.mean:.6f} over {len(result.names)} images")
    print(f"worst {result.scores[worst]:.6f} ({result.names[worst]})")
    if per_image is not None:
        write_table(per_image, pd.DataFrame({"image": result.names, metric.name: result.scores}))


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
