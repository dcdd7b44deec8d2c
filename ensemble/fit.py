"""`python -m ensemble.fit`: choose and fit the blend on out-of-fold logits, at full size; `make fit` calls it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

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
from ensemble.intervals import expected_interval, figures
from ensemble.oof_data import OofData, find_oof_data
from ensemble.patches import grid_of
from ensemble.procedure import Decision, can_nest, settle
from ensemble.score_memory import RememberingIndex
from ensemble.selection import VOTED, evaluate_all, gains
from ensemble.stacker_gain import evaluate_stacker
from ensemble.stacking import BLENDERS
from folds.images import find_training_set, list_images
from folds.inputs import Inputs, load_inputs
from folds.run_layout import CACHE_DIR
from predict.members import parse_members

# thresholds on the logits that are tried; probabilities 0.38 .. 0.62
_BAND = (-0.5, 0.5)


def _expected(dice: np.ndarray, oof: OofData) -> dict[str, Any] | None:
    """The interval in which the test set's Dice is to be expected; None where there are no test images.

    It is that of single networks, as out-of-fold Dice is; the submission averages all folds' networks of a member.
    """
    training = oof.training
    facts = training.competition
    try:
        names = list_images(training.data / facts.test_dir, facts)
    except UserError:
        # what is wrong with them matters to the submission, which says it
        return None
    count = len({facts.group(name) for name in names})
    interval = list(expected_interval(dice, oof.groups, count))
    folds = len(oof.members[0].folds)
    return {"groups": count, "interval": interval, "averaged_folds": 1, "submission_averaged_folds": folds}


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
    max_error_ratio: float = 5.0,
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
        conv_stacker: also fit a small convolutional network on the logits, which takes minutes: also without each fold
            and each two, so that it takes part in the choice like any other way.
        conv_stacker_image: also fit one that sees the image beside the logits.
        max_error_ratio: a network with more than this many times the best one's error is scored but not searched: it
            would gain nothing, and leave most pixels undecided. 1 or more.
    """
    facts = find_competition(competition)
    ways = (*BLENDERS, *VOTED, *conv.NAMES)
    if blend and blend not in ways:
        raise UserError(f"unknown way of blending {blend!r}; known: {', '.join(ways)}.")
    if max_error_ratio < 1:
        raise UserError(
            f"--max-error-ratio {max_error_ratio:g} would leave out the best network itself: give 1 or more."
        )
    training = find_training_set(facts, data or facts.default_data())
    root = runs / facts.name
    oof = find_oof_data(root, training, parse_members(members, root), jobs=jobs)
    known, fold, groups, names = oof.truth, oof.fold, oof.groups, oof.names
    singles = single_dice(oof.stores, oof.frames, training.names, known, facts.size, jobs=jobs)
    errors = 1 - singles.mean(0)
    searched = np.flatnonzero(errors <= max_error_ratio * errors.min()).tolist()
    part = oof.of(searched)
    material = part.stores, part.frames, training.names, known, facts.size
    index = RememberingIndex.around(DisagreementIndex.build(*material, band=_BAND, jobs=jobs))
    again = () if not can_nest(fold) else (blend,) if blend else ways
    candidates = evaluate_all(index, fold, inner=again)
    linear = next(candidate for candidate in candidates if candidate.name == "dice-weights")
    pictures: Inputs | None = None
    for stacker_name, asked in ((conv.NAME, conv_stacker), (conv.IMAGE_NAME, conv_stacker_image)):
        if not asked and blend != stacker_name:
            continue
        looks = stacker_name == conv.IMAGE_NAME
        pictures = (
            load_inputs(training, grid_of(part.frames), {"mask": known}, root / CACHE_DIR, jobs=jobs) if looks else None
        )
        # what is taken without a choice among ways needs no figures without each fold
        start = replace(linear, inner={}) if blend else linear
        make = partial(ConvStacker, image=looks)
        candidates.append(
            evaluate_stacker(start, *material, fold, make=make, name=stacker_name, pictures=pictures, jobs=jobs)
        )
    repairs = postprocess == "measure"
    outcome = settle(candidates, index, part, way=blend, repairs=repairs, pictures=pictures, jobs=jobs)

    def by_name(weights: np.ndarray) -> dict[str, float]:
        return {name: float(weights[searched.index(i)]) if i in searched else 0.0 for i, name in enumerate(names)}

    def told(decision: Decision) -> dict[str, Any]:
        return {
            "kind": decision.candidate.name,
            "weights": by_name(decision.candidate.weights),
            "threshold": decision.threshold,
            "postprocess_kept": decision.repairs,
        }

    decision, chosen = outcome.decision, outcome.decision.candidate
    used = {name: w for name, w in by_name(chosen.weights).items() if w > 0 or (chosen.stacker and name in part.names)}
    result = {
        "name": name,
        "kind": chosen.name,
        "vote": chosen.vote,
        "members": list(used),
        "weights": list(used.values()),
        "threshold": decision.threshold,
        "cv": {**figures(outcome.dice, groups), "nested": outcome.nested},
        "gains": gains(outcome.dice, candidates, groups),
        "chosen_without": {held_out: told(other) for held_out, other in outcome.without.items()},
        "expected": _expected(outcome.dice, oof),
        "member_cv": {names[i]: figures(singles[:, i], groups) for i in range(len(names))},
        "candidates": {
            c.name: {
                **figures(c.nested, groups),
                "nested": ("weights",),
                "gains": gains(c.nested, candidates, groups),
                "weights": by_name(c.weights),
            }
            for c in candidates
        },
        "not_searched": [name for i, name in enumerate(names) if i not in searched],
        "threshold_fit": decision.threshold_fit,
        "weights_digests": {m.name: m.weights_digest for m in oof.members},
        "folds_digest": oof.members[0].folds_digest,
        "data_digest": training.digest,
        "git_commit": provenance.git_commit(),
        "versions": provenance.versions(),
    }
    if repairs:
        result["postprocess"], result["postprocess_kept"] = decision.repair_figures, decision.repairs
    if chosen.stacker is not None:
        stacker = cast("ConvStacker", chosen.stacker)
        stacker.save(root / name, list(used))
        result["stacker_digest"] = stacker.digest()
    scores = pd.DataFrame({"image": training.names, "group": groups, "fold": fold, "nested": outcome.dice})
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
