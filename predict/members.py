"""What an ensemble is made of: trained variants in a runs folder, their folds and their out-of-fold logits."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import UserError
from competition import COMPETITIONS
from folds.outputs import fault_of_weights
from folds.run_layout import (
    MANIFEST_FILE,
    OOF_STORE,
    TEST_STORE,
    begun_folds,
    fold_folder,
    is_finished,
    trained_runs,
)
from folds.store import DamagedStoreError, LogitStore
from folds.task import check_frame, read_manifest
from folds.verdict import why_left_out
from models import checkpoint
from models.frame import Frame, frame_of
from models.precision import FLOAT32, Precision, for_prediction, native
from models.runtimes import FLOAT32 as FLOAT32_RUNTIME
from models.runtimes import TORCH
from models.variant import IMPORTED, Variant
from models.variants import VARIANTS
from path_names import inside
from remedies import is_shipped, made_again_by


@dataclass(frozen=True)
class Member:
    """A variant all of whose folds are trained.

    Attributes:
        folder: `runs/<competition>/<variant>`.
        variant: what the network is.
        folds: folders of its folds, in order.
        folds_digest, data_digest: which image was in which fold, and of which data.
        weights_digest: identifies the folds' weights.
        runtime: what computes the networks; a key of `models.runtimes.RUNTIMES`.
        trained_in: of each fold's folder, by name, the precision that its network was trained in.
        available: the precisions that the devices which compute the networks have; None where the one that does is
            asked itself.
    """

    folder: Path
    variant: Variant
    folds: tuple[Path, ...]
    folds_digest: str
    data_digest: str
    weights_digest: str
    runtime: str = TORCH
    trained_in: tuple[tuple[str, Precision], ...] = ()
    available: frozenset[Precision] | None = None

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.variant.name

    @property
    def imported(self) -> bool:
        """Whether it is predictions made elsewhere, without a network."""
        return self.variant.network == IMPORTED

    def precision_of(self, fold: Path, available: Collection[Precision] = (FLOAT32,)) -> Precision:
        """What a fold's network predicts in.

        Args:
            fold: its folder.
            available: the precisions of the device that computes it, where `self.available` does not say.
        """
        if self.runtime == FLOAT32_RUNTIME:
            return FLOAT32
        has = available if self.available is None else self.available
        return for_prediction(dict(self.trained_in).get(fold.name, FLOAT32), has)

    def precisions(self) -> list[Precision]:
        """What its networks predict in, by fold: on the devices that have what is `available`, or here; none where
        there are no networks to compute."""
        here = native()
        return [] if self.imported or self.variant.fitted else [self.precision_of(fold, here) for fold in self.folds]

    def other_precision(self) -> str:
        """Of networks that cannot predict in the precision that they were trained in, both, as the end of
        "<network> ..."; empty where all can."""
        trained = dict(self.trained_in)
        pairs = [
            (trained.get(fold.name, FLOAT32), now) for fold, now in zip(self.folds, self.precisions(), strict=False)
        ]
        others = [(was, now) for was, now in pairs if was != now]
        if not others or self.runtime == FLOAT32_RUNTIME:
            return ""
        was, now = others[0]
        return f"was trained in {was}, which the devices here do not compute in themselves: it predicts in {now}"

    def require_network(self) -> None:
        """Raise UserError where there is no network to predict with."""
        if self.imported:
            raise UserError(
                f"{self.name} was imported, so its network is not here to predict with: leave it out, or use the "
                "imported logits of the test set (no --stream)."
            )

    def begun_runtime(self) -> str:
        """What the test set's logits that are there were computed by; empty where none are, or none that are known, or
        they were imported."""
        path = self.folder / TEST_STORE
        if self.imported or not path.exists():
            return ""
        try:
            return str(LogitStore.open(path).attributes.get("runtime", TORCH))
        except DamagedStoreError:
            # it is made anew where it is written
            return ""

    def begun_precisions(self, path: Path) -> list[Precision]:
        """What the logits in a store of this member were predicted in, by fold; empty where there are none, or none
        that are known."""
        if not path.exists():
            return []
        try:
            attributes = LogitStore.open(path).attributes
        except DamagedStoreError:
            # it is made anew where it is written
            return []
        return list(attributes.get("precision", [])) if attributes.get("runtime", TORCH) == self.runtime else []

    def is_predicted(self) -> bool:
        """Whether the test set's logits are there, of all images that its store is for."""
        path = self.folder / TEST_STORE
        return path.exists() and not LogitStore.open(path).missing()

    def imported_digest(self) -> str:
        """Identifies the test set's predictions that were imported with it; empty where none were, or it is trained."""
        if not self.imported or not (self.folder / TEST_STORE).exists():
            return ""
        return str(self._imported_store().attributes.get("imported", ""))

    def _imported_store(self) -> LogitStore:
        again = f"import the test set's predictions (make import-member NAME={self.name} TEST=FOLDER)"
        try:
            return LogitStore.open(self.folder / TEST_STORE)
        except DamagedStoreError as error:
            raise UserError(f"{str(error).partition(': ')[0]}: {again}.") from None

    def imported_logits(self, names: Sequence[str]) -> LogitStore:
        """The logits of test images that were imported with it.

        Raises:
            UserError: some images' were not.
        """
        again = f"import the test set's predictions (make import-member NAME={self.name} TEST=FOLDER)"
        if not (self.folder / TEST_STORE).exists():
            raise UserError(f"{self.name} was imported without predictions of these images: {again}.")
        store = self._imported_store()
        lacking = sorted(set(names) - (set(store.names) - set(store.missing())))
        if lacking:
            raise UserError(f"{store.path} lacks {len(lacking)} of the images ({lacking[0]} first): {again}.")
        return store

    @property
    def manifests(self) -> list[Path]:
        """The files that say what its folds were trained on."""
        return [fold / MANIFEST_FILE for fold in self.folds]

    @property
    def frame(self) -> Frame:
        """The variant's frame."""
        return frame_of(self.variant)

    def oof(self) -> LogitStore:
        """Its out-of-fold logits.

        Raises:
            UserError: the store is missing, or lacks an image.
        """
        store = LogitStore.open(self.folder / OOF_STORE)
        missing = store.missing()
        if missing:
            raise UserError(
                f"{store.path} lacks the logits of {len(missing)} images ({missing[0]} first): train the remaining "
                f"folds (make folds V={self.name})."
            )
        return store


def _member(folder: Path, fold_count: int) -> Member:
    folds = tuple(fold_folder(folder, k) for k in range(fold_count))
    manifests: list[dict[str, Any]] = []
    digest = hashlib.blake2b(digest_size=8)
    for k, fold in enumerate(folds):
        manifest = read_manifest(fold)
        if manifest is None:
            what = f"get the folder {folder.parent} again" if is_shipped(folder) else f"make fold V={folder.name} F={k}"
            raise UserError(f"{fold} is not trained: {what}.")
        manifests.append(manifest)
        if manifest["fold"] != k:
            raise UserError(
                f"{fold} holds fold {manifest['fold']} of its training: put each fold's folder back where it was, or "
                f"remove it and train it again (make fold V={folder.name} F={k})."
            )
        if manifest["variant"] != manifests[0]["variant"]:
            raise UserError(
                f"{fold} is of another network than {folds[0]}: remove it and train it again (make fold "
                f"V={folder.name} F={k})."
            )
        if "imported" in manifest:
            digest.update(manifest["imported"]["digest"].encode())
            continue
        path = fold / checkpoint.WEIGHTS_FILE
        weights = path.read_bytes() if path.exists() else None
        fault = fault_of_weights(fold, manifest, weights)
        if fault or weights is None:
            raise UserError(f"{path} is {fault}: {made_again_by(fold)}.")
        digest.update(weights)
    for key, what in (("folds_digest", "folds"), ("data_digest", "data")):
        if len({m[key] for m in manifests}) > 1:
            raise UserError(
                f"the folds of {folder} were trained on different {what}: remove the folder and train them again."
            )
    first = manifests[0]
    variant = Variant.from_json(first["variant"])
    competition = COMPETITIONS.get(folder.parent.name)
    if competition is not None:
        for fold, manifest in zip(folds, manifests, strict=True):
            check_frame(manifest, fold, variant, competition.size)
    return Member(
        folder=folder,
        variant=variant,
        folds=folds,
        folds_digest=first["folds_digest"],
        data_digest=first["data_digest"],
        weights_digest=digest.hexdigest(),
        trained_in=tuple((f.name, m["precision"]) for f, m in zip(folds, manifests, strict=True) if "precision" in m),
    )


def parse_members(text: str, root: Path) -> list[str] | None:
    """Members as `V=` takes them: `all`, which is None, or a comma list of folders in `root`, tagged ones among them.

    Raises:
        UserError: a name is of no folder and no variant, or is listed twice, or there is none.
    """
    if text == "all":
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in VARIANTS and not begun_folds(inside(root, name, "V"))]
    if unknown or not names:
        trained = ", ".join(run.name for run in trained_runs(root))
        what = f"unknown member {unknown[0]!r}" if unknown else "no member given"
        raise UserError(f"{what}; trained in {root}: {trained or 'none'} (make folds V=... trains one).")
    if len(set(names)) != len(names):
        raise UserError(f"a member is listed twice in {text!r}: name each once.")
    return names


def _may_be_member(run: Path, fold_count: int) -> bool:
    return all(is_finished(fold_folder(run, k)) for k in range(fold_count)) and not why_left_out(run)


def find_members(root: Path, names: list[str] | None, fold_count: int) -> list[Member]:
    """The members of an ensemble.

    Args:
        root: `runs/<competition>`.
        names: variants wanted; None takes every variant all of whose folds are trained, but no round of self-training
            that was not found to gain.
        fold_count: number of folds of the split.

    Raises:
        UserError: a wanted variant is not completely trained, none is, or members were trained on different folds
            or data (blending them would leak).
    """
    trained = trained_runs(root)
    if names is None:
        complete = [run for run in trained if _may_be_member(run, fold_count)]
        members = [_member(folder, fold_count) for folder in complete]
    else:
        for name in names:
            if inside(root, name, "a member") not in trained:
                known = ", ".join(run.name for run in trained) or "none"
                raise UserError(
                    f"no fold of {name!r} is trained in {root} (trained there: {known}): make folds V={name}."
                )
        members = [_member(root / name, fold_count) for name in names]
    if not members:
        raise UserError(f"no variant in {root} has all its {fold_count} folds trained: make folds V=... first.")
    first = members[0]
    for key, what in (("folds_digest", "folds"), ("data_digest", "data")):
        for member in members[1:]:
            theirs, own = getattr(first, key), getattr(member, key)
            if own != theirs:
                raise UserError(
                    f"{member.manifests[0]} names other {what} ({own}) than {first.manifests[0]} ({theirs}), so their "
                    "out-of-fold logits cannot be combined without a leak: train one of them again, or restrict the "
                    "members (V=...)."
                )
    return members
