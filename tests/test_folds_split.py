from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line import UserError
from competition import COMPETITIONS
from folds import split
from folds.images import TrainingSet

NAMES = tuple(f"{car:012x}_{view:02}.jpg" for car in range(10) for view in (1, 2))
TRAINING = TrainingSet(COMPETITIONS["carvana"], Path("data"), NAMES, "0" * 16, NAMES)
FOLD = [car % 5 for car in range(10) for _ in (1, 2)]


@given(
    groups=st.lists(st.integers(0, 30), min_size=2, max_size=200).filter(lambda g: len(set(g)) >= 2),
    folds=st.integers(2, 6),
    seed=st.integers(0, 9),
)
def test_groups_stay_whole_and_folds_are_as_equal_as_can_be(groups: list[int], folds: int, seed: int) -> None:
    names = np.array([str(g) for g in groups])
    unique = np.unique(names)
    if len(unique) < folds:
        with pytest.raises(UserError, match="cannot be split"):
            split.split_groups(names, np.ones(len(names)), folds=folds, seed=seed)
        return
    fold = split.split_groups(names, np.random.default_rng(0).random(len(names)), folds=folds, seed=seed)
    by_group = {name: set(fold[names == name]) for name in unique}
    assert all(len(found) == 1 for found in by_group.values())
    sizes = np.bincount([found.pop() for found in by_group.values()], minlength=folds)
    assert sizes.min() > 0
    if len(set(np.unique(names, return_counts=True)[1])) == 1:
        assert sizes.max() - sizes.min() <= 1


def test_folds_are_balanced_in_area() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([f"{i:03}" for i in range(100)], 16)
    areas = np.repeat(rng.lognormal(0, 0.5, 100), 16)
    fold = split.split_groups(groups, areas, folds=5, seed=0)
    means = np.array([areas[fold == k].mean() for k in range(5)])
    at_random = np.array([areas[np.repeat(rng.permutation(100) % 5, 16) == k].mean() for k in range(5)])
    assert np.ptp(means) < 0.2 * np.ptp(at_random)


def test_a_split_is_the_same_for_the_same_seed() -> None:
    groups, areas = np.array(list("aabbccddee")), np.arange(10.0)
    first = split.split_groups(groups, areas, folds=3, seed=4)
    np.testing.assert_array_equal(first, split.split_groups(groups, areas, folds=3, seed=4))


def table(**changes: object) -> pd.DataFrame:
    return pd.DataFrame({"image": list(NAMES), "fold": FOLD} | changes)


def test_a_leak_is_refused_with_the_groups_name() -> None:
    fold = list(FOLD)
    fold[0] = 4
    with pytest.raises(UserError, match=f"{0:012x}.*different folds|different folds.*{0:012x}"):
        split.check(table(fold=fold), TRAINING, Path("my.csv"))


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"img": NAMES}), "needs the columns"),
        (table().iloc[1:], "lacks 000000000000_01"),
        (pd.concat([table(), table().iloc[:1]]), "twice"),
        (table(image=[*NAMES[:-1], "ffffffffffff_01.jpg"]), "lists ffffffffffff_01"),
        (table(fold=[-1, -1, *FOLD[2:]]), "number the folds"),
        (table(fold=["x", "x", *FOLD[2:]]), "number the folds"),
        (table(fold=[0.5, 0.5, *FOLD[2:]]), "number the folds"),
        (table(fold=[f if f else 7 for f in FOLD]), "leaves fold 0 empty"),
        (table(fold=[0] * len(FOLD)), "leaves fold 1 empty"),
        (table(fold=[f if f < 2 else 10**12 for f in FOLD]), "leaves fold 2 empty"),
        (table(image=[None, *NAMES[1:]]), r"without an image name \(row 1\)"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(frame: pd.DataFrame, words: str) -> None:
    with pytest.raises(UserError, match=words):
        split.check(frame, TRAINING, Path("my.csv"))


def test_a_table_is_written_once_and_then_read(tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    areas = np.arange(len(NAMES))
    made = split.find_or_make(path, TRAINING, areas, own=None, seed=1)
    assert tuple(made.columns) == split.COLUMNS
    for seed in (None, 1):
        again = split.find_or_make(path, TRAINING, areas, own=None, seed=seed)
        pd.testing.assert_frame_equal(made, again)


def test_a_split_of_another_seed_than_runs_follow_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    areas = np.arange(len(NAMES))
    made = split.find_or_make(path, TRAINING, areas, own=None)
    pd.testing.assert_frame_equal(made, split.find_or_make(path, TRAINING, areas, own=None, seed=0))
    others = (split.find_or_make(tmp_path / f"{seed}.csv", TRAINING, areas, own=None, seed=seed) for seed in range(99))
    other = next(seed for seed, table in enumerate(others) if not table.equals(made))
    with pytest.raises(UserError, match=rf"is not the split of --split-seed {other}: leave that out"):
        split.find_or_make(path, TRAINING, areas, own=None, seed=other)
    with pytest.raises(UserError, match=r"is a split already, so --split-seed 0 .* leave one of them out"):
        split.find_or_make(tmp_path / "new.csv", TRAINING, areas, own=path, seed=0)
    assert not (tmp_path / "new.csv").exists()


def test_an_own_table_is_taken_unless_runs_follow_another(tmp_path: Path) -> None:
    own = tmp_path / "mine.csv"
    # rows in another order, to be brought into ours
    table().iloc[::-1].to_csv(own, index=False)
    taken = split.find_or_make(tmp_path / "a" / "folds.csv", TRAINING, np.zeros(len(NAMES)), own=own)
    assert list(taken["fold"]) == FOLD
    split.find_or_make(tmp_path / "a" / "folds.csv", TRAINING, np.zeros(len(NAMES)), own=own)
    other = tmp_path / "b" / "folds.csv"
    split.find_or_make(other, TRAINING, np.arange(len(NAMES)), own=None, folds=3)
    with pytest.raises(UserError, match="differs"):
        split.find_or_make(other, TRAINING, np.arange(len(NAMES)), own=own)
    assert split.find_or_make(other, TRAINING, np.arange(len(NAMES)), own=None)["fold"].max() == 2
    with pytest.raises(UserError, match=r"b/folds\.csv has 3 folds, not 4"):
        split.find_or_make(other, TRAINING, np.arange(len(NAMES)), own=None, folds=4)
    with pytest.raises(UserError, match="is missing"):
        split.read(tmp_path / "none.csv", TRAINING)


@pytest.mark.parametrize(
    ("text", "folds"), [("0", [0]), ("0,2", [0, 2]), ("0..4", [0, 1, 2, 3, 4]), ("all", [0, 1, 2, 3, 4])]
)
def test_folds_are_parsed_as_the_makefile_takes_them(text: str, folds: list[int]) -> None:
    assert split.parse_folds(text, 5) == folds


@pytest.mark.parametrize("text", ["5", "x", "", "-1", "0..", "3..2", "0..9"])
def test_a_fold_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="fold"):
        split.parse_folds(text, 5)
