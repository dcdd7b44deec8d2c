"""What is told of a set of pseudo-labels: how many were taken, by area and view, and the scores to be expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from competition import Competition
from ensemble.pseudo_choice import AREA
from folds.pseudo_set import ALL_FOLDS, PseudoRecord


def _shares(table: pd.DataFrame, by: pd.Series, what: str) -> dict[str, Any]:
    rows = [
        (str(label), len(part), int(part["taken"].sum()), float(part["expected"].mean()))
        for label, part in table.groupby(by, sort=True, observed=True)
    ]
    return {"what": what, "rows": rows}


def breakdowns(table: pd.DataFrame, facts: Competition) -> list[dict[str, Any]]:
    """What was taken by area of the label, by view where there are views, and by reason: `what`, and `rows` of (label,
    images, taken, mean expected score)."""
    areas = np.array(table[AREA], np.float64)
    some = areas[areas > 0]
    edges = np.unique(np.quantile(some, [0.25, 0.5, 0.75])) if len(some) else np.array([])
    limits = [0.0, *edges.tolist(), 1.0]
    names = [f"{i + 1}. {100 * low:.1f} .. {100 * high:.1f} %" for i, (low, high) in enumerate(pairwise(limits))]
    position = np.searchsorted(edges, areas)
    by_area = pd.Series(["0. empty" if area == 0 else names[p] for area, p in zip(areas, position, strict=True)])
    found = [_shares(table, by_area, "area of the label, of the frame")]
    if facts.has_views:
        found.append(_shares(table, table["image"].map(facts.view), "view"))
    if (table["fold"] != ALL_FOLDS).any():
        found.append(_shares(table, table["fold"], "fold"))
    found.append(_shares(table, table["reason"], "decision"))
    return found


def lines(record: PseudoRecord, parts: Sequence[Mapping[str, Any]], label: str) -> list[str]:
    """What was chosen, for people."""
    calibration, interval = record["calibration"], record["expected_interval"]
    found = [
        f"{record['taken']} of {record['considered']} labels taken, of each of which at least "
        f"{label} {record['least']:.4f} is expected; labels: {record['labels']}; digest {record['digest']}"
    ]
    if interval is not None and record["expected"] is not None:
        found.append(f"expected of those taken  {record['expected']:.4f}  {interval[0]:.4f}..{interval[1]:.4f}")
    found.append(
        f"expectation, out of fold: mean error {calibration['mean_error']:.4f}, bias {calibration['bias']:+.4f}, "
        f"rank correlation {calibration['rank_correlation']:.2f} ({calibration['images']} images)"
    )
    truth = record.get("known_truth")
    if truth is not None:
        found += [
            f"by the known truth, {name.replace('_', ' ')}: {truth[name]:.4f} (expected "
            f"{truth[f'{name}_expected']:.4f}, worst {truth[f'{name}_worst']:.4f})"
            for name in ("taken", "left_out")
            if name in truth
        ]
    for part in parts:
        found.append(f"{part['what']:36}  images  taken  expected")
        found += [f"  {row:34}  {images:6}  {count:5}  {expected:.4f}" for row, images, count, expected in part["rows"]]
    return found
