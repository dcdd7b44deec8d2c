"""The figures of a report, gathered from the blend, all images' scores, metrics.csv, metadata.csv and what else there
is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from command_line import UserError
from competition import Competition
from ensemble.intervals import figures
from ensemble.selection import gain_over_best
from ensemble.tta_gain import TTA_GAINS
from folds.csv_table import read_table
from folds.run_layout import METRICS_FILE, TTA_FILE, fold_folder
from kernels.metrics import DICE, Metric, find_metric, score_in

_FIXED = ("image", "group", "fold", "nested")


def member_names(scores: pd.DataFrame) -> list[str]:
    """The networks that there are scores of, best mean first."""
    names = [column for column in scores.columns if column not in _FIXED]
    return sorted(names, key=lambda name: -scores[name].mean())


def fold_table(scores: pd.DataFrame, blend: str, metric: Metric = DICE) -> list[dict[str, Any]]:
    """One row for the blend and one a network: name, folds (mean score of each), and `figures` over all images."""
    groups = scores["group"].to_numpy(str)
    rows = []
    for name, column in [(blend, "nested"), *((name, name) for name in member_names(scores))]:
        by_fold = scores.groupby("fold")[column].mean()
        rows.append({"name": name, "folds": by_fold.tolist(), **figures(scores[column].to_numpy(), groups, metric)})
    return rows


def best_and_gain(scores: pd.DataFrame) -> dict[str, Any]:
    """What the blend, nested, gains over its best network as it is: `ensemble.selection.gain_over_best`."""
    names = member_names(scores)
    return gain_over_best(scores["nested"].to_numpy(), scores[names].to_numpy(), names, scores["group"].to_numpy(str))


def error_by_view(scores: pd.DataFrame, competition: Competition, blend: str) -> dict[str, dict[str, float]]:
    """{blend or network: {view: mean 1 - score}}, the blend first; empty where images have no views."""
    if not competition.has_views:
        return {}
    views = scores["image"].map(competition.view)
    columns = [(blend, "nested"), *((name, name) for name in member_names(scores))]
    means = {name: (1 - scores[column]).groupby(views).mean() for name, column in columns}
    return {name: {str(view): float(error) for view, error in mean.items()} for name, mean in means.items()}


def by_make(scores: pd.DataFrame, competition: Competition, data: Path) -> list[dict[str, Any]]:
    """One row a make, worst first: make, groups, images and `figures` of the blend.

    "Make" stands for whatever column of the metadata the competition breaks scores down by; empty without one.
    """
    column = competition.metadata_breakdown
    path = data / (competition.metadata_file or "")
    if column is None or not path.is_file():
        return []
    try:
        table = read_table(path, [competition.metadata_key], "copy it again", numbers=[])
    except UserError as error:
        print(f"{error} The report is without it.")
        return []
    if column not in table:
        return []
    listed = table.drop_duplicates(competition.metadata_key).set_index(competition.metadata_key)[column]
    make = scores["group"].astype(str).map(listed.astype(str)).fillna("(not listed)")
    metric, rows = find_metric(competition.metric), []
    for name, part in scores.groupby(make):
        groups = part["group"].to_numpy(str)
        rows.append(
            {
                "make": str(name),
                "groups": len(set(groups)),
                "images": len(part),
                **figures(part["nested"].to_numpy(), groups, metric),
            }
        )
    return sorted(rows, key=lambda row: float(row[metric.name]))


def learning_curves(
    folder: Path, names: Sequence[str], folds: int, metric: Metric = DICE
) -> dict[str, dict[int, list[float]]]:
    """{network: {fold: validation score by epoch}} from the metrics.csv that are there."""
    curves: dict[str, dict[int, list[float]]] = {}
    for name in names:
        for fold in range(folds):
            path = fold_folder(folder / name, fold) / METRICS_FILE
            if path.exists():
                # an epoch's row may lack what is measured in others
                try:
                    table = read_table(path, [], "the fold's manifest has what matters", numbers=["epoch"])
                except UserError as error:
                    print(f"{error} The report is without this curve.")
                    continue
                if metric.logged in table and table[metric.logged].dtype.kind in "iuf":
                    by_epoch = table.dropna(subset=[metric.logged]).groupby("epoch")[metric.logged].last()
                    curves.setdefault(name, {})[fold] = by_epoch.tolist()
    return curves


def tta_tables(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """What transforms at test time are worth, from the tta.json in networks' folders.

    Returns:
        One table a network that has been measured: name, plain (the score without any), and rows, each with label, the
        score under its metric's name, gain, interval and passes (forward passes an image).
    """
    tables = []
    for name in names:
        content = TTA_GAINS.read_if_there(folder / name / TTA_FILE)
        if content is None:
            continue
        rows: list[dict[str, Any]] = [{"label": " + ".join(entry["transforms"]), **entry} for entry in content["each"]]
        rows.append({"label": "all of them", **content["all"]})
        if content["chosen"]["transforms"]:
            rows.append({"label": f"chosen: {', '.join(content['chosen']['transforms'])}", **content["chosen"]})
        tables.append({"name": name, "plain": score_in(content["plain"]), "rows": rows})
    return tables


def suspects(agreement: np.ndarray, best: np.ndarray, count: int) -> list[int]:
    """Positions of the images whose label is most in doubt, worst first.

    Args:
        agreement: (N,) how far the trusted networks agree with each other, a score (`report.scan.Scan`).
        best: (N,) scores with the truth of that trusted network that is closest to it.
        count: at most so many; an image where some network is closer to the truth than they are to each other is
            hard, not suspect, and is left out.
    """
    gap = agreement - best
    return [int(i) for i in np.argsort(-gap, kind="stable")[:count] if gap[i] > 0]
