"""A boundary refiner on disk, `<blend>/refiner/`: what it is, which logits it learned from, what it gains."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from command_line import UserError
from ensemble.blend_file import (
    REFINER_DIR,
    REFINER_FILE,
    Figures,
    FittedBlend,
    FittedPresence,
    RefinerFit,
    read_blend,
    scored,
)
from ensemble.boundary import NAME, Boundary, BoundaryRefiner, check_boundary
from folds.outputs import digest
from folds.run_layout import WEIGHTS_FILE, fold_folder
from json_file import Count, Digest, Interval, Schema, extensible
from models import checkpoint
from models.build import build
from models.precision import Precision

_CURE = "make refine"


@extensible
class RefinerRecord(TypedDict):
    """The content of refiner.json; FORMATS.md tells what each field means."""

    name: str
    boundary: Boundary
    coarse_digest: Digest
    applied_to: NotRequired[Digest]
    weights_digests: Annotated[list[Digest], Field(min_length=1)]
    precisions: NotRequired[list[Precision]]
    digest: Digest
    postprocess_kept: list[tuple[str, Count]]
    presence: FittedPresence | None
    before: Annotated[Figures, AfterValidator(scored)]
    after: Annotated[Figures, AfterValidator(scored)]
    gain: float
    interval: Interval
    kept: bool


def _check(record: RefinerRecord) -> None:
    check_boundary(record["boundary"])
    folds = len(record["weights_digests"])
    if len(record.get("precisions", record["weights_digests"])) != folds:
        raise ValueError(f"precisions has {len(record['precisions'])} entries, expected one for each of {folds} folds")


REFINER = Schema(RefinerRecord, f"train the refiner again ({_CURE})", _check)


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


def _as_read(content: Mapping[str, Any]) -> dict[str, Any]:
    """A file's content as it is after it was written and read: numbers as keys are text then, tuples are lists."""
    read: dict[str, Any] = json.loads(json.dumps(content))
    return read


def coarse_digest(fitted: Mapping[str, Any]) -> str:
    """Identifies the logits that a refiner of a blend learns from: those of the blend as it was chosen, and as it was
    chosen without each fold. Repairs of the mask, which come after a refiner, have no part in it.

    Args:
        fitted: the content of blend.json.
    """
    fitted = _as_read(fitted)
    choices = [fitted, *(each for _, each in sorted(fitted.get("chosen_without", {}).items()))]
    keys = ("kind", "vote", "members", "weights", "threshold", "stacker_digest")
    told = [{key: choice[key] for key in keys if key in choice} for choice in choices]
    return _digest([told, fitted["weights_digests"], fitted["data_digest"], fitted["folds_digest"]])


def digest_of(boundary: Boundary, weights: Sequence[str]) -> str:
    """Identifies a refiner, from what it is and the digests of its folds' weights."""
    return _digest([asdict(boundary), list(weights)])


def after_refiner(fitted: Mapping[str, Any]) -> dict[str, Any]:
    """What of a blend comes after a refiner, as refiner.json keeps it: what it gains is measured with that."""
    return _as_read({"postprocess_kept": fitted.get("postprocess_kept", []), "presence": fitted.get("presence")})


def stored_anew(record: RefinerRecord, weights: Sequence[str], fitted: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a refiner whose weights, and those of the blend, are stored in another precision than it was
    measured with: what it learned from and what it gained stay as they were.

    Args:
        record: before.
        weights: digests of its folds' weights as they are stored now.
        fitted: the content of blend.json over the members' weights as they are stored now.
    """
    changed = {"weights_digests": list(weights), "digest": digest_of(record["boundary"], weights)}
    return {**record, **changed, "boundary": asdict(record["boundary"]), "applied_to": coarse_digest(fitted)}


def fit_of(record: RefinerRecord) -> RefinerFit:
    """What blend.json says of it."""
    return {
        "name": record["name"],
        "nested_gain": record["gain"],
        "interval": record["interval"],
        "kept": record["kept"],
        "after": record["after"],
    }


def entries_of(folder: Path, fitted: Mapping[str, Any]) -> dict[str, Any]:
    """What a blend.json says of the refiner beside it: that it was measured and, where it is kept, that it is used.

    Args:
        folder: of the blend.
        fitted: the content of its blend.json, with or without these entries.

    Returns:
        `refiner_fit`, and `refiners` where it is kept; nothing where there is no refiner, or one of another blend.

    Raises:
        UserError: refiner.json is damaged.
    """
    record = REFINER.read_if_there(folder / REFINER_DIR / REFINER_FILE)
    if record is None or record["coarse_digest"] != coarse_digest(fitted):
        return {}
    if after_refiner(record) != after_refiner(fitted):
        return {}
    used = {"refiners": [{"name": NAME, "digest": record["digest"]}]} if record["kept"] else {}
    return _as_read({**used, "refiner_fit": fit_of(record)})


def _weights(folder: Path, known: str, boundary: Boundary) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: put it back, or train the refiner again ({_CURE}).") from None
    if digest(content) != known:
        raise UserError(f"{path} is damaged, or not of the refiner that was measured: {_CURE}.")
    state = checkpoint.parse_weights(content, folder)
    try:
        build(boundary.variant(), pretrained=False).load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{path} cannot be loaded ({str(error).splitlines()[0]}): {_CURE}.") from None
    return state


def load(folder: Path, entry: Mapping[str, Any]) -> BoundaryRefiner:
    """The refiner of a blend.

    Args:
        folder: of the blend.
        entry: of `refiners` in its blend.json.

    Raises:
        UserError: a file is missing or damaged, or the refiner learned from other logits than the blend's.
    """
    path = folder / REFINER_DIR / REFINER_FILE
    try:
        record = REFINER.read(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: put it back, or train the refiner again ({_CURE}).") from None
    fitted: FittedBlend = read_blend(folder)
    if record.get("applied_to", record["coarse_digest"]) != coarse_digest(fitted):
        raise UserError(f"the refiner in {path.parent} learned from other logits than the blend's are now: {_CURE}.")
    boundary, known = record["boundary"], record["weights_digests"]
    if entry.get("digest") != record["digest"] or record["digest"] != digest_of(boundary, known):
        raise UserError(f"{path} is not of the refiner that the blend was measured with: {_CURE}.")
    states = [_weights(fold_folder(path.parent, fold), each, boundary) for fold, each in enumerate(known)]
    return BoundaryRefiner(boundary, states, record["digest"], record.get("precisions", []))
