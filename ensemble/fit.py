"""`python -m ensemble.fit`: choose and fit the blend on out-of-fold logits, at full size; `make fit` calls it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tyro

import atomic
import provenance
from command_line import UserError, program
from competition import find_competition
from ensemble import conv_stacker as conv
from ensemble.blend_file import BLEND_FILE, SCORES_FILE, table_lines
from ensemble.conv_stacker import ConvStacker
from ensemble.index import DisagreementIndex, single_dice
from ensemble.oof_data import find_evidence
from ensemble.patches import grid_of
from ensemble.postprocess_gain import measure
from ensemble.selection import (
    VOTED,
    Candidate,
    bootstrap_interval,
    choose,
    evaluate_all,
    expected_interval,
    figures,
    fit_threshold,
    gains,
)
from ensemble.stacker_gain import evaluate_stacker
from ensemble.stacking import BLENDERS
from ensemble.voting import Combination, combination_of
from folds.images import TrainingSet, find_training_set, list_images
from folds.inputs import Inputs, load_inputs
from predict.members import parse_members

# thresholds on the logits that are tried; probabilities 0.38 .. 0.62
_BAND = (-0.5, 0.5)


def _threshold(
    chosen: Candidate, index: DisagreementIndex, fold: np.ndarray, groups: np.ndarray
) -> tuple[float, np.ndarray, dict[str, Any] | None]:
    """The threshold to use: the fitted one if its nested gain is surely above 0, else 0; the images' nested Dice with
    it; and the figures. Votes keep their own threshold, one half."""
    if chosen.vote != "logits":
        return 0.0, chosen.nested, None
    fitted = fit_threshold(chosen, index, fold)
    gain = fitted.nested - chosen.nested
    low, high = bootstrap_interval(gain, groups)
    kept = low > 0
    report = {"fitted": fitted.value, "nested_gain": float(gain.mean()), "interval": [low, high], "kept": kept}
    return (fitted.value, fitted.nested, report) if kept else (0.0, chosen.nested, report)


def _expected(nested: np.ndarray, groups: np.ndarray, training: TrainingSet) -> dict[str, Any] | None:
    """The interval in which the test set's Dice is to be expected; None where there are no test images."""
    facts = training.competition
    try:
        names = list_images(training.data / facts.test_dir, facts)
    except UserError:
        # what is wrong with them matters to the submission, which says it
        return None
    count = len({facts.group(name) for name in names})
    return {"groups": count, "interval": list(expected_interval(nested, groups, count))}


@program
def main(
    competition: str = "carvana",
    members: str = "all",
    blend: str = "",
    name: str = "blend",
    data: Path | None = None,
    runs: Path = Path("runs"),
    jobs: int = -1,
    postprocess: Literal["measure", "off"] = "measure",
    conv_stacker: bool = False,
    conv_stacker_image: bool = False,
    hopeless: float = 5.0,
) -> None:
    """Choose the blend of trained variants by its nested Dice at full size; writes blend.json.

    Args:
        competition: a name from competition.py.
        members: variants to choose from, a comma list; all takes every variant whose folds are all trained.
        blend: use this way of blending (best-single, equal-mean, mean-of-best, greedy, logistic, dice-weights;
            probability, geometric, majority, each also as weighted-...; conv-stacker, conv-stacker-image) instead of
            choosing one.
        name: of the result, and of its folder in the runs folder.
        data: the competition's files; data/<competition> by default.
        runs: where trained variants are.
        jobs: processes, as joblib counts them.
        postprocess: measure repairs of the mask and keep those that surely gain, or leave them out.
        conv_stacker: also fit a small convolutional network on the logits, which takes minutes.
        conv_stacker_image: also fit one that sees the image beside the logits.
        hopeless: a network with more than this many times the best one's errors is scored, but not searched: it has no
            say in a blend, and leaves a sea of pixels open. 1 or more.
    """
    facts = find_competition(competition)
    ways = (*BLENDERS, *VOTED, *conv.NAMES)
    if blend and blend not in ways:
        raise UserError(f"unknown way of blending {blend!r}; known: {', '.join(ways)}.")
    if hopeless < 1:
        raise UserError(f"--hopeless {hopeless:g} would leave out the best network itself: give 1 or more.")
    training = find_training_set(facts, data or facts.default_data())
    root = runs / facts.name
    evidence = find_evidence(root, training, parse_members(members, root), jobs=jobs)
    known, fold, groups, found = evidence.truth, evidence.fold, evidence.groups, evidence.members
    names, stores, frames = evidence.names, evidence.stores, evidence.frames
    singles = single_dice(stores, frames, training.names, known, facts.size, jobs=jobs)
    errors = 1 - singles.mean(0)
    hopeful = np.flatnonzero(errors <= hopeless * errors.min()).tolist()
    able_frames = [frames[i] for i in hopeful]
    able = [stores[i] for i in hopeful], able_frames, training.names, known, facts.size
    index = DisagreementIndex.build(*able, band=_BAND, jobs=jobs)
    candidates = evaluate_all(index, fold)
    linear = next(candidate for candidate in candidates if candidate.name == "dice-weights")
    stackers: dict[str, ConvStacker] = {}
    pictures: Inputs | None = None
    for stacker_name, asked in ((conv.NAME, conv_stacker), (conv.IMAGE_NAME, conv_stacker_image)):
        if not asked and blend != stacker_name:
            continue
        looks = stacker_name == conv.IMAGE_NAME
        if looks:
            pictures = load_inputs(training, grid_of(able_frames), {"mask": known}, root / "cache", jobs=jobs)
        candidate, stackers[stacker_name] = evaluate_stacker(
            linear,
            *able,
            fold,
            make=partial(ConvStacker, image=looks),
            name=stacker_name,
            pictures=pictures if looks else None,
            jobs=jobs,
        )
        candidates.append(candidate)
    by_name = {candidate.name: candidate for candidate in candidates}
    chosen = by_name[blend] if blend else choose(candidates, groups)
    threshold, nested, threshold_report = _threshold(chosen, index, fold, groups)

    def of_all(weights: np.ndarray) -> np.ndarray:
        everyone = np.zeros(len(names))
        everyone[hopeful] = weights
        return everyone

    weights = of_all(chosen.weights)
    stacked = chosen.vote in stackers
    # a stacker needs all that it was fitted on, also those that have no part in the linear blend it starts from
    used = hopeful if stacked else np.flatnonzero(weights > 0).tolist()
    combine: Combination = stackers[chosen.vote] if stacked else combination_of(chosen.vote)
    result = {
        "name": name,
        "kind": chosen.name,
        "vote": chosen.vote,
        "members": [names[i] for i in used],
        "weights": [float(weights[i]) for i in used],
        "threshold": threshold,
        "cv": figures(nested, groups),
        "gains": gains(nested, candidates, groups),
        "expected": _expected(nested, groups, training),
        "member_cv": {names[i]: figures(singles[:, i], groups) for i in range(len(names))},
        "candidates": {
            c.name: {
                **figures(c.nested, groups),
                "gains": gains(c.nested, candidates, groups),
                "weights": dict(zip(names, map(float, of_all(c.weights)), strict=True)),
            }
            for c in candidates
        },
        "hopeless": [name for i, name in enumerate(names) if i not in hopeful],
        "threshold_fit": threshold_report,
        "weights_digests": {m.name: m.weights_digest for m in found},
        "folds_digest": found[0].folds_digest,
        "data_digest": training.digest,
        "git_commit": provenance.git_commit(),
        "versions": provenance.versions(),
    }
    if postprocess == "measure":
        part = [found[i] for i in used]
        result["postprocess"], result["postprocess_kept"] = measure(
            [m.oof() for m in part],
            [m.frame for m in part],
            [float(weights[i]) for i in used],
            threshold,
            training.names,
            known,
            facts.size,
            fold,
            groups,
            combine=combine,
            pictures=pictures if chosen.vote == conv.IMAGE_NAME else None,
            jobs=jobs,
        )
    if stacked:
        stackers[chosen.vote].save(root / name, [names[i] for i in used])
        result["stacker_digest"] = stackers[chosen.vote].digest()
    scores = pd.DataFrame({"image": training.names, "group": groups, "fold": fold, "nested": nested})
    for i, member_name in enumerate(names):
        scores[member_name] = singles[:, i]
    with atomic.replacing(root / name / SCORES_FILE) as temporary:
        scores.to_csv(temporary, index=False, float_format="%.6f")
    atomic.write_json(root / name / BLEND_FILE, result)
    for line in table_lines(result):
        print(line)
    print(f"written: {root / name / BLEND_FILE}")


if __name__ == "__main__":
    tyro.cli(main)
