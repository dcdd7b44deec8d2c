"""What a finished fold has written, by digest: whether all of it is still there, and what of it is to be made again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import UserError
from folds.run_layout import RECIPE_FILE, SEEN_FILE, VARIANT_FILE, WEIGHTS_FILE, fold_number
from folds.seen import Seen
from folds.store import LogitStore
from folds.task import FoldTask, read_manifest, read_recipe
from models import checkpoint

# of a manifest; those of before lack them
WEIGHTS_DIGEST = "weights_digest"
LOGITS_DIGEST = "logits_digest"


def digest(weights: bytes) -> str:
    """16 hex digits of a weights file's content."""
    return hashlib.blake2b(weights, digest_size=8).hexdigest()


def fault_of_weights(folder: Path, manifest: Mapping[str, Any], weights: bytes | None = None) -> str:
    """What is wrong with a finished fold's weights file, in a word or two; empty if nothing is.

    Args:
        folder: of the fold.
        manifest: its manifest.
        weights: the file's content, if it was read already.
    """
    try:
        content = (folder / WEIGHTS_FILE).read_bytes() if weights is None else weights
    except FileNotFoundError:
        return "missing"
    known = manifest.get(WEIGHTS_DIGEST)
    if known is not None:
        return "" if digest(content) == known else "damaged or altered"
    try:
        checkpoint.parse_weights(content, folder)
    except UserError:
        return "damaged"
    return ""


def names_held_out(task: FoldTask) -> list[str]:
    """Names of the images that a fold holds out, in its order."""
    return [task.training.names[position] for position in task.held_out]


def digests(task: FoldTask) -> dict[str, str]:
    """What the manifest of a fold says of its outputs, as they lie on disk."""
    return {
        WEIGHTS_DIGEST: digest((task.folder / WEIGHTS_FILE).read_bytes()),
        LOGITS_DIGEST: LogitStore.open(task.store).digest(names_held_out(task)),
    }


def refuse_altered_logits(store: LogitStore, folder: Path, names: Sequence[str]) -> None:
    """Refuse out-of-fold logits that are not those that a finished fold has written; each one's own checksum is looked
    at when it is read.

    Args:
        store: of the variant.
        folder: of the fold.
        names: of the images that it held out, in the split's order.

    Raises:
        UserError: they are not.
    """
    known = (read_manifest(folder) or {}).get(LOGITS_DIGEST)
    if known is not None and store.digest(names) != known:
        raise UserError(
            f"{store.path} does not hold the logits that {folder} has written: make fold V={folder.parent.name} "
            f"F={fold_number(folder)} makes them again, and nothing else."
        )


@dataclass(frozen=True)
class Damage:
    """What of a finished fold is not as it was written.

    Attributes:
        weights: what is wrong with the weights, in a word or two; empty if nothing is.
        logits: names of held-out images whose out-of-fold logits are missing, damaged or altered.
        records: names of small files that are.
    """

    weights: str = ""
    logits: tuple[str, ...] = ()
    records: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.weights or self.logits or self.records)

    def sentence(self, task: FoldTask) -> str:
        """What is damaged, and what will be done."""
        if self.weights:
            return f"{task.label}: {WEIGHTS_FILE} is {self.weights}, the fold is trained again"
        if self.logits:
            return (
                f"{task.label}: the out-of-fold logits of {len(self.logits)} images are missing, damaged or altered "
                f"({self.logits[0]} first), they are made again"
            )
        return f"{task.label}: {', '.join(self.records)} missing or altered, written again"


def _altered_records(task: FoldTask, manifest: Mapping[str, Any]) -> list[str]:
    altered = []
    try:
        if checkpoint.load_variant(task.folder).to_json() != task.variant.to_json():
            altered.append(VARIANT_FILE)
    except UserError:
        altered.append(VARIANT_FILE)
    try:
        if read_recipe(task.folder) != task.recipe.to_json():
            altered.append(RECIPE_FILE)
    except UserError:
        altered.append(RECIPE_FILE)
    # folds of before have no record; what a start had seen may not be known any more
    if WEIGHTS_DIGEST in manifest and (task.start is None or task.start_seen is not None):
        own = Seen.of(task.training, task.train)
        try:
            found = Seen.read(task.folder)
        except UserError:
            found = None
        if found != (own if task.start_seen is None else own | task.start_seen):
            altered.append(SEEN_FILE)
    return altered


def find_damage(task: FoldTask, manifest: Mapping[str, Any]) -> Damage:
    """What of a finished fold is not as it was written; logits whose checksum is wrong are removed.

    Args:
        task: the fold.
        manifest: its manifest.
    """
    weights = fault_of_weights(task.folder, manifest)
    if weights:
        return Damage(weights)
    store, names = LogitStore.open(task.store), names_held_out(task)
    store.verify(names)
    lost = store.missing_of(names)
    if not lost and store.digest(names) != manifest.get(LOGITS_DIGEST, store.digest(names)):
        # whole, but of another network: which of them, the checksums do not tell
        lost = names
    return Damage("", tuple(lost), tuple(_altered_records(task, manifest)))
