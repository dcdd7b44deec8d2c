"""The figures of a report, gathered from blend.json, oof_dice.csv, metrics.csv, metadata.csv and what else is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from competition import Competition
from ensemble.intervals import figures, mean_interval
from folds.run_layout import METRICS_FILE, TTA_FILE, fold_folder

_FIXED = ("image", "group", "fold", "nested")


def member_names(scores: pd.DataFrame) -> list[str]:
    """The networks of oof_dice.csv, best mean Dice first."""
    names = [column for column in scores.columns if column not in _FIXED]
    return sorted(names, key=lambda name: -scores[name].mean())


def fold_table(scores: pd.DataFrame, blend: str) -> list[dict[str, Any]]:
    """One row for the blend and one a network: name, folds (mean Dice of each), and `figures` over all images."""
    groups = scores["group"].to_numpy(str)
    rows = []
    for name, column in [(blend, "nested"), *((name, name) for name in member_names(scores))]:
        by_fold = scores.groupby("fold")[column].mean()
        rows.append({"name": name, "folds": by_fold.tolist(), **figures(scores[column].to_numpy(), groups)})
    return rows


def gain_over_best(scores: pd.DataFrame) -> dict[str, Any]:
    """What the blend, nested, gains over the best network: name, gain and its interval over groups."""
    best = member_names(scores)[0]
    gain = (scores["nested"] - scores[best]).to_numpy()
    return {
        "name": best,
        "gain": float(gain.mean()),
        "interval": list(mean_interval(gain, scores["group"].to_numpy(str))),
    }


def error_by_view(scores: pd.DataFrame, competition: Competition, blend: str) -> dict[str, dict[str, float]]:
    """{blend or network: {view: mean 1 - Dice}}, the blend first; empty where images have no views."""
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
    table = pd.read_csv(path, dtype=str)
    if column not in table or competition.metadata_key not in table:
        return []
    make = scores["group"].astype(str).map(table.set_index(competition.metadata_key)[column]).fillna("(not listed)")
    rows = []
    for name, part in scores.groupby(make):
        groups = part["group"].to_numpy(str)
        rows.append(
            {
                "make": str(name),
                "groups": len(set(groups)),
                "images": len(part),
                **figures(part["nested"].to_numpy(), groups),
            }
        )
    return sorted(rows, key=lambda row: float(row["dice"]))


def learning_curves(folder: Path, names: Sequence[str], folds: int) -> dict[str, dict[int, list[float]]]:
    """{network: {fold: validation Dice by epoch}} from the metrics.csv that are there."""
    curves: dict[str, dict[int, list[float]]] = {}
    for name in names:
        for fold in range(folds):
            path = fold_folder(folder / name, fold) / METRICS_FILE
            if path.exists():
                table = pd.read_csv(path)
                if "val_dice" in table:
                    dice = table.dropna(subset=["val_dice"]).groupby("epoch")["val_dice"].last()
                    curves.setdefault(name, {})[fold] = dice.tolist()
    return curves


def tta_tables(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """What transforms at test time are worth, from the tta.json in networks' folders.

    Returns:
        One table a network that has been measured: name, plain (Dice without any), and rows, each with label, dice,
        gain, interval and passes (forward passes an image).
    """
    tables = []
    for name in names:
        path = folder / name / TTA_FILE
        if not path.exists():
            continue
        content = json.loads(path.read_text())
        rows = [{"label": " + ".join(entry["transforms"]), **entry} for entry in content["each"]]
        rows.append({"label": "all of them", **content["all"]})
        if content["chosen"]["transforms"]:
            rows.append({"label": f"chosen: {', '.join(content['chosen']['transforms'])}", **content["chosen"]})
        tables.append({"name": name, "plain": content["plain"]["dice"], "rows": rows})
    return tables


def suspects(agreement: np.ndarray, best_dice: np.ndarray, count: int) -> list[int]:
    """Positions of the images whose label is most in doubt, worst first.

    Args:
        agreement: (N,) how far the trusted networks agree with each other, a Dice (`report.scan.Scan`).
        best_dice: (N,) Dice with the truth of that trusted network that is closest to it.
        count: at most so many; an image where some network is closer to the truth than they are to each other is
            hard, not suspect, and is left out.
    """
    gap = agreement - best_dice
    return [int(i) for i in np.argsort(-gap, kind="stable")[:count] if gap[i] > 0]
