"""The whole procedure that ends in a blend, and what it is worth: done again without each fold, scored on that fold.

A way of blending, its weights, a threshold and repairs of the mask are chosen one after the other, each by nested
figures. The figures of what was chosen are those it was chosen by, and too good for that reason: over many
competitions of networks of equal worth, the chosen way seems to gain over their plain mean. So everything is chosen
once more without each fold, and the images of that fold are scored under what was chosen without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ensemble.blend_masks import MaskBlend, masks_of
from ensemble.index import DisagreementIndex, fold_rows
from ensemble.intervals import is_kept, mean_interval
from ensemble.oof_data import OofData
from ensemble.presence import Gate, fit_gate, mean_said
from ensemble.repair_gain import Kept, Repairs
from ensemble.selection import Candidate, choose, fit_threshold
from folds.inputs import Inputs
from models.frame import Frame

# a choice without one fold leaves a fold out of each of its own figures, and needs a third to fit on
_LEAST_FOLDS = 3


@dataclass(frozen=True)
class Decision:
    """What was chosen on some images, all of it on the same.

    Attributes:
        candidate: the way of blending, with its weights.
        threshold: foreground is where the blended logits are above it.
        nested: (N,) scores of the images under weights, and a threshold, fitted without their fold.
        threshold_fit: the fitted threshold with its nested gain, interval, and whether it was kept; None for votes.
        repairs: of the mask, in order: those kept.
        repair_figures: what each repair gains; None where they were not measured.
        gate: what empties masks of images in which the networks see nothing, by position; None where nothing does.
        gate_figures: what it gains; None where no network that is blended has a head for that.
    """

    candidate: Candidate
    threshold: float
    nested: np.ndarray
    threshold_fit: dict[str, Any] | None
    repairs: Kept = ()
    repair_figures: dict[str, Any] | None = None
    gate: Gate | None = None
    gate_figures: dict[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """The blend and what it is worth.

    Attributes:
        decision: chosen on all images.
        without: chosen without a fold, by fold; empty where there are only two.
        scores: (N,) scores of every image under what was chosen without its fold.
        nested: what of "way", "weights", "threshold", "repairs" and "presence" was chosen without the fold that is
            scored.
    """

    decision: Decision
    without: Mapping[int, Decision]
    scores: np.ndarray
    nested: tuple[str, ...]


def can_nest(fold: np.ndarray) -> bool:
    """Whether there are folds enough to make the choice again without each."""
    return len(np.unique(fold)) >= _LEAST_FOLDS


def decide(
    candidates: Sequence[Candidate], index: DisagreementIndex, fold: np.ndarray, groups: np.ndarray, way: str = ""
) -> Decision:
    """Choose the way of blending and its threshold.

    The threshold is the fitted one if its nested gain is surely above 0, else 0. Votes keep their own, one half.

    Args:
        candidates: evaluated on these N images, simplest first.
        index: of the images.
        fold, groups: (N,) their folds and groups.
        way: name of the candidate to take instead of choosing one.
    """
    if way:
        chosen = next(candidate for candidate in candidates if candidate.name == way)
    else:
        chosen = choose(list(candidates), groups)
    if chosen.vote != "logits":
        return Decision(chosen, 0.0, chosen.nested, None)
    fitted = fit_threshold(chosen, index, fold)
    gain = fitted.nested - chosen.nested
    kept, interval = is_kept(gain, groups), list(mean_interval(gain, groups))
    report = {"fitted": fitted.value, "nested_gain": float(gain.mean()), "interval": interval, "kept": kept}
    return Decision(chosen, *((fitted.value, fitted.nested) if kept else (0.0, chosen.nested)), report)


def decide_without(
    candidates: Sequence[Candidate],
    index: DisagreementIndex,
    fold: np.ndarray,
    groups: np.ndarray,
    held_out: int,
    way: str = "",
) -> Decision:
    """`decide` on the images of all folds but one; the arguments are those of all images."""
    seen = fold_rows(fold, held_out)[0]
    return decide([c.without(held_out) for c in candidates], index.of(seen), fold[seen], groups[seen], way)


def held_out_scores(
    decisions: Mapping[int, Decision], candidates: Sequence[Candidate], index: DisagreementIndex, fold: np.ndarray
) -> np.ndarray:
    """(N,) scores of every image under the way, weights and threshold that were chosen without its fold.

    Args:
        decisions: by the fold that was left out.
        candidates, index, fold: of all images.
    """
    nested = {candidate.name: candidate.nested for candidate in candidates}
    scores = np.empty(len(fold))
    for held_out, decision in decisions.items():
        unseen = fold_rows(fold, held_out)[1]
        if decision.threshold:
            scores[unseen] = index.scores(decision.candidate.weights, decision.threshold, images=unseen)[:, 0]
        else:
            scores[unseen] = nested[decision.candidate.name][unseen]
    return scores


def _blend_of(decision: Decision) -> tuple[Any, ...]:
    """Equal for decisions that make the same mask of an image, before repairs."""
    candidate = decision.candidate
    return candidate.vote, id(candidate.stacker), tuple(candidate.weights), decision.threshold


def used_positions(candidate: Candidate) -> list[int]:
    """Positions of the networks that a candidate blends."""
    # a stacker needs all that it was fitted on, also those that have no part in the linear blend it starts from
    return [i for i, weight in enumerate(candidate.weights) if weight > 0 or candidate.stacker is not None]


def _mask_blend(decision: Decision, oof: OofData, pictures: Mapping[Frame, Inputs]) -> MaskBlend:
    candidate = decision.candidate
    frame = candidate.combine.image_frame(oof.frames, oof.full)
    used = used_positions(candidate)
    return MaskBlend(
        tuple(used),
        tuple(float(candidate.weights[i]) for i in used),
        decision.threshold,
        candidate.combine,
        None if frame is None else pictures[frame],
    )


def _with_gate(
    decision: Decision, repairs: Repairs, said: np.ndarray, images: np.ndarray, fold: np.ndarray, groups: np.ndarray
) -> tuple[Decision, np.ndarray]:
    """The decision with a gate fitted on the images that it may see, if it surely gains; and (N,) what it adds."""
    asked = [i for i in used_positions(decision.candidate) if not np.isnan(said[:, i]).any()]
    nothing = np.zeros(len(fold))
    if not asked:
        return decision, nothing
    heard, gains = mean_said(said[:, asked]), repairs.emptying_gain(decision.repairs)
    figures = fit_gate(gains[images], heard[images], fold[images], groups[images])
    decision = replace(decision, gate_figures=figures)
    if not figures["kept"]:
        return decision, nothing
    gate = Gate(figures["threshold"], tuple(asked))
    return replace(decision, gate=gate), np.where(heard <= gate.threshold, gains, 0)


def _with_repairs(outcome: Outcome, oof: OofData, pictures: Mapping[Frame, Inputs], jobs: int) -> Outcome:
    """The outcome with repairs, and a gate, chosen for each of its decisions on the images that it may see."""
    fold, groups, everything = oof.fold, oof.groups, np.arange(len(oof.fold))
    said = oof.said()
    decision, without, scores = outcome.decision, dict(outcome.without), outcome.scores.copy()
    # decisions that came to the same blend share its masks; the logits are read once for all blends
    blends = {_blend_of(d): _mask_blend(d, oof, pictures) for d in (decision, *without.values())}
    masks = masks_of(oof, list(blends.values()), jobs=jobs)
    for k, (blend, made_by) in enumerate(blends.items()):
        repairs = Repairs(oof, made_by, masks=masks[k], jobs=jobs)
        masks[k] = []
        if _blend_of(decision) == blend:
            figures, kept = repairs.choose(everything, fold, groups)
            decision = replace(decision, repairs=kept, repair_figures=figures)
            decision = _with_gate(decision, repairs, said, everything, fold, groups)[0]
        for held_out, chosen in without.items():
            if _blend_of(chosen) != blend:
                continue
            seen, unseen = fold_rows(fold, held_out)
            figures, kept = repairs.choose(seen, fold, groups)
            chosen = replace(chosen, repairs=kept, repair_figures=figures)
            without[held_out], gate_gain = _with_gate(chosen, repairs, said, seen, fold, groups)
            scores[unseen] += (repairs.gain(kept) + gate_gain)[unseen]
    if not without:
        return Outcome(decision, without, scores, outcome.nested)
    gated = any(each.gate_figures is not None for each in (decision, *without.values()))
    return Outcome(decision, without, scores, (*outcome.nested, "repairs", *(("presence",) if gated else ())))


def settle(
    candidates: Sequence[Candidate],
    index: DisagreementIndex,
    oof: OofData,
    *,
    way: str = "",
    repairs: bool = True,
    pictures: Mapping[Frame, Inputs] = MappingProxyType({}),
    jobs: int = -1,
) -> Outcome:
    """Choose the blend on all images, and without each fold.

    Args:
        candidates: the ways of blending, simplest first, each evaluated without each fold too (`Candidate.inner`);
            with `way`, only that one need be.
        index: of the networks and images of `oof`.
        oof: the networks that are blended.
        way: name of a candidate to take instead of choosing one.
        repairs: choose repairs of the mask too.
        pictures: the training images by frame, in those that stackers need (`Combination.image_frame`).
        jobs: processes, as joblib counts them.
    """
    fold, groups = oof.fold, oof.groups
    decision = decide(candidates, index, fold, groups, way)
    if can_nest(fold):
        folds = map(int, np.unique(fold))
        without = {k: decide_without(candidates, index, fold, groups, k, way) for k in folds}
        linear = decision.candidate.vote == "logits"
        nested = ("way", "weights", "threshold") if not way else ("weights", "threshold") if linear else ("weights",)
        outcome = Outcome(decision, without, held_out_scores(without, candidates, index, fold), nested)
    else:
        outcome = Outcome(decision, {}, decision.candidate.nested, ("weights",))
    return _with_repairs(outcome, oof, pictures, jobs) if repairs else outcome
