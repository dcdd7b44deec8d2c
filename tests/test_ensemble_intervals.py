"""Intervals cover what they say, on groups as Dice has them: few, skewed, of unequal sizes; and their edge cases."""

from collections.abc import Callable

import numpy as np
import pytest

from ensemble.intervals import (
    expected_interval,
    figures,
    is_kept,
    least_with_rare_losses,
    mean_interval,
    standard_error,
)

Draw = Callable[[np.random.Generator, int], np.ndarray]


def dice_like(spread: float) -> Draw:
    """Groups' Dice, 1 less a lognormal error; its mean 0.98, whatever the spread of the error's logarithm."""
    return lambda rng, count: 1 - 0.02 * np.exp(spread * rng.normal(size=count) - spread**2 / 2)


def paired(spread: float) -> Draw:
    """Groups' differences of two blends that err mostly alike; their mean 0.001, their tails long on both sides."""

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        common, own = rng.normal(size=(2, count))
        one, other = (np.exp(spread * z - spread**2 / 2) for z in (common, 0.9 * common + np.sqrt(0.19) * own))
        return 0.02 * one - 0.019 * other

    return draw


# distribution, its mean, groups, images a group: at least and at most
CASES = {
    "Dice, 12 groups": (dice_like(0.35), 0.98, 12, (2, 2)),
    "Dice, 20 groups": (dice_like(0.55), 0.98, 20, (2, 2)),
    "Dice, 20 groups, very skewed": (dice_like(0.7), 0.98, 20, (1, 1)),
    "Dice, 50 groups": (dice_like(0.7), 0.98, 50, (1, 1)),
    "Dice, 250 groups": (dice_like(0.7), 0.98, 250, (1, 1)),
    "Dice, 20 groups of 4 to 16 images": (dice_like(0.35), 0.98, 20, (4, 16)),
    "differences, 12 groups": (paired(0.55), 0.001, 12, (1, 1)),
    "differences, 20 groups": (paired(0.55), 0.001, 20, (1, 1)),
    "differences, 250 groups": (paired(0.55), 0.001, 250, (1, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_interval_covers_the_mean_as_often_as_it_says(case: str) -> None:
    draw, mean, count, (least, most) = CASES[case]
    rng = np.random.default_rng(0)
    covered, times = 0, 3000
    for _ in range(times):
        groups = np.repeat(np.arange(count), rng.integers(least, most + 1, count))
        low, high = mean_interval(draw(rng, count)[groups], groups)
        covered += low <= mean <= high
    # 0.94 or more; of 3000 the share is known to 0.004
    assert 0.936 <= covered / times <= 0.97


def few_far_worse(rng: np.random.Generator, count: int) -> np.ndarray:
    """Groups' Dice, of which one in twenty errs ten times as much as the others."""
    return 1 - (1 - dice_like(0.35)(rng, count)) * np.where(rng.random(count) < 0.05, 10, 1)


def rare_losses(rng: np.random.Generator, count: int) -> np.ndarray:
    """What a repair gains, a little on every group, but for one in fifty, which loses a hundred times as much: in the
    mean, a loss."""
    return 1e-4 * (1 + 0.2 * rng.normal(size=count)) - 0.01 * (rng.random(count) < 0.02)


@pytest.mark.parametrize(("count", "least", "most"), [(12, 0.53, 0.61), (50, 0.89, 0.94), (254, 0.96, 1.0)])
def test_it_covers_less_where_few_groups_are_far_worse_as_the_docstring_says(
    count: int, least: float, most: float
) -> None:
    rng, times = np.random.default_rng(0), 1500
    covered = 0
    for _ in range(times):
        low, high = mean_interval(few_far_worse(rng, count), np.arange(count))
        covered += low <= 1 - 0.02 * (1 + 0.05 * 9) <= high
    assert least <= covered / times <= most


@pytest.mark.parametrize(("count", "least", "most"), [(12, 0.17, 0.25), (50, 0.6, 0.68), (254, 0.97, 1.0)])
def test_a_gain_with_rare_losses_is_no_gain_by_its_interval_and_is_not_kept(
    count: int, least: float, most: float
) -> None:
    rng, times, groups = np.random.default_rng(0), 1500, np.arange(count)
    covered, above, kept = 0, 0, 0
    for _ in range(times):
        gain = rare_losses(rng, count)
        low, high = mean_interval(gain, groups)
        covered += low <= -1e-4 <= high
        above += low > 0
        kept += is_kept(gain, groups, 0.01)
    assert least <= covered / times <= most
    # without the bound it would be kept whenever no loss happens to be among the groups
    assert above / times == pytest.approx(0.98**count, abs=0.04)
    assert kept == 0


def test_what_gains_without_rare_losses_is_kept_where_the_groups_are_enough() -> None:
    """The power: a gain of 0.0001 on a third of the groups, by a repair that could lose ten times, or a hundred times
    as much; and what the bound is, by its formula."""
    rng, times = np.random.default_rng(0), 200
    for loss, count, least, most in (
        (0.001, 12, 0, 0.03),
        (0.001, 50, 0.6, 0.9),
        (0.001, 254, 1, 1),
        (0.01, 254, 0, 0.05),
    ):
        kept = 0
        for _ in range(times):
            gain = 1e-4 * rng.exponential(size=count) / 0.3 * (rng.random(count) < 0.3)
            kept += is_kept(gain, np.arange(count), loss)
        assert least <= kept / times <= most
    share = 1 - 0.025 ** (1 / 20)
    wanted = (1 - share) * 0.002 - share * 0.5
    assert least_with_rare_losses(np.full(40, 0.002), np.arange(40) // 2, 0.5) == pytest.approx(wanted)
    assert (1 - share) ** 20 == pytest.approx(0.025)


def test_percentiles_of_a_bootstrap_would_not_cover() -> None:
    rng, draw = np.random.default_rng(0), dice_like(0.35)
    covered = 0
    for _ in range(500):
        values = draw(rng, 12)
        low, high = np.percentile(values[rng.integers(0, 12, (400, 12))].mean(1), (2.5, 97.5))
        covered += low <= 0.98 <= high
    assert covered / 500 < 0.92


@pytest.mark.parametrize("spread", [0.35, 0.7])
@pytest.mark.parametrize(("count", "test_count"), [(12, 6), (20, 6), (20, 20), (50, 500)])
def test_a_test_set_lies_where_it_is_expected(spread: float, count: int, test_count: int) -> None:
    rng, draw, times = np.random.default_rng(1), dice_like(spread), 1500
    inside = 0
    for _ in range(times):
        low, high = expected_interval(draw(rng, count), np.arange(count), test_count)
        inside += low <= draw(rng, test_count).mean() <= high
    assert 0.93 <= inside / times <= 0.97


def test_whole_groups_are_drawn_and_equal_ones_are_students() -> None:
    rng = np.random.default_rng(0)
    effects = rng.normal(size=30) / 10
    # as a mirror image of itself, so that there is no skewness to correct
    effects = np.concatenate([effects, -effects])
    groups = np.repeat([f"{i}" for i in range(60)], 16)
    low, high = mean_interval(effects.repeat(16), groups)
    error = effects.std(ddof=1) / np.sqrt(60)
    assert standard_error(effects.repeat(16), groups) == pytest.approx(error)
    # Student's quantile for 59 degrees of freedom
    assert (low, high) == pytest.approx((-2.000995 * error, 2.000995 * error))


def test_a_long_tail_is_allowed_for_on_its_side() -> None:
    values = 1 - 0.02 * np.exp(np.linspace(-1.5, 1.5, 15))
    low, high = mean_interval(values, np.arange(15))
    assert values.mean() - low > 1.2 * (high - values.mean())
    mirrored = mean_interval(-values, np.arange(15))
    assert mirrored == pytest.approx((-high, -low))


def test_few_large_groups_are_worth_few() -> None:
    values = np.random.default_rng(3).normal(size=44) / 100
    sizes = np.array([400, 300, 200, 100] + [4] * 40)
    alike = mean_interval(values, np.arange(44))
    low, high = mean_interval(values.repeat(sizes), np.arange(44).repeat(sizes))
    assert high - low > 3 * (alike[1] - alike[0])


def test_what_cannot_be_known_is_everything_there_could_be() -> None:
    one = np.array([0.9, 0.8, 0.95])
    alone = np.zeros(3, int)
    assert mean_interval(one, alone) == (-1.0, 1.0)
    assert expected_interval(one, alone, 4) == (0.0, 1.0)
    assert figures(one, alone) == {"dice": one.mean(), "interval": [0.0, 1.0], "worst": 0.8}
    assert standard_error(one, alone) == np.inf
    # no Dice is above 1
    low, high = figures(np.array([1.0, 0.7, 1.0]), np.arange(3))["interval"]
    assert 0 <= low < 0.9 and high == 1
    # two groups are a spread, if hardly one: 12.7 standard errors to each side
    assert mean_interval(np.array([0.1, 0.12]), np.arange(2)) == pytest.approx(
        (0.11 - 0.12706, 0.11 + 0.12706), abs=1e-5
    )
    # equal everywhere, and 0 everywhere
    assert mean_interval(np.full(6, 0.25), np.arange(6) // 2) == (0.25, 0.25)
    assert mean_interval(np.zeros(6), np.arange(6) // 2) == (0.0, 0.0)


def test_a_vast_test_set_is_expected_where_the_mean_is() -> None:
    groups = np.repeat(np.arange(40), 4)
    values = dice_like(0.5)(np.random.default_rng(0), 40)[groups]
    few, vast = expected_interval(values, groups, 5), expected_interval(values, groups, 10**9)
    plain = mean_interval(values, groups)
    assert few[1] - few[0] > 2 * (plain[1] - plain[0])
    assert vast == pytest.approx(plain, abs=1e-6)
