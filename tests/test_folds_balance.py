"""Folds of groups that differ in size; and that those of groups of one size are what they always were."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold

from folds.balance import SLACK, balance
from folds.split import split_groups


def by_area_alone(images: np.ndarray, areas_px: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of every group as they were assigned before their numbers of images counted; never to be changed."""
    rng = np.random.default_rng(seed)
    mean_area = areas_px / images
    order = rng.permutation(len(images))
    order = order[np.argsort(-mean_area[order], kind="stable")]
    totals = np.zeros(folds)
    fold_of_group = np.empty(len(images), np.int64)
    for start in range(0, len(order), folds):
        block = order[start : start + folds]
        ties = rng.permutation(folds)
        for group, fold in zip(block, ties[np.argsort(totals[ties], kind="stable")], strict=False):
            fold_of_group[group] = fold
            totals[fold] += mean_area[group]
    return fold_of_group


def split(images: np.ndarray, areas_px: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of every group by the whole way, from images to groups and back."""
    groups = np.repeat([f"{k:05}" for k in range(len(images))], images)
    of_image = split_groups(groups, np.repeat(areas_px / images, images), folds=folds, seed=seed)
    return of_image[np.r_[0, np.cumsum(images)[:-1]]]


def squares(images: np.ndarray, fold: np.ndarray, folds: int) -> float:
    return float(((np.bincount(fold, images, folds) - images.sum() / folds) ** 2).sum())


def least_squares(images: np.ndarray, folds: int) -> float:
    """The best there is, by trying everything that differs."""
    reached = {(0,) * folds}
    for size in images.tolist():
        grown = (tuple(sorted((*t[:k], t[k] + size, *t[k + 1 :]))) for t, k in product(reached, range(folds)))
        reached = set(grown)
    return min(sum((n - images.sum() / folds) ** 2 for n in totals) for totals in reached if min(totals) > 0)


def cost(images: np.ndarray, areas_px: np.ndarray, fold: np.ndarray, folds: int, limit: float) -> tuple[float, float]:
    """What `balance` makes small, written down once more."""
    uneven = 0.0
    for k in range(folds):
        mine = fold == k
        if not mine.any():
            return np.inf, np.inf
        mean = areas_px.sum() / images.sum() or 1.0
        uneven += (areas_px[mine].sum() / images[mine].sum() / mean - 1) ** 2
        uneven += (mine.sum() / (len(images) / folds) - 1) ** 2
    return max(0.0, squares(images, fold, folds) - limit), uneven


@pytest.mark.parametrize(("groups", "images"), [(318, 16), (254, 16), (60, 16), (24, 16), (7, 1), (12, 2), (101, 3)])
@pytest.mark.parametrize("folds", [2, 5, 6])
def test_groups_of_one_size_are_split_as_they_always_were(groups: int, images: int, folds: int) -> None:
    sizes = np.full(groups, images)
    for seed in range(3):
        areas = images * np.random.default_rng(seed).integers(100_000, 800_000, groups).astype(float)
        np.testing.assert_array_equal(split(sizes, areas, folds, seed), by_area_alone(sizes, areas, folds, seed))
    # areas that tie
    level = np.full(groups, 16.0)
    np.testing.assert_array_equal(split(sizes, level, folds, 9), by_area_alone(sizes, level, folds, 9))


@pytest.mark.parametrize(
    ("sizes", "folds"),
    [
        # by area alone: 36, 728, 36, 324 and 36 images
        ([400, 300, 200, 100, 40, 40, 40, 40], 5),
        ([1000, 1, 1, 1, 1, 1], 5),
        ([7, 7, 6, 6, 5, 5, 4, 4, 4], 4),
        ([8, 7, 6, 5, 4], 2),
        ([64, 32, 16, 8, 4, 2, 1, 1], 2),
        ([99, 98, 97, 3, 2, 1], 3),
        ([50, 50, 50, 33, 33, 33, 17, 17, 17], 3),
        ([16] * 11 + [15], 4),
    ],
)
def test_hard_cases_have_the_best_sizes_there_are(sizes: list[int], folds: int) -> None:
    images = np.array(sizes)
    best = max(least_squares(images, folds), folds * (SLACK * images.mean() * len(images) / folds) ** 2)
    for seed in range(5):
        areas = images * np.random.default_rng(seed).lognormal(13, 0.4, len(images))
        assert squares(images, split(images, areas, folds, seed), folds) <= best * 1.0001


def test_sizes_are_within_2_percent_of_the_best_there_are() -> None:
    rng = np.random.default_rng(0)
    for seed in range(60):
        folds = int(rng.integers(2, 5))
        images = np.maximum(1, rng.lognormal(3, 1, int(rng.integers(folds, 11)))).astype(int)
        found = squares(images, split(images, images * rng.lognormal(13, 0.4, len(images)), folds, seed), folds)
        ours, best = (np.sqrt(total / folds) / images.sum() * folds for total in (found, least_squares(images, folds)))
        assert ours <= best + 0.02


@settings(max_examples=60)
@given(
    images=st.lists(st.integers(1, 60), min_size=2, max_size=24).filter(lambda sizes: len(set(sizes)) > 1),
    folds=st.integers(2, 5),
    seed=st.integers(0, 99),
    spread=st.sampled_from([0.0, 0.3, 2.0]),
)
def test_no_exchange_makes_it_better_and_it_is_never_less_even_than_by_area_alone(
    images: list[int], folds: int, seed: int, spread: float
) -> None:
    sizes = np.array(images)
    folds = min(folds, len(sizes))
    areas = sizes * np.random.default_rng(seed).lognormal(0, spread, len(sizes))
    before = by_area_alone(sizes, areas, folds, seed)
    fold = split(sizes, areas, folds, seed)
    np.testing.assert_array_equal(fold, split(sizes, areas, folds, seed))
    given_squares = squares(sizes, before, folds)
    assert squares(sizes, fold, folds) <= given_squares + 1e-6
    limit = min(given_squares, folds * (SLACK * sizes.sum() / folds) ** 2)
    excess, uneven = cost(sizes, areas, fold, folds, limit)
    for i, j in product(range(len(sizes)), range(len(sizes) + folds)):
        other = fold.copy()
        if j < len(sizes):
            other[[i, j]] = fold[[j, i]]
        else:
            other[i] = j - len(sizes)
        theirs = cost(sizes, areas, other, folds, limit)
        assert theirs[0] >= excess - 1e-6
        assert theirs[0] > excess + 1e-6 or theirs[1] >= uneven - 1e-7


def test_groups_that_differ_less_than_threefold_are_even_in_everything() -> None:
    rng = np.random.default_rng(1)
    for seed in range(20):
        folds = int(rng.integers(2, 7))
        images = rng.integers(8, 25, int(rng.integers(6 * folds, 12 * folds)))
        areas = images * rng.uniform(300_000, 600_000, len(images))
        fold = split(images, areas, folds, seed)
        sizes = np.bincount(fold, images, folds)
        mean_areas = np.bincount(fold, areas, folds) / sizes
        assert sizes.std() <= SLACK * sizes.mean() * 1.0001
        assert np.abs(mean_areas / (areas.sum() / images.sum()) - 1).max() < 0.02
        assert np.ptp(np.bincount(fold)) <= 1


def test_it_is_at_least_as_even_as_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    for seed in range(20):
        images = np.maximum(1, rng.lognormal(2.5, 1, 40)).astype(int)
        groups = np.repeat(np.arange(len(images)), images)
        theirs = np.array([len(held) for _, held in GroupKFold(5).split(groups[:, None], groups=groups)])
        ours = np.bincount(split(images, images * rng.lognormal(0, 0.4, len(images)), 5, seed), images)
        assert ours.std() <= max(theirs.std(), SLACK * theirs.mean()) * 1.0001


def test_thousands_of_groups_and_empty_masks_are_no_matter() -> None:
    images = np.random.default_rng(0).integers(1, 100, 3000)
    fold = balance(np.arange(3000) % 5, images, np.zeros(3000), folds=5, seed=0)
    sizes = np.bincount(fold, images)
    assert sizes.std() <= SLACK * sizes.mean() * 1.0001
    assert np.ptp(np.bincount(fold)) <= 1
