"""What a blend is chosen on: members' out-of-fold logits beside the truth, all of one split of one training set.

Anything else would leak, or compare what cannot be compared, and is refused here before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from command_line import UserError
from competition import Size
from folds import split
from folds.images import TrainingSet
from folds.outputs import refuse_altered_logits
from folds.run_layout import CACHE_DIR, FOLDS_FILE
from folds.store import LogitStore
from folds.truth import Truth, load_truth
from kernels.metrics import DICE, Metric, find_metric
from models.frame import Frame
from models.variant import PRESENCE_HEAD
from predict.members import Member, find_members
from predict.presence import said_by_plane


@dataclass(frozen=True)
class OofData:
    """Everything about N training images that blends of M networks are fitted and scored on; pickles to workers.

    Attributes:
        images: their names.
        truth: their masks, in the same order.
        full: (H, W) of the full frame.
        fold, groups: (N,) the fold each image was held out in, and its group.
        stores, frames: of the networks' out-of-fold logits, in the order of the weights to come.
        members: the trained variants that the networks are of, in the same order; empty where only logits are at hand.
        metric: that masks are scored by.
        empty_masks: whether images without any foreground are ordinary.
    """

    images: Sequence[str]
    truth: Truth
    full: Size
    fold: np.ndarray
    groups: np.ndarray
    stores: Sequence[LogitStore]
    frames: Sequence[Frame]
    members: Sequence[Member] = ()
    metric: Metric = DICE
    empty_masks: bool = False

    @property
    def names(self) -> list[str]:
        """Of the members."""
        return [member.name for member in self.members]

    def planes(self, position: int) -> list[np.ndarray]:
        """The networks' logits of the image at `position`, (h, w) float32 each in its own frame."""
        return [store.head(self.images[position]) for store in self.stores]

    def said(self) -> np.ndarray:
        """(N, M) float64: what each network says of each image as a whole (`predict.presence`); NaN of one without a
        head for that."""
        none = [np.nan] * len(self.images)
        columns = [
            [said_by_plane(store.head(image, PRESENCE_HEAD)) for image in self.images]
            if store.has(PRESENCE_HEAD)
            else none
            for store in self.stores
        ]
        return np.array(columns, np.float64).T

    def of(self, positions: Sequence[int]) -> OofData:
        """That of the networks at these positions alone."""
        stores, frames = [self.stores[i] for i in positions], [self.frames[i] for i in positions]
        members = [self.members[i] for i in positions] if self.members else ()
        return replace(self, stores=stores, frames=frames, members=members)


def find_oof_data(root: Path, training: TrainingSet, wanted: list[str] | None, *, jobs: int = -1) -> OofData:
    """Gather what blends are chosen on.

    Args:
        root: `runs/<competition>`.
        training: the competition's training images.
        wanted: variants; None takes every variant all of whose folds are trained.
        jobs: processes, as joblib counts them.

    Raises:
        UserError: there is no split; a member is not completely trained, or was trained on other folds or data, or
            its store holds other images or lacks some. One sentence, which names the files.
    """
    path = root / FOLDS_FILE
    if not path.exists():
        raise UserError(f"{path} is missing: train variants first (make folds V=...).")
    table = split.read(path, training)
    fold = table["fold"].to_numpy()
    members = find_members(root, wanted, int(fold.max()) + 1)
    digest = split.digest(table)
    for member in members:
        if member.data_digest != training.digest:
            raise UserError(
                f"{member.folder} was trained on other data than {training.data} holds now: put that data back, or "
                "train in another runs folder."
            )
        if member.folds_digest != digest:
            raise UserError(
                f"{member.manifests[0]} names other folds ({member.folds_digest}) than {path} holds ({digest}), so "
                "that its logits would be scored on images they were fitted on: put the split back that it was "
                f"trained with, or train {member.name} again."
            )
    stores = [member.oof() for member in members]
    for store in stores:
        differing = set(store.names) ^ set(training.names)
        if differing:
            raise UserError(
                f"{store.path} holds other images than {training.data} ({len(differing)} differ, {min(differing)} "
                "first): train that variant again."
            )
    names = np.array(training.names)
    for member, store in zip(members, stores, strict=True):
        for k, folder in enumerate(member.folds):
            refuse_altered_logits(store, folder, names[fold == k].tolist())
    truth = load_truth(training, root / CACHE_DIR, jobs=jobs)
    return OofData(
        training.names,
        truth,
        training.competition.size,
        fold,
        training.groups(),
        stores,
        [member.frame for member in members],
        members,
        find_metric(training.competition.metric),
        training.competition.empty_masks,
    )
