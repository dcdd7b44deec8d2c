"""The whole choice of a blend, made again without each fold: nothing of a fold has a part in its own figure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ensemble.index import DisagreementIndex, fold_rows
from ensemble.procedure import Decision, can_nest, decide, decide_without, held_out_scores
from ensemble.score_memory import RememberingIndex
from ensemble.selection import VOTING_WAYS, Candidate, evaluate_all
from ensemble.stacking import BLENDERS, BestSingle, EqualMean, MeanOfBest, ScoreWeights
from tests.simulated_competitions import networks_of_all_kinds, networks_of_equal_worth

# sizes that divide nothing
FOLD = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4])
GROUPS = np.array([f"car{i}" for i in (0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8, 9, 9, 10, 11, 12)])
WAYS = (*BLENDERS, *VOTING_WAYS)


@pytest.fixture(scope="module")
def index() -> DisagreementIndex:
    return networks_of_all_kinds(np.random.default_rng(0), len(FOLD))


@pytest.fixture(scope="module")
def candidates(index: DisagreementIndex) -> list[Candidate]:
    return evaluate_all(RememberingIndex.around(index), FOLD, inner=WAYS)


def equal(one: Candidate, other: Candidate) -> None:
    assert (one.name, one.vote) == (other.name, other.vote)
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(one.nested, other.nested)
    assert list(one.nested_weights) == list(other.nested_weights)
    for k, weights in one.nested_weights.items():
        np.testing.assert_array_equal(weights, other.nested_weights[k])


@pytest.mark.parametrize("held_out", range(5))
def test_shared_work_gives_what_an_evaluation_of_the_other_folds_alone_gives(
    held_out: int, index: DisagreementIndex, candidates: list[Candidate]
) -> None:
    seen = fold_rows(FOLD, held_out)[0]
    alone = evaluate_all(index.of(seen), FOLD[seen])
    assert [c.name for c in candidates] == [c.name for c in alone]
    for shared, direct in zip(candidates, alone, strict=True):
        equal(shared.without(held_out), direct)


def decisions_without(
    candidates: list[Candidate], index: DisagreementIndex, fold: np.ndarray, groups: np.ndarray, way: str = ""
) -> dict[int, Decision]:
    return {k: decide_without(candidates, index, fold, groups, k, way) for k in map(int, np.unique(fold))}


@pytest.mark.parametrize("way", ["", "dice-weights", "weighted-majority"])
def test_what_a_fold_holds_changes_nothing_that_is_chosen_without_it(
    way: str, index: DisagreementIndex, candidates: list[Candidate]
) -> None:
    for held_out in (1, 4):
        mine = fold_rows(FOLD, held_out)[1]
        # the fold's truth is turned around, and its best network made the worst
        truths, logits = list(index.truths), list(index.logits)
        for position in mine:
            truths[position] = 1 - truths[position]
            logits[position] = logits[position][::-1].copy()
        other_index = replace(index, truths=truths, logits=logits)
        others = evaluate_all(other_index, FOLD, inner=WAYS)
        before = decide_without(candidates, index, FOLD, GROUPS, held_out, way)
        after = decide_without(others, other_index, FOLD, GROUPS, held_out, way)
        equal(before.candidate, after.candidate)
        assert (before.threshold, before.threshold_fit) == (after.threshold, after.threshold_fit)
        # which is no matter of course: what is chosen on all images does change
        everything = [decide(c, i, FOLD, GROUPS, way) for c, i in ((candidates, index), (others, other_index))]
        assert not np.array_equal(everything[0].candidate.weights, everything[1].candidate.weights)


def test_each_fold_is_scored_under_what_was_chosen_without_it(
    index: DisagreementIndex, candidates: list[Candidate]
) -> None:
    by_name = {candidate.name: candidate for candidate in candidates}
    chosen = ["best-single", "weighted-probability", "greedy", "equal-mean", "majority"]
    decisions = {k: Decision(by_name[name].without(k), 0.0, np.empty(0), None) for k, name in enumerate(chosen)}
    decisions[2] = replace(decisions[2], threshold=0.25)
    dice = held_out_scores(decisions, candidates, index, FOLD)
    for k, decision in decisions.items():
        rows, weights = np.flatnonzero(k == FOLD), decision.candidate.weights
        if decision.candidate.vote == "logits":
            expected = index.scores(weights, decision.threshold, images=rows)[:, 0]
        else:
            expected = index.vote_scores(decision.candidate.vote, weights, images=rows)
        np.testing.assert_array_equal(dice[rows], expected)


def test_a_threshold_that_surely_gains_is_kept_with_and_without_each_fold() -> None:
    # all networks call too little foreground, by as much
    rng = np.random.default_rng(1)
    fold, groups = np.arange(30) % 3, np.arange(30)
    low = [(np.where(rng.random(60) < 0.5, 1.0, -1.0) + rng.normal(size=(2, 60)) / 4).astype(np.float32) for _ in fold]
    truths = [(plane.mean(0) > 0).astype(np.uint8) for plane in low]
    agreed = np.array([(100, 100, 100 + int(truth.sum())) for truth in truths])
    index = DisagreementIndex(agreed, [plane - np.float32(0.8) for plane in low], truths, (-0.5, 0.5))
    candidates = evaluate_all(index, fold, inner=WAYS)
    decision = decide(candidates, index, fold, groups, "equal-mean")
    assert decision.threshold < 0
    assert decision.threshold_fit is not None and decision.threshold_fit["kept"]
    without = decisions_without(candidates, index, fold, groups, "equal-mean")
    assert all(other.threshold < 0 for other in without.values())
    dice = held_out_scores(without, candidates, index, fold)
    assert dice.mean() > candidates[1].nested.mean() + 0.01


def test_two_folds_cannot_nest_a_choice() -> None:
    assert can_nest(FOLD)
    assert not can_nest(np.array([0, 1, 1, 0]))


def test_among_networks_of_equal_worth_nothing_gains_over_their_plain_mean() -> None:
    """100 competitions of 20 groups and 5 folds: the choice is as good as the plain mean, and is said to be."""
    fold, groups = np.arange(20) % 5, np.arange(20)
    blenders = {
        "best-single": BestSingle,
        "equal-mean": EqualMean,
        "mean-of-best": MeanOfBest,
        "dice-weights": lambda: ScoreWeights(draws=8),
    }
    chosen_by, held_out = [], []
    for seed in range(100):
        index = RememberingIndex.around(networks_of_equal_worth(np.random.default_rng(seed)))
        candidates = evaluate_all(index, fold, blenders, inner=WAYS)  # type: ignore[arg-type]
        mean = candidates[1].nested
        # the figure it was chosen by, and that of the choice made without each fold
        chosen_by.append((decide(candidates, index, fold, groups).nested - mean).mean())
        without = decisions_without(candidates, index, fold, groups)
        held_out.append((held_out_scores(without, candidates, index, fold) - mean).mean())

    def errors_from_0(gains: list[float]) -> float:
        return float(np.mean(gains) / (np.std(gains, ddof=1) / np.sqrt(len(gains))))

    assert abs(errors_from_0(held_out)) < 2
    assert errors_from_0(chosen_by) > 4
    assert np.mean(chosen_by) > 0.0003
