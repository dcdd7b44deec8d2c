"""`python -m report.pseudo`: chooses unlabelled images whose labels by a blend can be trusted, to train on them, and
tells of them on a page. `make pseudo` calls it.
"""

from __future__ import annotations

import os
from pathlib import Path

import tyro

from command_line import program
from ensemble.choose_pseudo import Wanted, choose_set
from ensemble.pseudo_choice import MEASURES
from folds.pseudo_set import PSEUDO_PAGE_FILE, PSEUDO_TABLE_FILE
from kernels.metrics import find_metric
from program_flags import CompetitionName, DataFolder, Jobs, LeastScore, NonNegative, RunsFolder, places
from report import page
from report.charts import calibration_curve
from report.pseudo_figures import breakdowns, lines


@program
def main(
    competition: CompetitionName = "carvana",
    name: str = "blend",
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
    images: Path | None = None,
    distil: bool = False,
    own_fold: bool = False,
    out: str = "",
    least: LeastScore = -1.0,
    most: NonNegative = 0,
    jobs: Jobs = -1,
) -> None:
    """Choose images whose labels by a blend can be trusted, for training: runs/<competition>/<blend>/pseudo.

    Args:
        name: of the blend (ensemble.fit) that labels.
        images: a folder of unlabelled images, named and sized as the competition's, instead of its test set.
        distil: label the training images instead, each by the networks that did not see it, for a student of the blend.
        own_fold: label the images once for each fold, by that fold's own networks alone, so that no fold learns from
            labels that what it holds out had a part in. Takes a prediction for each fold.
        out: the set's name, and folder in the blend's; pseudo by default, or distilled.
        least: expected score that an image must have; by default the blend's own out-of-fold score, or, with --distil,
            0.
        most: images to take, those of the highest expected score; 0 takes all that have the least.
    """
    facts, data, root = places(competition, data, runs)
    wanted = Wanted(images, distil, own_fold, out, least, most)
    chosen = choose_set(facts, data, root, name, wanted, jobs=jobs)
    metric, parts = find_metric(facts.metric), breakdowns(chosen.table, facts)
    page.write(
        chosen.home / PSEUDO_PAGE_FILE,
        "pseudo.html.j2",
        title=f"{facts.title}: labels by {name}",
        record=chosen.record,
        metric=metric.label,
        measures=MEASURES,
        breakdowns=parts,
        chart=calibration_curve(chosen.expectation.bins(), metric),
    )
    for line in lines(chosen.record, parts, metric.label):
        print(line)
    home = Path(os.path.relpath(chosen.home))
    print(f"table  {home / PSEUDO_TABLE_FILE}")
    print(f"page   {home / PSEUDO_PAGE_FILE}")
    print(f"next   make folds V=... ARGS='--pseudo {home} --tag round1'")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
