from collections.abc import Sequence

import numpy as np
import pytest

from ensemble.fit import bootstrap_interval, choose

FOLD = np.repeat(np.arange(5), 8)


class Table:
    """Stands for the scorer: the Dice of a subset is the mean of its members', and a blend gains `gain`."""

    def __init__(self, singles: np.ndarray, gain: float) -> None:
        self.singles = singles
        self.gain = gain

    def scores(self, subsets: Sequence[tuple[int, ...]], label: str, jobs: int) -> np.ndarray:
        return np.stack([self.singles[:, list(s)].mean(1) + self.gain for s in subsets], axis=1)


def test_a_blend_is_chosen_where_it_gains_and_the_bad_member_left_out() -> None:
    rng = np.random.default_rng(0)
    good = 0.98 + 0.002 * rng.normal(size=(40, 2))
    singles = np.column_stack([good, np.full(40, 0.7)])
    subset, nested, table = choose(singles, Table(singles, gain=0.01), FOLD, jobs=1)
    assert subset == (0, 1)
    np.testing.assert_allclose(nested, table[(0, 1)])


def test_the_best_alone_is_chosen_where_blends_do_not_gain() -> None:
    singles = np.column_stack([np.full(40, 0.98), np.full(40, 0.97)])
    subset, nested, _ = choose(singles, Table(singles, gain=0.0), FOLD, jobs=1)
    assert subset == (0,)
    np.testing.assert_allclose(nested, 0.98)


def test_the_nested_dice_never_uses_what_the_choice_saw() -> None:
    # member k shines on fold k alone: whoever looks at the fold itself would pick it and score 1.0 there;
    # from the other folds it cannot be known
    singles = np.full((40, 5), 0.5)
    for k in range(5):
        singles[k == FOLD, k] = 1.0
    _, nested, _ = choose(singles, Table(singles, gain=-1.0), FOLD, jobs=1)
    np.testing.assert_allclose(nested, 0.5)


def test_the_interval_draws_whole_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([f"{i}" for i in range(30)], 16)
    car_effect = np.repeat(rng.normal(size=30), 16)
    low, high = bootstrap_interval(car_effect, groups)
    assert low < car_effect.mean() < high
    # as wide as 30 draws make it; 480 independent images would make it four times narrower
    assert high - low == pytest.approx(2 * 1.96 * car_effect.std() / np.sqrt(30), rel=0.25)
