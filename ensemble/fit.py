"""`python -m ensemble.fit`: choose and fit the blend on out-of-fold logits, at full size; `make fit` calls it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import tyro

import atomic
import provenance
from command_line import UserError, program
from ensemble import pixel_report, pixels_file
from ensemble import pixels as pixels_way
from ensemble.agreement_limit import SHARE, agreements_with_truth, limit_of
from ensemble.blend_file import (
    BLEND,
    BLEND_FILE,
    PIXELS_FILE,
    PIXELS_REPORT_FILE,
    TREES_FILE,
    Foreground,
    blend_folder,
    scores_file,
)
from ensemble.blend_table import table_lines
from ensemble.earlier_blend import check_left_out, earlier_blend, poorer_lines
from ensemble.intervals import expected_interval, figures
from ensemble.oof_data import OofData, find_oof_data
from ensemble.pixel_gain import NoBandError, evaluate_pixels
from ensemble.pixels import BoostedPixels
from ensemble.presence import Gate
from ensemble.procedure import Decision, Outcome, can_nest, settle, used_positions
from ensemble.score_memory import RememberingIndex
from ensemble.selection import VOTING_WAYS, Candidate, evaluate_all, gain_over_best, gains
from ensemble.stacking import BLENDERS, way_name
from ensemble.survey import survey
from folder_lock import fill
from folds.csv_table import write_table
from folds.images import TrainingSet, find_training_set, list_images
from folds.inputs import DecodedInputs, Inputs
from folds.run_layout import check_name_of_blend
from kernels.metrics import find_metric
from models.frame import Frame
from predict.members import parse_members
from program_flags import CompetitionName, DataFolder, ErrorRatio, Jobs, RunsFolder, places

# thresholds on the logits that are tried; probabilities 0.38 .. 0.62
_BAND = (-0.5, 0.5)
# the linear way whose logits boosted pixels start from: trees see each network's logits besides, and weights that
# differ from fold to fold would have them look at every image anew
BOOSTED_FROM = "equal-mean"


def _expected(scores: np.ndarray, oof: OofData, training: TrainingSet) -> dict[str, Any] | None:
    """The interval in which the test set's score is to be expected; None where there are no test images.

    It is that of single networks, as out-of-fold scores are; the submission averages all folds' networks of a member.
    """
    facts = training.competition
    try:
        names = list_images(training.data / facts.test_dir, facts)
    except UserError:
        # what is wrong with them matters to the submission, which says it
        return None
    count = len({facts.group(name) for name in names})
    interval = list(expected_interval(scores, oof.groups, count))
    folds = len(oof.members[0].folds)
    return {"groups": count, "interval": interval, "averaged_folds": 1, "submission_averaged_folds": folds}


def _foreground(oof: OofData) -> Foreground:
    """How much foreground masks are to be expected to have: as much as the true ones of the training images."""
    shares = oof.truth.areas_px / (oof.full[0] * oof.full[1])
    some = shares[shares > 0]
    least, most = (float(some.min()), float(some.max())) if len(some) else (0.0, 0.0)
    return {"empty": float((shares == 0).mean()), "least": least, "most": most}


def _with_pixels(
    candidates: list[Candidate], oof: OofData, training: TrainingSet, *, alone: bool, jobs: int
) -> tuple[list[Candidate], dict[Frame, Inputs]]:
    """The candidates and, after them, boosted pixels, fitted and scored without each fold.

    Args:
        candidates: with the linear one that they start from.
        oof: of the networks that are blended.
        alone: no choice is made among ways, so that figures without each fold are not needed.

    Returns:
        The candidates, and the training images in the frame in which boosted pixels look at them.

    Raises:
        UserError: there is nothing to boost pixels from, and no other way was asked for.
    """
    linear = next(candidate for candidate in candidates if candidate.name == BOOSTED_FROM)
    start = replace(linear, inner={}) if alone else linear
    frame = pixels_way.full_frame(oof.full)
    # at full size they would fill the disk, and are read a few times at most
    seen = DecodedInputs(training, frame, {"mask": oof.truth})
    try:
        boosted = evaluate_pixels(start, oof, seen, jobs=jobs)
    except NoBandError as reason:
        if alone:
            raise UserError(f"pixels cannot be boosted, as {reason}: choose another way (BLEND=...).") from None
        print(f"the way pixels is left out: {reason}")
        return candidates, {}
    return [*candidates, boosted], {frame: seen}


@dataclass(frozen=True)
class _Fit:
    """What the fit has found: everything that blend.json tells.

    Attributes:
        oof: of all networks.
        singles: (N, M) scores of each network alone.
        searched: positions of the networks that were blended.
        candidates, outcome: the ways of blending, and the choice.
        agreements: (N,) how far the networks of the blend agree with the truth on each image.
        looked: what boosted pixels do; None where the blend is of another way.
    """

    oof: OofData
    singles: np.ndarray
    searched: list[int]
    candidates: list[Candidate]
    outcome: Outcome
    agreements: np.ndarray
    looked: pixel_report.PixelReport | None = None

    def by_name(self, weights: np.ndarray) -> dict[str, float]:
        """Weights of the searched networks as those of all, by name."""
        searched = self.searched
        return {n: float(weights[searched.index(i)]) if i in searched else 0.0 for i, n in enumerate(self.oof.names)}

    def used(self) -> dict[str, float]:
        """The members of the blend, with their weights."""
        chosen, searched = self.outcome.decision.candidate, {self.oof.names[i] for i in self.searched}
        # a stacker needs all that it was fitted on, also those that have no part in the linear blend it starts from
        return {n: w for n, w in self.by_name(chosen.weights).items() if w > 0 or (chosen.stacker and n in searched)}

    def _gate_told(self, gate: Gate) -> dict[str, Any]:
        return {"threshold": gate.threshold, "members": [self.oof.names[self.searched[m]] for m in gate.members]}

    def _told(self, decision: Decision) -> dict[str, Any]:
        gate = {} if decision.gate is None else {"presence": self._gate_told(decision.gate)}
        return {
            "kind": decision.candidate.name,
            "weights": self.by_name(decision.candidate.weights),
            "threshold": decision.threshold,
            "postprocess_kept": decision.repairs,
            **gate,
        }

    def to_json(self, name: str, training: TrainingSet) -> dict[str, Any]:
        """The content of blend.json; FORMATS.md tells each field."""
        oof, outcome, decision = self.oof, self.outcome, self.outcome.decision
        names, groups, used = oof.names, oof.groups, self.used()

        def told(scores: np.ndarray) -> dict[str, Any]:
            return figures(scores, groups, oof.metric)

        result = {
            "name": name,
            "kind": decision.candidate.name,
            "vote": decision.candidate.vote,
            "members": list(used),
            "weights": list(used.values()),
            "threshold": decision.threshold,
            "cv": {**told(outcome.scores), "nested": outcome.nested},
            "gain_over_best": gain_over_best(outcome.scores, self.singles, names, groups),
            "gains": gains(outcome.scores, self.candidates, groups),
            "chosen_without": {held_out: self._told(other) for held_out, other in outcome.without.items()},
            "expected": _expected(outcome.scores, oof, training),
            "foreground": _foreground(oof),
            "agreement": {"limit": limit_of(self.agreements), "share": SHARE, "images": len(self.agreements)},
            "member_cv": {member: told(self.singles[:, i]) for i, member in enumerate(names)},
            "candidates": {
                c.name: {
                    **told(c.nested),
                    "nested": ("weights",),
                    "gains": gains(c.nested, self.candidates, groups),
                    "weights": self.by_name(c.weights),
                }
                for c in self.candidates
            },
            "not_searched": [member for i, member in enumerate(names) if i not in self.searched],
            "threshold_fit": decision.threshold_fit,
            "weights_digests": {m.name: m.weights_digest for m in oof.members},
            "folds_digest": oof.members[0].folds_digest,
            "data_digest": training.digest,
            "git_commit": provenance.git_commit(),
            "versions": provenance.versions(),
        }
        if decision.repair_figures is not None:
            result["postprocess"], result["postprocess_kept"] = decision.repair_figures, decision.repairs
        if decision.gate_figures is not None:
            result["presence_fit"] = decision.gate_figures
        if decision.gate is not None:
            result["presence"] = self._gate_told(decision.gate)
        if decision.candidate.stacker is not None:
            result["stacker_digest"] = cast("BoostedPixels", decision.candidate.stacker).digest()
        return result

    def scores(self) -> pd.DataFrame:
        """The score of every image: of the blend chosen without its fold, and of each network alone."""
        oof = self.oof
        table = {"image": oof.images, "group": oof.groups, "fold": oof.fold, "nested": self.outcome.scores}
        return pd.DataFrame({**table, **{member: self.singles[:, i] for i, member in enumerate(oof.names)}})

    def write(self, folder: Path, result: dict[str, Any]) -> None:
        """Write boosted pixels, if they were chosen, the scores, and blend.json; then remove what is of no use."""
        stacker = self.outcome.decision.candidate.stacker
        if stacker is not None:
            pixels_file.save(folder, cast("BoostedPixels", stacker), list(self.used()))
        if self.looked is not None:
            pixel_report.save(folder, self.looked)
        write_table(folder / scores_file(self.oof.metric), self.scores())
        atomic.write_json(folder / BLEND_FILE, result)
        if stacker is None:
            # of an earlier choice; they would go along with a blend that does not use them
            for name in (TREES_FILE, PIXELS_FILE, PIXELS_REPORT_FILE):
                (folder / name).unlink(missing_ok=True)


@program
def main(
    competition: CompetitionName = "carvana",
    members: str = "all",
    blend: str = "",
    name: str = "blend",
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
    jobs: Jobs = -1,
    repairs: Literal["measure", "off"] = "measure",
    pixels: bool = True,
    max_error_ratio: ErrorRatio = 5.0,
    table: bool = True,
) -> None:
    """Choose the blend of trained variants by its nested score at full size; writes blend.json.

    Args:
        members: variants to choose from, a comma list; all takes every variant whose folds are all trained, says which
            are not, and refuses to replace a blend that was chosen with one of them.
        blend: use this way of blending (best-single, equal-mean, mean-of-best, greedy, logistic, dice-weights, which
            is named after the metric; probability, geometric, majority, each also as weighted-...; pixels) instead of
            choosing one.
        name: of the result, and of its folder in the runs folder.
        repairs: measure repairs of the mask and keep those that surely gain, or leave them out.
        pixels: also boost trees that decide the pixels of which the networks are unsure, by their logits and the
            picture at full size around each: also without each fold and each two, so that they take part in the choice
            like any other way. It takes 0.3 to 0.8 CPU-seconds an image; --no-pixels spares it. A blend by them is not
            exported, and labels nothing out of fold.
        max_error_ratio: a network with more than this many times the best one's error is scored but not searched: it
            would gain nothing, and leave most pixels undecided. 1 or more.
        table: print the figures; `make report` prints the same ones.
    """
    # 1) what cannot be meant is refused before anything is read
    facts, data, root = places(competition, data, runs)
    metric = find_metric(facts.metric)
    ways = (*(way_name(way, metric) for way in (*BLENDERS, *VOTING_WAYS)), pixels_way.NAME)
    if blend and blend not in ways:
        raise UserError(f"unknown way of blending {blend!r}; known: {', '.join(ways)}.")
    folder = blend_folder(root, name)
    fill(folder, f"the blend in {folder}", name=".fit.lock")
    check_name_of_blend(root, name, "--name")

    # 2) the networks' out-of-fold logits beside the truth, all of one split
    training = find_training_set(facts, data)
    wanted = parse_members(members, root)
    oof = find_oof_data(root, training, wanted, jobs=jobs)
    earlier = earlier_blend(folder, training.digest, oof.members[0].folds_digest)
    if wanted is None:
        check_left_out(earlier, oof, root, folder)

    # 3) each network alone, which of them are worth blending, and where these disagree
    def worth(scores: np.ndarray) -> list[int]:
        errors = 1 - scores
        return cast("list[int]", np.flatnonzero(errors <= max_error_ratio * errors.min()).tolist())

    singles, searched, plain_index = survey(oof, worth, band=_BAND, jobs=jobs)
    part = oof.of(searched)

    # 4) every way of blending, fitted and scored without each fold
    index = RememberingIndex.around(plain_index)
    again = () if not can_nest(oof.fold) else (blend,) if blend else ways
    candidates = evaluate_all(index, oof.fold, inner=again)
    pictures: dict[Frame, Inputs] = {}
    if blend == pixels_way.NAME or (pixels and not blend):
        candidates, pictures = _with_pixels(candidates, part, training, alone=bool(blend), jobs=jobs)

    # 5) the choice of a way, a threshold and repairs; and the same once more without each fold
    outcome = settle(candidates, index, part, way=blend, repairs=repairs == "measure", pictures=pictures, jobs=jobs)

    # 6) what was found, for people and for what predicts
    blended = part.of(used_positions(outcome.decision.candidate))
    agreements = agreements_with_truth(blended, jobs=jobs)
    chosen = outcome.decision.candidate
    looked = pixel_report.look_into(chosen, blended, pictures, jobs=jobs) if chosen.name == pixels_way.NAME else None
    fit = _Fit(oof, singles, searched, candidates, outcome, agreements, looked)
    result = fit.to_json(name, training)
    written = BLEND.of(result)
    fit.write(folder, result)
    if table:
        for line in table_lines(written):
            print(line)
    for line in poorer_lines(earlier, written):
        print(line)
    print(f"written: {folder / BLEND_FILE}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
