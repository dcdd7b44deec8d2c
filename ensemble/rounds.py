"""`python -m ensemble.rounds`: holds rounds of self-training against the run before each, out of fold at full size, and
keeps those that gain with their whole interval. `make verdict` calls it, and `make folds` after `--pseudo`.
"""

from __future__ import annotations

from pathlib import Path

import tyro

import atomic
from command_line import UserError, program
from ensemble.intervals import mean_interval
from ensemble.oof_data import find_oof_data
from ensemble.survey import single_scores
from folds.images import TrainingSet, find_training_set
from folds.run_layout import ROUND_FILE, fold_folder, trained_runs
from folds.task import read_manifest
from folds.verdict import VERDICT, Verdict, read_verdict, rounds_of, weights_of
from kernels.metrics import Metric, find_metric
from path_names import inside
from program_flags import CompetitionName, DataFolder, Jobs, RunsFolder, places


def run_before(run: Path) -> str:
    """The name of the run that a round is held against: the one whose weights it started from, where they are of the
    same competition's runs, else the variant without the round's tag."""
    manifest = read_manifest(fold_folder(run, 0)) or {}
    start = str(manifest.get("recipe", {}).get("init_from", "")).split(" fold ")[0]
    return start if start and (run.parent / start).is_dir() else run.name.rsplit("-", 1)[0]


def judge(root: Path, run: Path, before: str, training: TrainingSet, *, jobs: int = -1) -> Verdict:
    """Hold a round against the run before it, and write what was found.

    Args:
        root: `runs/<competition>`.
        run: of the round.
        before: name of the run before.
        training: the competition's training images.
        jobs: processes, as joblib counts them.

    Raises:
        UserError: one of the two is not wholly trained, or they are of other data or splits.
    """
    oof = find_oof_data(root, training, [before, run.name], jobs=jobs)
    scores = single_scores(oof, jobs=jobs)
    differences = scores[:, 1] - scores[:, 0]
    interval = mean_interval(differences, oof.groups)
    rounds = rounds_of(run)
    name = oof.metric.name
    verdict: Verdict = VERDICT.of(
        {
            "before": before,
            name: float(scores[:, 1].mean()),
            f"{name}_before": float(scores[:, 0].mean()),
            "gain": float(differences.mean()),
            "interval": list(interval),
            "kept": interval[0] > 0,
            "optimistic": any(each["labels"] == "blend" for each in rounds),
            "weights": weights_of(run),
            "weights_before": weights_of(root / before),
            "rounds": rounds,
        }
    )
    atomic.write_json(run / ROUND_FILE, verdict)
    return verdict


def lines(run: Path, verdict: Verdict, metric: Metric) -> list[str]:
    """A verdict, for people."""
    (low, high), before = verdict["interval"], verdict["before"]
    kept = "kept" if verdict["kept"] else "not kept, as its interval is not above 0: make fit leaves it out"
    chain = " -> ".join(f"{each['run']} ({each['labels']} labels {each['digest']})" for each in verdict["rounds"])
    found = [
        f"{run.name} gains {verdict['gain']:+.5f} ({low:+.5f}..{high:+.5f}) in {metric.label} over {before}, "
        f"out of fold: {kept}",
        f"  rounds: {chain}",
    ]
    if verdict["optimistic"]:
        found.append(
            "  the gain may be too high: all folds' networks made these labels, and all but one were trained on what a "
            "fold holds out; labels of its own networks alone are honest (make pseudo ARGS='--own-fold')"
        )
    return found


@program
def main(
    competition: CompetitionName = "carvana",
    variant: str = "",
    before: str = "",
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
    jobs: Jobs = -1,
) -> None:
    """Judge rounds of self-training: writes runs/<competition>/<run>/round.json.

    Args:
        variant: the round's run, such as unet-mobilenetv3-round1; by default all that were not judged yet.
        before: the run that it is held against; by default the one whose weights it started from, else the variant
            without the tag.
    """
    facts, data, root = places(competition, data, runs)
    if before and not variant:
        raise UserError("--before needs the round that it is before: give --variant.")
    if not root.is_dir():
        raise UserError(f"{root} is missing: name the folder that rounds were trained in (--runs).")
    named = [inside(root, variant, "--variant")] if variant else [run for run in trained_runs(root) if rounds_of(run)]
    if variant and not rounds_of(named[0]):
        raise UserError(
            f"{named[0]} has not learned from pseudo-labels: train a round first (make folds V=... ARGS='--pseudo "
            "FOLDER --tag round1')."
        )
    if not named:
        print(f"no run in {root} has learned from pseudo-labels")
        return
    training = find_training_set(facts, data)
    for run in named:
        verdict = None if variant else read_verdict(run)
        if verdict is None:
            try:
                verdict = judge(root, run, before or run_before(run), training, jobs=jobs)
            except UserError as error:
                if variant:
                    raise
                # others can be judged all the same
                print(f"{run.name} cannot be judged: {error}")
                continue
        for line in lines(run, verdict, find_metric(facts.metric)):
            print(line)


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
