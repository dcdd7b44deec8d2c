"""`python -m ensemble.depth`: the weighted mean of networks' nearness, fitted on its own metric, the mean RMSE.

Of each image only the products of the networks' maps with each other and with the truth are kept: the RMSE of any
weighting follows from them exactly, and is convex in the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from scipy.optimize import minimize

import atomic
from command_line import UserError, program
from ensemble.oof_data import OofData, find_oof_data
from folds.depth import nearness
from folds.heads import DEPTH_HEAD
from folds.images import TrainingSet, find_training_set
from predict.members import parse_members
from program_flags import CompetitionName, DataFolder, RunsFolder, places

DEPTH_BLEND_FILE = "depth_blend.json"
# under the root, where its slope would be infinite
_TINY = 1e-12


@dataclass(frozen=True)
class Moments:
    """Of N images and M networks, means over pixels: gram (N, M, M) of products of maps, cross (N, M) of maps with the
    truth, power (N,) of the truth squared; float64."""

    gram: np.ndarray
    cross: np.ndarray
    power: np.ndarray

    @staticmethod
    def of(maps: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> Moments:
        """From each image's maps (M, H, W) and truth (H, W), in 0..1."""
        flat = [each.reshape(len(each), -1).astype(np.float64) for each in maps]
        wanted = [truth.reshape(-1).astype(np.float64) for truth in truths]
        return Moments(
            np.stack([m @ m.T / m.shape[1] for m in flat]),
            np.stack([m @ t / len(t) for m, t in zip(flat, wanted, strict=True)]),
            np.array([t @ t / len(t) for t in wanted]),
        )

    def _squares(self, weights: np.ndarray) -> np.ndarray:
        return self.power - 2 * self.cross @ weights + np.einsum("nij,i,j->n", self.gram, weights, weights)

    def rmse(self, weights: np.ndarray) -> np.ndarray:
        """(N,) RMSE of the weighted mean of the maps."""
        return np.sqrt(np.maximum(self._squares(weights), 0))

    def at(self, images: np.ndarray) -> Moments:
        """Those of some images."""
        return Moments(self.gram[images], self.cross[images], self.power[images])

    def fit(self) -> np.ndarray:
        """(M,) weights of at least 0 that sum to 1, of the least mean RMSE."""
        count = self.cross.shape[1]

        def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
            roots = np.sqrt(np.maximum(self._squares(weights), 0) + _TINY)
            slopes = (self.gram @ weights - self.cross) / roots[:, None]
            return float(roots.mean()), slopes.mean(0)

        found = minimize(
            objective,
            np.full(count, 1 / count),
            jac=True,
            method="SLSQP",
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones_like(w)},
            options={"ftol": 1e-10, "maxiter": 200},
        )
        weights: np.ndarray = np.clip(found.x, 0, None)
        return weights / weights.sum()

    def nested(self, fold: np.ndarray) -> np.ndarray:
        """(N,) RMSE of each image under weights fitted without its fold, (N,)."""
        result = np.empty(len(fold))
        for held_out in np.unique(fold):
            inside = fold == held_out
            result[inside] = self.at(inside).rmse(self.at(~inside).fit())
        return result


def moments_of(oof: OofData, training: TrainingSet) -> Moments:
    """Those of the out-of-fold depth of members, at the full size."""
    maps, truths = [], []
    for position, name in enumerate(oof.images):
        maps.append(
            np.stack([
                nearness(store.head(name, DEPTH_HEAD), frame, oof.full)
                for store, frame in zip(oof.stores, oof.frames, strict=True)
            ])
        )  # fmt: skip
        truths.append(training.near(position) / np.float32(255))
    parts = [Moments.of([m], [t]) for m, t in zip(maps, truths, strict=True)]
    return Moments(*(np.concatenate([getattr(p, key) for p in parts]) for key in ("gram", "cross", "power")))


@program
def main(
    competition: CompetitionName = "composites",
    members: str = "all",
    name: str = "blend",
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Fit the weighted mean of the members' depth; writes depth_blend.json.

    Args:
        members: variants with a depth head, a comma list; all takes every one whose folds are all trained.
        name: of the result's folder in the runs folder.
    """
    facts, data, root = places(competition, data, runs)
    training = find_training_set(facts, data)
    oof = find_oof_data(root, training, parse_members(members, root))
    chosen = [i for i, store in enumerate(oof.stores) if store.has(DEPTH_HEAD)]
    if not chosen:
        raise UserError(f"no member in {root} has depth: train one (make folds C=composites V=compact-96).")
    oof = oof.of(chosen)
    moments = moments_of(oof, training)
    weights, nested = moments.fit(), moments.nested(oof.fold)
    singles = {member: float(moments.rmse(np.eye(len(oof.names))[i]).mean()) for i, member in enumerate(oof.names)}
    result = {
        "members": oof.names,
        "weights": [float(weight) for weight in weights],
        "rmse": float(nested.mean()),
        "member_rmse": singles,
        "equal_mean_rmse": float(moments.rmse(np.full(len(weights), 1 / len(weights))).mean()),
        "data_digest": training.digest,
        "folds_digest": oof.members[0].folds_digest,
    }
    atomic.write_json(root / name / DEPTH_BLEND_FILE, result)
    print(f"depth RMSE, out of fold at {oof.full[0]}x{oof.full[1]}")
    for member, weight in zip(oof.names, weights, strict=True):
        print(f"  {member:24} {singles[member]:.4f}  weight {weight:.3f}")
    print(f"  {'plain mean':24} {result['equal_mean_rmse']:.4f}")
    print(f"  {'weighted, nested':24} {result['rmse']:.4f}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
