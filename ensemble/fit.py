"""`python -m ensemble.fit`: choose the blend on out-of-fold logits, at full size; `make fit` calls it.

Candidates are the means of the logits of the k best members, k = 1, 2, ... Nested over the folds: for each fold the
members are ranked and k is chosen on the other folds' images, and the choice is scored on the fold's own images. So
the Dice that is reported comes from images that the choice never saw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import joblib
import numpy as np
import pandas as pd
import tyro
from tqdm import tqdm

import atomic
import provenance
from command_line import UserError, program
from competition import Size, find_competition
from ensemble.blends import BLEND_FILE, SCORES_FILE, table_lines
from ensemble.members import Member, find_members
from ensemble.voting import weighted_logits
from folds import cache, split
from folds.images import find_training_set
from folds.scoring import dice_of
from folds.store import LogitStore
from models.variants import parse_variants

_CHUNK = 8
_RESAMPLES = 1000

Subset = tuple[int, ...]


@dataclass(frozen=True)
class _Scorer:
    """Full-size Dice of subsets of members; pickles to workers."""

    members: Sequence[Member]
    stores: Sequence[LogitStore]
    names: Sequence[str]
    truth: cache.Truth
    full: Size

    def chunk(self, start: int, stop: int, subsets: Sequence[Subset]) -> np.ndarray:
        """(stop - start, len(subsets)) float64 Dice."""
        cv2.setNumThreads(1)
        frames = [member.frame for member in self.members]
        needed = sorted({i for subset in subsets for i in subset})
        scores = np.empty((stop - start, len(subsets)))
        for row, position in enumerate(range(start, stop)):
            planes = {i: self.stores[i].read(self.names[position])[0] for i in needed}
            for column, subset in enumerate(subsets):
                blend = weighted_logits(
                    [planes[i] for i in subset],
                    [frames[i] for i in subset],
                    [1 / len(subset)] * len(subset),
                    self.full,
                )
                scores[row, column] = dice_of(blend, self.truth.of(position))
        return scores

    def scores(self, subsets: Sequence[Subset], label: str, jobs: int) -> np.ndarray:
        """(images, len(subsets)) float64 Dice, in parallel."""
        count = len(self.names)
        starts = range(0, count, _CHUNK)
        parallel = joblib.Parallel(n_jobs=jobs, return_as="generator")
        calls = (joblib.delayed(self.chunk)(s, min(s + _CHUNK, count), subsets) for s in starts)
        chunks = []
        with tqdm(total=count, desc=label, unit="image", disable=None) as bar:
            for chunk in parallel(calls):
                chunks.append(chunk)
                bar.update(len(chunk))
        return np.concatenate(chunks)


def _prefixes(ranking: np.ndarray) -> Iterator[Subset]:
    """The best one, the best two, ..., each sorted so that equal sets are equal keys."""
    for k in range(1, len(ranking) + 1):
        yield tuple(sorted(int(i) for i in ranking[:k]))


def bootstrap_interval(values: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of a mean by bootstrap over groups.

    Args:
        values: (N,) one value an image.
        groups: (N,) its group; images of a group are drawn together, as they resemble each other.

    Returns:
        The 2.5th and the 97.5th percentile over 1,000 resamples.
    """
    _, member = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(member, weights=values), np.bincount(member)
    draws = np.random.default_rng(seed).integers(0, len(sums), (_RESAMPLES, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def choose(
    singles: np.ndarray, scorer: _Scorer, fold: np.ndarray, jobs: int
) -> tuple[Subset, np.ndarray, dict[Subset, np.ndarray]]:
    """Choose a subset on all images, and score the way of choosing by nested cross-validation.

    Args:
        singles: (images, members) Dice of each member alone.
        scorer: scores further subsets.
        fold: (images,) the fold each image was held out in.

    Returns:
        The chosen subset (of all images), the nested Dice of every image, and every candidate's Dice by image.
    """
    rankings = [np.argsort(-singles[fold != f].mean(0), kind="stable") for f in np.unique(fold)]
    overall = np.argsort(-singles.mean(0), kind="stable")
    table: dict[Subset, np.ndarray] = {(i,): singles[:, i] for i in range(singles.shape[1])}
    further = sorted({s for ranking in [*rankings, overall] for s in _prefixes(ranking)} - set(table))
    if further:
        scores = scorer.scores(further, "score blends", jobs)
        table |= {subset: scores[:, i] for i, subset in enumerate(further)}

    def best(ranking: np.ndarray, images: np.ndarray) -> Subset:
        return max(_prefixes(ranking), key=lambda subset: table[subset][images].mean())

    nested = np.empty(len(fold))
    for f, ranking in zip(np.unique(fold), rankings, strict=True):
        nested[fold == f] = table[best(ranking, fold != f)][fold == f]
    return best(overall, np.ones(len(fold), bool)), nested, table


def _figures(values: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    low, high = bootstrap_interval(values, groups)
    return {"dice": float(values.mean()), "interval": [low, high], "worst": float(values.min())}


@program
def main(
    competition: str = "carvana",
    members: str = "all",
    name: str = "blend",
    data: Path | None = None,
    runs: Path = Path("runs"),
    jobs: int = -1,
) -> None:
    """Choose the blend of trained variants by their out-of-fold Dice at full size; writes blend.json.

    Args:
        competition: a name from competition.py.
        members: variants to choose from, a comma list; all takes every variant whose folds are all trained.
        name: of the blend, and of its folder in the runs folder.
        data: the competition's files; data/<competition> by default.
        runs: where trained variants are.
        jobs: processes, as joblib counts them.
    """
    facts = find_competition(competition)
    training = find_training_set(facts, data or facts.default_data())
    root = runs / facts.name
    if not (root / "folds.csv").exists():
        raise UserError(f"{root / 'folds.csv'} is missing: train variants first (make folds V=...).")
    fold = split.read(root / "folds.csv", training)["fold"].to_numpy()
    wanted = None if members == "all" else [variant.name for variant in parse_variants(members)]
    chosen_members = find_members(root, wanted, int(fold.max()) + 1)
    for member in chosen_members:
        if member.data_digest != training.digest:
            raise UserError(
                f"{member.folder} was trained on other data than {training.data} holds now: put that data back, or "
                "train in another runs folder."
            )
    known = cache.truth(training, root / "cache", jobs=jobs)
    scorer = _Scorer(chosen_members, [m.oof() for m in chosen_members], training.names, known, facts.size)
    singles = scorer.scores([(i,) for i in range(len(chosen_members))], "score members", jobs)
    subset, nested, table = choose(singles, scorer, fold, jobs)

    groups = training.groups()
    names = [member.name for member in chosen_members]
    blend: dict[str, Any] = {
        "name": name,
        "kind": "mean-logits",
        "members": [names[i] for i in subset],
        "weights": [1 / len(subset)] * len(subset),
        "threshold": 0.0,
        "cv": _figures(nested, groups),
        "member_cv": {names[i]: _figures(singles[:, i], groups) for i in range(len(names))},
        "candidates": {"+".join(names[i] for i in s): float(v.mean()) for s, v in table.items()},
        "weights_digests": {m.name: m.weights_digest for m in chosen_members},
        "folds_digest": chosen_members[0].folds_digest,
        "data_digest": training.digest,
        "git_commit": provenance.git_commit(),
        "versions": provenance.versions(),
    }
    scores = pd.DataFrame({"image": training.names, "group": groups, "fold": fold, "blend": table[subset]})
    scores["blend_nested"] = nested
    for i, member_name in enumerate(names):
        scores[member_name] = singles[:, i]
    with atomic.replacing(root / name / SCORES_FILE) as temporary:
        scores.to_csv(temporary, index=False, float_format="%.6f")
    atomic.write_json(root / name / BLEND_FILE, blend)
    for line in table_lines(blend):
        print(line)
    print(f"written: {root / name / BLEND_FILE}")


if __name__ == "__main__":
    tyro.cli(main)
