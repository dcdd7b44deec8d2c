"""The program behind `make explore`: what is in the data, as a page, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import atomic
from command_line import UserError, program
from folder_lock import fill
from folds.csv_table import write_table
from folds.run_layout import EXPLORE_DIR, EXPLORE_IMAGES_FILE, EXPLORE_NUMBERS_FILE, EXPLORE_PAGE_FILE
from kernels.metrics import find_metric
from program_flags import CompetitionName, DataFolder, Jobs, Positive, places
from report import page
from report.charts import Chart
from report.explore import drawings
from report.explore.agreement import agreement
from report.explore.ceilings import ceilings
from report.explore.drawings import thumbnails
from report.explore.facts import facts
from report.explore.findings import Found, findings
from report.explore.likeness import near_duplicates
from report.explore.listing import Pictures, list_files, sample
from report.explore.shift import shift
from report.explore.survey import STATISTICS, Survey, View, survey
from report.thumbnail import Thumbnail

_SHEET_GROUPS, _SHEET, _ENDS, _PAIRS, _STRANGE, _VIEWS = {"train": 3, "test": 1}, 36, 4, 6, 8, 36
# what the images at its ends are worth looking at for: (column, largest first, in words)
_EXTREMES = (
    ("brightness", False, "darkest"),
    ("brightness", True, "brightest"),
    ("sharpness", False, "least sharp"),
    ("area_share", False, "smallest mask"),
    ("area_share", True, "largest mask"),
    ("pieces", True, "most pieces"),
    ("holes", True, "most holes"),
    ("raggedness", True, "most boundary for its area"),
)


def _doubles(images: pd.DataFrame) -> dict[str, list[str]]:
    """Files of the same bytes."""
    known = images[images["digest"] != ""]
    groups = known.groupby("digest")["image"].agg(list)
    return {"of the same bytes": [", ".join(names) for names in groups if len(names) > 1]}


def _of_other_size(images: pd.DataFrame, size: tuple[int, int]) -> dict[str, list[str]]:
    other = images[(images["height"] != size[0]) | (images["width"] != size[1])]
    shown = [f"{row.image} ({row.height}x{row.width})" for row in other.itertuples()]
    return {f"of another size than {size[0]}x{size[1]}": shown}


def _merged(*parts: Mapping[str, list[str]]) -> dict[str, list[str]]:
    merged: dict[str, list[str]] = {}
    for part in parts:
        for kind, names in part.items():
            if names:
                merged[kind] = [*merged.get(kind, []), *names]
    return merged


def _sheet(pictures: Pictures, images: pd.DataFrame, found: Survey) -> list[Thumbnail]:
    """Some groups from every view, or images drawn evenly where there are no views."""
    own = images[images["set"] == pictures.name]
    if own["view"].nunique() > 1:
        sizes = own.groupby("group", sort=False).size()
        fullest = sizes[sizes == sizes.max()].index
        count = _SHEET_GROUPS[pictures.name]
        chosen = [fullest[i] for i in np.unique(np.linspace(0, len(fullest) - 1, count).astype(int))]
        rows = own[own["group"].isin(chosen)].sort_values(["view", "group"], kind="stable")
        rows = rows.head(count * _VIEWS)
        wanted = [(name, f"view {view}") for name, view in rows[["image", "view"]].astype(str).to_numpy()]
    else:
        places = np.unique(np.linspace(0, len(own) - 1, min(_SHEET, len(own))).astype(int))
        wanted = [(name, "") for name in own["image"].iloc[places]]
    return thumbnails(pictures, wanted, found)


def _extremes(pictures: Pictures, images: pd.DataFrame, found: Survey) -> list[tuple[str, list[Thumbnail]]]:
    own = images[images["set"] == pictures.name]
    area = own["area_share"] * own["height"] * own["width"]
    own = own.assign(raggedness=own["boundary_px"] / np.sqrt(area.where(area > 0)))
    sections = []
    for column, largest, words in _EXTREMES:
        values = own.dropna(subset=[column])
        if column == "area_share":
            values = values[values[column] > 0]
        values = values.sort_values([column, "image"], ascending=[not largest, True]).head(_ENDS)
        if len(values) and (column not in ("pieces", "holes") or values[column].iloc[0] > 1):
            wanted = [(row["image"], f"{row[column]:.4g}") for _, row in values.iterrows()]
            sections.append((words, thumbnails(pictures, wanted, found)))
    return sections


def _pairs(
    pairs: list[tuple[int, int, int, float]], images: pd.DataFrame, sets: Mapping[str, Pictures], found: Survey
) -> Iterator[Thumbnail]:
    for one, other, bits, levels in pairs[:_PAIRS]:
        for position in (one, other):
            row = images.iloc[position]
            note = f"{row['set']}; {bits} of 256 bits, {levels:.1f} grey levels apart"
            yield from thumbnails(sets[row["set"]], [(row["image"], note)], found)


def _mean_views(views: Mapping[tuple[str, str], View], set_name: str, *, masks: bool) -> list[Thumbnail]:
    own = {view: sums for (of, view), sums in views.items() if of == set_name}
    if not own:
        return []
    total = View(
        sum(sums.count for sums in own.values()),
        np.sum([sums.image for sums in own.values()], axis=0),
        np.sum([sums.coverage for sums in own.values()], axis=0),
    )
    shown = drawings.mean_pictures(total, f"all of {set_name}", masks=masks)
    if masks and 1 < len(own) <= _VIEWS:
        for view, sums in own.items():
            shown += drawings.mean_pictures(sums, f"view {view}", masks=True)
    return shown


def _histograms(images: pd.DataFrame) -> Iterable[Chart]:
    by_set = {str(of): own for of, own in images.groupby("set", sort=False)}
    train = by_set["train"]
    yield drawings.histogram({"train": train["area_share"].to_numpy()}, "mask area, share of the frame")
    yield drawings.histogram({"train": train["boundary_px"].to_numpy(float)}, "boundary of the mask, px")
    aspect = float(train["height"].iloc[0] / train["width"].iloc[0])
    yield drawings.centres(train["row"].to_numpy(), train["column"].to_numpy(), aspect)
    for name in ("brightness", "contrast", "colourfulness", "sharpness"):
        yield drawings.histogram(
            {of: own[name].to_numpy() for of, own in by_set.items()}, f"{name} ({STATISTICS[name]})"
        )


def _summary(values: pd.Series) -> dict[str, float]:
    known = values.dropna().to_numpy(float)
    names = ("least", "5 %", "median", "95 %", "most")
    return dict(zip(names, np.percentile(known, [0, 5, 50, 95, 100]).tolist(), strict=True)) if len(known) else {}


def _numbers(found: Found, told: list[str], counts: list[dict[str, Any]]) -> dict[str, Any]:
    """All figures of the page, JSON-able."""
    train = found.survey.images[found.survey.images["set"] == "train"]
    shapes = ("area_share", "boundary_px", "row", "column", "pieces", "holes", "touches_edge")
    likeness = {"within_train": found.within, "train_and_test": found.across}
    names = found.survey.images["image"].tolist()
    return {
        "competition": found.listing.competition.name,
        "findings": told,
        "notes": found.listing.notes,
        "counts": counts,
        "faults": found.faults,
        "facts": [asdict(fact) for fact in found.facts],
        "masks": {name: _summary(train[name]) for name in shapes},
        "statistics": {
            str(of): {name: _summary(own[name]) for name in STATISTICS}
            for of, own in found.survey.images.groupby("set")
        },
        "ceilings": {"masks": found.ceiling_masks, "by_size": [asdict(c) for c in found.ceilings]},
        "near_duplicates": {
            which: [
                {"first": names[one], "second": names[other], "bits": bits, "levels": levels}
                for one, other, bits, levels in own.pairs
            ]
            for which, own in likeness.items()
            if own is not None
        },
        "shift": asdict(found.shift) if found.shift else None,
        "agreement": {**asdict(found.agreement), "iou": np.round(found.agreement.iou, 6).tolist()}
        if found.agreement
        else None,
    }


def _counts(
    whole: list[Pictures], read: list[Pictures], images: pd.DataFrame, expected: Mapping[str, int | None]
) -> Iterator[dict[str, Any]]:
    for all_of, own in zip(whole, read, strict=True):
        rows = images[images["set"] == all_of.name]
        if not all_of.names:
            continue
        size = rows["height"].astype(str) + "x" + rows["width"].astype(str)
        kinds = (rows["format"] + " " + rows["mode"] + " " + size).value_counts()
        yield {
            "set": all_of.name,
            "images": len(all_of.names),
            "expected": expected[all_of.name],
            "groups": len(set(all_of.groups)),
            "looked_at": len(own.names),
            "kinds": [f"{count} x {kind}" for kind, count in kinds.items()],
            "bytes": int(rows["bytes"].sum()),
        }


@program
def main(
    competition: CompetitionName = "carvana",
    data: DataFolder = None,
    runs: Path = Path("runs"),
    images: Positive = 6_000,
    jobs: Jobs = -1,
) -> None:
    """Look at a competition's data before anything is trained: writes explore.html, explore.json and images.csv.

    Args:
        runs: the page goes into runs/<competition>/explore.
        images: of train and of test that are opened, at most; of more, whole groups are drawn at random. Files are
            listed, and metadata compared, of all.
    """
    facts_of, data, root = places(competition, data, runs)
    folder = root / EXPLORE_DIR
    fill(folder)
    listing = list_files(facts_of, data)
    facts_of, metric = listing.competition, find_metric(facts_of.metric)
    whole = [listing.train, listing.test]
    read = [sample(pictures, images) for pictures in whole]
    sets = {pictures.name: pictures for pictures in read}
    seen = survey(read, facts_of, jobs=jobs)
    table = seen.images
    if not (table["set"] == "train").any():
        raise UserError(f"no training image of {data} can be used: python -m folds.images names what is wrong.")
    at_size, on_masks = ceilings(read[0], facts_of, jobs=jobs)
    columns, lacking = facts(listing, data)
    train, test = (np.flatnonzero(table["set"] == name) for name in ("train", "test"))
    groups = table["group"].to_numpy(str)
    found = Found(
        listing,
        seen,
        _merged(listing.faults, seen.faults, _doubles(table), _of_other_size(table, facts_of.size)),
        columns,
        at_size,
        on_masks,
        near_duplicates(seen.hashes, seen.thumbnails, train, train, groups),
        near_duplicates(seen.hashes, seen.thumbnails, train, test) if len(test) else None,
        shift(table),
        agreement(seen.pairs),
    )
    told = findings(found, metric)
    counts = list(_counts(whole, read, table, {"train": facts_of.train_count, "test": facts_of.test_count}))
    shown_sets = [pictures.name for pictures in whole if pictures.names]
    strange = []
    if found.agreement:
        train_rows = table.loc[train, ["group", "view", "image"]].astype(str).to_numpy().tolist()
        by_view = {(group, view): name for group, view, name in train_rows}
        wanted = [(by_view[g, v], f"{-d:.1f} deviations below its view") for g, v, d in found.agreement.strange]
        strange = thumbnails(sets["train"], wanted[:_STRANGE], seen)
    page.write(
        folder / EXPLORE_PAGE_FILE,
        "explore.html.j2",
        title=f"{facts_of.title}: the data",
        told=told,
        notes=[*listing.notes, *lacking],
        counts=counts,
        found=found,
        metric=metric,
        mean_area=float(table["area_share"].mean()),
        has_groups=len(set(listing.train.groups)) < len(listing.train.names),
        fact_charts=[(fact, drawings.fact_chart(fact, shown_sets) if fact.counts else None) for fact in columns],
        sheet=_sheet(sets["train"], table, seen),
        test_sheet=_sheet(sets["test"], table, seen) if len(test) else [],
        means=[*_mean_views(seen.views, "train", masks=True), *_mean_views(seen.views, "test", masks=False)],
        histograms=list(_histograms(table)),
        ceiling_chart=drawings.ceiling_chart(at_size, metric),
        view_charts=[
            drawings.view_map(found.agreement.views, found.agreement.iou),
            drawings.step_chart(found.agreement.steps),
        ]
        if found.agreement
        else [],
        strange=strange,
        extremes=_extremes(sets["train"], table, seen),
        within=list(_pairs(found.within.pairs, table, sets, seen)),
        across=list(_pairs(found.across.pairs, table, sets, seen)) if found.across else [],
    )
    atomic.write_json(folder / EXPLORE_NUMBERS_FILE, _numbers(found, told, counts))
    write_table(folder / EXPLORE_IMAGES_FILE, table, float_format="%.6g")
    for sentence in told:
        print(sentence)
    print(f"page     {folder / EXPLORE_PAGE_FILE}")
    print(f"numbers  {folder / EXPLORE_NUMBERS_FILE}")
    print(f"images   {folder / EXPLORE_IMAGES_FILE}")
