"""Trees as arrays: what LightGBM's own prediction says, to the last sign, after a way through a file."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pytest
import safetensors.numpy

from ensemble.trees import Growth, Trees, grow, parse


def rows(count: int, features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features, some of them constant or of few values, and a truth that hangs on several of them."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(count, features)).astype(np.float32)
    found[:, -1] = 3
    found[:, -2] = rng.integers(0, 3, count)
    truth = found[:, 0] + found[:, 1] * found[:, 2] + rng.normal(scale=0.3, size=count) > 0
    return found, truth


@pytest.mark.parametrize("growth", [Growth(trees=1, leaves=2), Growth(trees=37, leaves=13, depth=5), Growth(trees=60)])
def test_trees_answer_as_those_that_lightgbm_fitted(growth: Growth) -> None:
    features, truth = rows(997, 7)
    settings = {"objective": "binary", "num_leaves": growth.leaves, "max_depth": growth.depth, "verbose": -1, "seed": 0}
    booster = lightgbm.train(settings, lightgbm.Dataset(features, truth), growth.trees)
    trees = parse(booster.model_to_string(), 7)
    unseen = rows(499, 7, seed=1)[0]
    # values that stand exactly on a limit go the same way
    unseen[:200, 0] = np.resize(trees.limits[np.isfinite(trees.limits)], 200)
    np.testing.assert_allclose(trees.logits(unseen), booster.predict(unseen, raw_score=True), atol=1e-5)
    assert (np.diff(trees.roots) > 0).all() and trees.used().sum() == np.isfinite(trees.limits).sum()


def test_trees_are_the_same_after_a_file_and_when_grown_again(tmp_path: Path) -> None:
    features, truth = rows(1501, 5)
    trees = grow(features, truth, Growth(trees=23, features=1))
    safetensors.numpy.save_file(trees.arrays(), tmp_path / "trees.safetensors")
    back = Trees.from_arrays(safetensors.numpy.load_file(tmp_path / "trees.safetensors"))
    np.testing.assert_array_equal(back.logits(features), trees.logits(features))
    assert back.digest() == trees.digest() == grow(features, truth, Growth(trees=23, features=1)).digest()
    assert ((trees.logits(features) > 0) == truth).mean() > 0.9
    # a row's answer is its own
    np.testing.assert_array_equal(trees.logits(features[::-7]), trees.logits(features)[::-7])
    assert len(trees.logits(features[:0])) == 0


def test_a_constant_says_the_prior_and_one_kind_is_refused() -> None:
    flat = np.zeros((300, 3), np.float32)
    truth = np.arange(300) < 75
    trees = grow(flat, truth, Growth(trees=5))
    np.testing.assert_allclose(trees.logits(flat[:2]), np.log(75 / 225), atol=1e-3)
    for kind in (np.zeros(300, bool), np.ones(300, bool), np.zeros(0, bool)):
        with pytest.raises(ValueError, match="foreground and of background"):
            grow(flat[: len(kind)], kind)


@pytest.mark.parametrize("name", ["features", "roots", "depths", "which", "limits", "below", "values"])
def test_arrays_that_are_no_trees_are_refused(name: str) -> None:
    features, truth = rows(400, 4)
    arrays = grow(features, truth, Growth(trees=3)).arrays()
    for altered in (
        {key: value for key, value in arrays.items() if key != name},
        {**arrays, name: arrays[name].astype(np.float64)},
        {**arrays, name: np.full_like(arrays[name], np.nan if name in ("limits", "values") else -5)},
        {**arrays, name: arrays[name][:-1]},
    ):
        with pytest.raises(ValueError):
            Trees.from_arrays(altered)


def test_rows_of_other_features_are_refused() -> None:
    features, truth = rows(400, 4)
    with pytest.raises(ValueError, match="for trees of 4"):
        grow(features, truth, Growth(trees=3)).logits(features[:, :3])
