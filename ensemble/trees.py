"""Boosted decision trees as plain arrays: fitted by LightGBM, saved as safetensors, summed by our own loop."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import safetensors.numpy

from kernels.trees import sum_of_trees

_TYPES = {"roots": "i4", "depths": "i4", "which": "i2", "limits": "f4", "below": "i4", "values": "f4"}


@dataclass(frozen=True)
class Growth:
    """How trees are grown.

    Attributes:
        trees: rounds of boosting.
        leaves, depth: that a tree has at most.
        rate: what each tree counts.
        least_rows: that a leaf is fitted on at least.
        features: share of them that each tree may look at, drawn for each.
        bins: that the values of a feature are put into.
    """

    trees: int = 80
    leaves: int = 63
    depth: int = 8
    rate: float = 0.25
    least_rows: int = 40
    features: float = 0.3
    bins: int = 63


@dataclass(frozen=True)
class Trees:
    """Trees that answer with a logit; as `kernels.trees.sum_of_trees` takes them. Pickles."""

    features: int
    roots: np.ndarray
    depths: np.ndarray
    which: np.ndarray
    limits: np.ndarray
    below: np.ndarray
    values: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N,) float32 logits of rows (N, F) float32. ValueError where F is another than they were fitted on."""
        if features.ndim != 2 or features.shape[1] != self.features:
            raise ValueError(f"features {features.shape} for trees of {self.features}")
        return sum_of_trees(features, self.roots, self.depths, self.which, self.limits, self.below, self.values)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by name, for `safetensors`; `from_arrays` is the way back."""
        return {"features": np.array([self.features], np.int32), **{name: getattr(self, name) for name in _TYPES}}

    def digest(self) -> str:
        """16 hex digits that identify what was learned."""
        return hashlib.blake2b(safetensors.numpy.save(self.arrays()), digest_size=8).hexdigest()

    def used(self) -> np.ndarray:
        """(F,) int64: how many nodes look at each feature."""
        inner = self.below != np.arange(len(self.below))
        return np.bincount(self.which[inner], minlength=self.features)

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> Trees:
        """The trees that `arrays` was called on.

        Raises:
            ValueError: these are no trees: an array is missing, of another type, or points outside.
        """
        try:
            found = {name: arrays[name] for name in _TYPES}
            (features,) = arrays["features"].astype(np.int32, casting="safe").tolist()
        except (KeyError, TypeError, ValueError):
            raise ValueError("an array of the trees is missing, or of another kind") from None
        nodes = len(found["which"])
        for name, kind in _TYPES.items():
            if found[name].dtype != np.dtype(kind) or found[name].ndim != 1:
                raise ValueError(f"{name} is {found[name].dtype} of {found[name].ndim} dimensions")
        own = np.arange(nodes)
        below, leaf = found["below"], found["below"] == own
        sound = (
            len(found["roots"]) == len(found["depths"])
            and all(len(found[name]) == nodes for name in ("limits", "below", "values"))
            and ((found["roots"] >= 0) & (found["roots"] < nodes)).all()
            and ((found["depths"] >= 0) & (found["depths"] < nodes)).all()
            and (leaf | ((below > own) & (below + 1 < nodes))).all()
            and np.isposinf(found["limits"][leaf]).all()
            and ((found["which"] >= 0) & (found["which"] < features)).all()
            and np.isfinite(found["values"]).all()
        )
        if not sound:
            raise ValueError("an array of the trees points outside of them")
        return Trees(features, **found)


def grow(features: np.ndarray, truth: np.ndarray, growth: Growth = Growth(), *, seed: int = 0) -> Trees:
    """Fit trees to tell foreground from background.

    One thread adds in one order: the same trees on any machine of the same libraries, whatever else runs.

    Args:
        features: (N, F) float32, finite; not modified.
        truth: (N,) bool.
        growth: how.
        seed: of LightGBM's draws.

    Raises:
        ValueError: there are no rows, or all of one kind.
    """
    if not len(truth) or truth.all() or not truth.any():
        raise ValueError("trees need pixels of foreground and of background")
    # half a second that most programs can spare
    import lightgbm

    settings = {
        "objective": "binary",
        "num_leaves": growth.leaves,
        "max_depth": growth.depth,
        "learning_rate": growth.rate,
        "min_data_in_leaf": min(growth.least_rows, max(1, len(truth) // 20)),
        "lambda_l2": 1.0,
        "feature_fraction": growth.features,
        "max_bin": growth.bins,
        # rows that the bins are found on: all of them would take as long as growing
        "bin_construct_sample_cnt": 50_000,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
        "verbose": -1,
    }
    data = lightgbm.Dataset(features, truth.astype(np.float32), params=settings)
    return parse(lightgbm.train(settings, data, growth.trees).model_to_string(), features.shape[1])


def parse(text: str, features: int) -> Trees:
    """The trees of LightGBM's own text format (version 4): numerical splits without missing values.

    Its trees number inner nodes and leaves apart and compare in float64. Here children follow each other, and limits
    are rounded down to float32, which decides every float32 alike.

    Raises:
        ValueError: it holds splits of another kind.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _TYPES}
    start = 0
    for block in text.split("\nTree=")[1:]:
        fields = dict(line.split("=", 1) for line in block.split("\n\n")[0].splitlines() if "=" in line)
        if int(fields.get("num_cat", "0")) or int(fields.get("is_linear", "0")):
            raise ValueError("trees with categories or linear leaves")
        tree, depth = _one_tree(fields)
        parts["roots"].append(np.array([start], np.int32))
        parts["depths"].append(np.array([depth], np.int32))
        for name in ("which", "limits", "values"):
            parts[name].append(tree[name])
        parts["below"].append((tree["below"] + start).astype(np.int32))
        start += len(tree["which"])
    joined = {
        name: np.concatenate(parts[name]).astype(kind) if parts[name] else np.empty(0, kind)
        for name, kind in _TYPES.items()
    }
    return Trees(features, **joined)


def _one_tree(fields: Mapping[str, str]) -> tuple[dict[str, np.ndarray], int]:
    """A tree's arrays, its nodes numbered breadth first from 0, and its depth."""

    def numbers(name: str) -> np.ndarray:
        return np.array(fields.get(name, "").split(), np.float64)

    split, limit, values = numbers("split_feature").astype(int), numbers("threshold"), numbers("leaf_value")
    children = numbers("left_child").astype(int), numbers("right_child").astype(int)
    count = len(split) + len(values)
    tree: dict[str, np.ndarray] = {
        "which": np.zeros(count, np.int16),
        "limits": np.full(count, np.inf, np.float32),
        "below": np.arange(count),
        "values": np.zeros(count, np.float32),
    }
    # a tree of one leaf has no inner node
    level, taken, depth = [(0, 0 if len(split) else -1)], 1, 0
    while level:
        after = []
        for place, node in level:
            if node < 0:
                tree["values"][place] = values[~node]
                continue
            tree["which"][place] = split[node]
            tree["limits"][place] = _rounded_down(limit[node])
            tree["below"][place] = taken
            after += [(taken, children[0][node]), (taken + 1, children[1][node])]
            taken += 2
        depth += bool(after)
        level = after
    return tree, depth


def _rounded_down(value: float) -> np.float32:
    """The largest float32 that is not above `value`."""
    near = np.float32(value)
    return near if float(near) <= value else np.nextafter(near, np.float32(-np.inf))
