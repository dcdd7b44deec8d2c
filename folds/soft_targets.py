"""What a fold learns from a set of pseudo-labels: the rows that it may see, with their soft targets at its size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from command_line import UserError
from competition import Size
from folds.contents import CONTENTS_FILE, changed, read_contents
from folds.extra_rows import ExtraRows, JoinedInputs, PickedInputs
from folds.heads import MASK_HEAD
from folds.images import TrainingSet, image_digest
from folds.inputs import Inputs, checked, folder_name, kept
from folds.pseudo_set import PSEUDO_FILE, LabelStore, PseudoSet
from folds.recipes import Recipe
from models.frame import Frame, frame_of
from models.variant import PRESENCE_HEAD, Variant

_ALL = 255


@dataclass(frozen=True)
class SoftInputs:
    """Images of one maker with its labels, decoded when they are asked for; pickles to workers.

    Attributes:
        folder: of the images.
        names: theirs.
        labels: theirs.
        frame: of the network that learns from them.
        heads: of that network.
        full: (H, W) of the images.
    """

    folder: Path
    names: tuple[str, ...]
    labels: LabelStore
    frame: Frame
    heads: tuple[str, ...]
    full: Size

    @property
    def listed(self) -> SoftInputs:
        """The images, by position."""
        return self

    def image_path(self, name: str) -> Path:
        """Where an image is."""
        return self.folder / name

    def image(self, position: int) -> np.ndarray:
        """(h, w, 3) uint8."""
        return self.frame.load(self.image_path(self.names[position]), self.full)[0]

    def target(self, position: int) -> np.ndarray:
        """(h, w) uint8, or (h, w, K) of several heads: of the mask its probability, of presence whether any pixel is
        more likely foreground than not."""
        soft = self.labels.target(self.names[position], self.frame)
        some = 2 * int(soft.max()) > _ALL
        planes = {MASK_HEAD: soft, PRESENCE_HEAD: np.full_like(soft, _ALL if some else 0)}
        each = [planes[head] for head in self.heads]
        return each[0] if len(each) == 1 else np.stack(each, axis=-1)


def check_student(variant: Variant, recipe: Recipe, training: TrainingSet) -> None:
    """Refuse a network that cannot learn from pseudo-labels.

    Raises:
        UserError: it is fitted, has heads that labels say nothing of, or takes batches of one image.
    """
    if variant.fitted or training.composed:
        raise UserError(f"{variant.name} is not trained on images and masks alone: leave --pseudo out.")
    if stray := [head.name for head in variant.heads if head.name not in (MASK_HEAD, PRESENCE_HEAD)]:
        raise UserError(
            f"{variant.name} has the head {stray[0]!r}, of which pseudo-labels say nothing: leave --pseudo out."
        )
    if recipe.batch < 2:
        raise UserError("a batch of 1 has no place for an image with a pseudo-label: --batch 2 works.")


def _makers_for(labels: PseudoSet, fold: int) -> list[int]:
    """The makers from whose labels a fold may learn: see `folds.pseudo_set`."""
    kind = labels.record["labels"]
    if kind == "own-fold":
        return [fold] if fold in labels.taken else []
    if kind == "out-of-fold":
        return [maker for maker in labels.taken if maker != fold]
    return list(labels.taken)


def _is_left_out(left_out: Collection[str], training: TrainingSet, folder: Path | None) -> Callable[[str], bool]:
    """Whether an image may not be trained on: told by its name, of a folder of others by content too."""
    if folder is None or not left_out:
        return lambda name: name in left_out
    digests = {own for name, own in zip(training.names, training.image_digests, strict=True) if name in left_out}
    return lambda name: name in left_out or image_digest((folder / name).read_bytes()) in digests


def _unchanged(labels: PseudoSet, folder: Path, names: Sequence[str]) -> str:
    """8 hex digits over what images hold.

    Raises:
        UserError: that is not what they held when they were labelled: another image has another mask, and may be one
            that is held out.
    """
    record = labels.folder / CONTENTS_FILE
    contents = read_contents(folder, names, record)
    if stale := changed(record, contents):
        raise UserError(
            f"{folder / stale[0]} is not the image that was labelled ({len(stale)} of {len(names)} images of "
            f"{labels.folder} have changed): put the images back, or remove that folder and choose again (make pseudo)."
        )
    told = "".join(f"{name} {content.digest}\n" for name, content in contents.items())
    return hashlib.blake2b(told.encode(), digest_size=4).hexdigest()


def extra_rows(
    labels: PseudoSet,
    fold: int,
    variant: Variant,
    share: float,
    training: TrainingSet,
    cache: Path,
    left_out: Collection[str] = (),
) -> ExtraRows:
    """What fold `fold` learns from a set, decoded and kept in the cache.

    Args:
        labels: the set.
        fold: that is trained.
        variant: that is trained.
        share: of every batch.
        training: the training images.
        cache: `runs/<competition>/cache`.
        left_out: names of training images that no fold trains on, with these labels as little as with their own.

    Raises:
        UserError: an image cannot be used, or the set has none for this fold.
    """
    facts, source = training.competition, labels.record["source"]
    places = {
        "test": training.data / facts.test_dir,
        "training": training.data / facts.train_dir,
        "folder": Path(labels.record["images"]),
    }
    frame, heads = frame_of(variant), tuple(head.name for head in variant.heads)
    stays_out = _is_left_out(left_out, training, places[source] if source == "folder" else None)
    names: list[str] = []
    parts: list[Inputs] = []
    starts: list[int] = []
    for maker in _makers_for(labels, fold):
        taken = labels.taken[maker]
        same = _unchanged(labels, places[source], taken)
        soft = SoftInputs(places[source], taken, labels.labels(maker), frame, heads, facts.size)
        # a set's digest stands for its labels, the other for its pictures
        name = f"{labels.record['digest']}-{maker}-{same}-{folder_name(frame, facts.size, heads)}"
        folder = cache / training.digest / name
        # kept whole, whatever is left out of it
        own: Inputs = checked(kept(soft, folder))
        used = [position for position, name in enumerate(taken) if not stays_out(name)]
        if used:
            parts.append(own if len(used) == len(taken) else PickedInputs(own, used))
            starts.append(len(names))
            names += [taken[position] for position in used]
    if not names:
        raise UserError(
            f"{labels.folder} has no labels for fold {fold}{' but of images left out' if left_out else ''}: choose the "
            "images again with a lower --least (make pseudo)."
        )
    return ExtraRows(tuple(names), JoinedInputs(parts, starts), share)


def told(labels: PseudoSet, variant: Variant, recipe: Recipe, rows: int) -> dict[str, Any]:
    """What a fold's manifest says of a round of self-training; what its teachers have learned from is among it."""
    record = labels.record
    return {
        "run": variant.name,
        "set": str(labels.folder / PSEUDO_FILE),
        "digest": record["digest"],
        "blend": record["blend"],
        "source": record["source"],
        "labels": record["labels"],
        "teachers": record["teachers"],
        "images": rows,
        "share": recipe.pseudo_share,
        "weight": recipe.pseudo_weight,
    }
