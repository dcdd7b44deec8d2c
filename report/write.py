"""The program behind `make report`: a blend's figures as table, contact sheet and HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from command_line import UserError, program
from ensemble import pixel_report
from ensemble.blend import blend_of
from ensemble.blend_file import (
    CONTACT_SHEET_FILE,
    PIXELS_VOTE,
    REPORT_FILE,
    REPORT_PICTURES_DIR,
    SCORE_FILE,
    SUBMISSION_FILE,
    TEST_SCORE,
    FittedBlend,
    blend_folder,
    read_blend,
    scores_file,
)
from ensemble.blend_table import COVERAGE, averaged_folds_note, nested_in, table_lines
from ensemble.stored_masks import StoredMasks
from folds.csv_table import read_table
from folds.images import TrainingSet, find_training_set, read_mask
from folds.run_layout import CACHE_DIR
from folds.truth import load_truth
from kernels.metrics import find_metric
from predict.members import find_members
from program_flags import CompetitionName, DataFolder, Jobs, RunsFolder, places
from report import boundary, charts, composites, page
from report import figures as gathered
from report.pictures import Album, Case, case, contact_sheet
from report.scan import THRESHOLDS, Scan, scan, trusted_networks

_WORST, _DISPUTED, _SUSPECTS = 8, 6, 6


def _sheet_rows(scores: pd.DataFrame) -> list[tuple[str, float]]:
    """The two worst images, two about the median, and the two best."""
    ranked = scores.sort_values(["nested", "image"])[["image", "nested"]]
    middle = len(ranked) // 2
    picked = sorted({*range(min(2, len(ranked))), middle - 1, middle, len(ranked) - 2, len(ranked) - 1})
    return [(str(ranked.iloc[i]["image"]), float(ranked.iloc[i]["nested"])) for i in picked if i >= 0]


def _reader(blend: FittedBlend, root: Path, names: list[str], folds: int, training: TrainingSet) -> StoredMasks:
    """Every network that the blend was chosen from, best first, with its weight in the blend."""
    members = find_members(root, names, folds)
    return StoredMasks(
        blend_of(root / blend["name"], blend, members),
        [member.oof() for member in members],
        training.competition.size,
        training.image_path(training.names[0]).parent,
    )


def _galleries(
    folder: Path, training: TrainingSet, scores: pd.DataFrame, reader: StoredMasks, found: Scan, trusted: np.ndarray
) -> dict[str, list[Case]]:
    album = Album(folder / REPORT_PICTURES_DIR, REPORT_PICTURES_DIR)
    images, nested = scores["image"].astype(str).tolist(), scores["nested"].to_numpy()

    label = find_metric(training.competition.metric).label
    drawn: dict[int, Case] = {}

    def draw(position: int, note: str) -> Case:
        # the worst images tend to be the disputed ones too
        if position in drawn:
            return replace(drawn[position], note=note)
        name = images[position]
        truth = read_mask(training.mask_path(name), reader.full)
        drawn[position] = case(album, reader, trusted, name, training.image_path(name), truth, note)
        return drawn[position]

    worst = [draw(int(i), f"{label} {nested[i]:.4f}") for i in np.argsort(nested, kind="stable")[:_WORST]]
    disputed, suspects = [], []
    if len(trusted) > 1:
        pixels = reader.full[0] * reader.full[1]
        for i in np.argsort(-found.disagreement_px, kind="stable")[:_DISPUTED]:
            share = 100 * found.disagreement_px[i] / pixels
            disputed.append(draw(int(i), f"{share:.2f} % of the pixels disputed, {label} {nested[i]:.4f}"))
        best = scores[[reader.names[t] for t in trusted]].to_numpy().max(1)
        suspects = [
            draw(
                i,
                f"with each other {found.agreement[i]:.4f}, with the truth at best {best[i]:.4f}; "
                f"{found.unanimous_wrong_px[i]} px against all of them",
            )
            for i in gathered.suspects(found.agreement, best, _SUSPECTS)
        ]
    album.remove_others()
    return {"worst": worst, "disputed": disputed, "suspects": suspects}


@program
def main(
    competition: CompetitionName = "carvana",
    name: str = "blend",
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
    jobs: Jobs = -1,
) -> None:
    """Print a blend's figures; draw its contact sheet and its page, report.html.

    Of composites it is the networks' figures in both heads, and their page (report.composites).

    Args:
        name: of the blend (ensemble.fit); composites have none.
    """
    facts, data, root = places(competition, data, runs)
    if facts.composed:
        composites.tell(competition, data, runs)
        return
    folder = blend_folder(root, name)
    blend = read_blend(folder)
    metric = find_metric(facts.metric)
    scored = folder / scores_file(metric)
    training = find_training_set(facts, data)
    try:
        scores = read_table(scored, ("image", "group"), "choose the blend again (make fit)")
    except FileNotFoundError:
        raise UserError(f"{scored} is missing: choose the blend again (make fit).") from None
    if scores["image"].tolist() != list(training.names):
        raise UserError(f"{scored} lists other images than {data} holds: choose the blend again (make fit).")
    names, folds = gathered.member_names(scores), int(scores["fold"].max()) + 1
    reader = _reader(blend, root, names, folds, training)
    sheet = [
        (image, score, training.image_path(image), read_mask(training.mask_path(image), facts.size))
        for image, score in _sheet_rows(scores)
    ]
    pixels = pixel_report.load(folder) if blend.get("vote") == PIXELS_VOTE else None
    examples = [] if pixels is None else pixels["examples"]
    contact_sheet(
        folder / CONTACT_SHEET_FILE, reader, sheet, metric, boundary.zooms(training, examples[:2], facts.size)
    )
    trusted = trusted_networks(scores[names].to_numpy().mean(0))
    truth = load_truth(training, root / CACHE_DIR, jobs=jobs)
    # boosted pixels have looked at these images: a curve of theirs would be too good, and takes long
    curve = pixels is None
    found = scan(reader, training.names, truth, trusted, metric=metric, curve=curve, jobs=jobs)
    told: Mapping[str, Any] = TEST_SCORE.read_if_there(folder / SCORE_FILE) or {}
    test_score = told.get(f"test_{metric.name}")
    by_view = gathered.error_by_view(scores, facts, name)
    curves = gathered.learning_curves(root, names, folds, metric)
    page.write(
        folder / REPORT_FILE,
        "report.html.j2",
        title=f"{facts.title}: {name}",
        blend=blend,
        metric=metric,
        nested=nested_in(blend["cv"]),
        expected_note=averaged_folds_note(blend.get("expected")),
        images=len(scores),
        groups=scores["group"].nunique(),
        unit="group" if scores["group"].nunique() < len(scores) else "image",
        breakdown=facts.metadata_breakdown,
        folds=folds,
        gain=gathered.best_and_gain(scores),
        coverage=COVERAGE,
        fold_table=gathered.fold_table(scores, name, metric),
        weights=sorted(zip(blend["members"], blend["weights"], strict=True), key=lambda pair: -pair[1]),
        test_score=test_score,
        tta=gathered.tta_tables(root, names),
        makes=gathered.by_make(scores, facts, data),
        pixels=pixels,
        zooms=boundary.gallery(training, examples, facts.size),
        trusted=[names[i] for i in trusted],
        threshold_chart=charts.threshold_curve(THRESHOLDS, found.threshold_scores.mean(0), blend["threshold"], metric)
        if curve
        else None,
        correlation_chart=charts.correlation_map(names, found.error_correlation()),
        view_chart=charts.lines_by_view(by_view, metric) if by_view else None,
        curves=charts.learning_curves(curves, metric) if curves else None,
        **_galleries(folder, training, scores, reader, found, trusted),
    )
    print()
    for line in table_lines(blend):
        print(line)
    if test_score is not None:
        print(f"{f'test {metric.label} of the submitted file':36}  {test_score:.4f}")
    if (folder / SUBMISSION_FILE).exists():
        print(f"submission     {folder / SUBMISSION_FILE}")
    print(f"contact sheet  {folder / CONTACT_SHEET_FILE}")
    print(f"report         {folder / REPORT_FILE}")
