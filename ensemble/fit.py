"""`python -m ensemble.fit`: choose and fit the blend on out-of-fold logits, at full size; `make fit` calls it."""

from __future__ import annotations

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
from ensemble.blends import BLEND_FILE, SCORES_FILE, table_lines
from ensemble.index import DisagreementIndex, single_dice
from ensemble.members import find_members, parse_members
from ensemble.postprocess_gain import measure
from ensemble.selection import (
    VOTED,
    Candidate,
    bootstrap_interval,
    choose,
    evaluate_all,
    figures,
    fit_threshold,
)
from ensemble.stacker_worth import evaluate_stacker
from ensemble.stacking import BLENDERS
from ensemble.voting import Combine, combination
from folds import cache, split
from folds.images import find_training_set

# thresholds on the logits that are tried; probabilities 0.38 .. 0.62
_BAND = (-0.5, 0.5)


# A network with this many times the errors of the best has no say in a blend, but leaves a sea of pixels open to
# search. It is scored and reported, and its weight is 0.
_HOPELESS = 5.0


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
) -> None:
    """Choose the blend of trained variants by its nested Dice at full size; writes blend.json.

    Args:
        competition: a name from competition.py.
        members: variants to choose from, a comma list; all takes every variant whose folds are all trained.
        blend: use this way of blending (best-single, equal-mean, mean-of-best, greedy, logistic, dice-weights;
            probability, geometric, majority, each also as weighted-...; conv-stacker) instead of choosing one.
        name: of the result, and of its folder in the runs folder.
        data: the competition's files; data/<competition> by default.
        runs: where trained variants are.
        jobs: processes, as joblib counts them.
        postprocess: measure repairs of the mask and keep those that surely gain, or leave them out.
        conv_stacker: also fit a small convolutional network on the logits, which takes minutes.
    """
    facts = find_competition(competition)
    ways = (*BLENDERS, *VOTED, conv.NAME)
    if blend and blend not in ways:
        raise UserError(f"unknown way of blending {blend!r}; known: {', '.join(ways)}.")
    training = find_training_set(facts, data or facts.default_data())
    root = runs / facts.name
    if not (root / "folds.csv").exists():
        raise UserError(f"{root / 'folds.csv'} is missing: train variants first (make folds V=...).")
    fold = split.read(root / "folds.csv", training)["fold"].to_numpy()
    found = find_members(root, parse_members(members, root), int(fold.max()) + 1)
    for member in found:
        if member.data_digest != training.digest:
            raise UserError(
                f"{member.folder} was trained on other data than {training.data} holds now: put that data back, or "
                "train in another runs folder."
            )
    known = cache.truth(training, root / "cache", jobs=jobs)
    groups = training.groups()
    names = [member.name for member in found]
    stores, frames = [m.oof() for m in found], [m.frame for m in found]
    singles = single_dice(stores, frames, training.names, known, facts.size, jobs=jobs)
    errors = 1 - singles.mean(0)
    hopeful = np.flatnonzero(errors <= _HOPELESS * errors.min())
    able = [stores[i] for i in hopeful], [frames[i] for i in hopeful], training.names, known, facts.size
    index = DisagreementIndex.build(*able, band=_BAND, jobs=jobs)
    candidates = evaluate_all(index, fold)
    stacker: Combine | None = None
    if conv_stacker or blend == conv.NAME:
        linear = next(candidate for candidate in candidates if candidate.name == "dice-weights")
        candidate, stacker = evaluate_stacker(linear, *able, fold, jobs=jobs)
        candidates.append(candidate)
    by_name = {candidate.name: candidate for candidate in candidates}
    chosen = by_name[blend] if blend else choose(candidates, groups)
    threshold, nested, threshold_report = _threshold(chosen, index, fold, groups)

    def of_all(weights: np.ndarray) -> np.ndarray:
        everyone = np.zeros(len(names))
        everyone[hopeful] = weights
        return everyone

    weights = of_all(chosen.weights)
    stacked = chosen.vote == conv.NAME
    # a stacker needs all that it was fitted on, also those that have no part in the linear blend it starts from
    used = hopeful if stacked else np.flatnonzero(weights > 0)
    combine = combination(chosen.vote) if stacker is None or not stacked else stacker
    result = {
        "name": name,
        "kind": chosen.name,
        "vote": chosen.vote,
        "members": [names[i] for i in used],
        "weights": [float(weights[i]) for i in used],
        "threshold": threshold,
        "cv": figures(nested, groups),
        "member_cv": {names[i]: figures(singles[:, i], groups) for i in range(len(names))},
        "candidates": {
            c.name: {
                **figures(c.nested, groups),
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
            jobs=jobs,
        )
    if isinstance(combine, conv.ConvStacker):
        combine.save(root / name, [names[i] for i in used])
        result["stacker_digest"] = combine.digest()
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
