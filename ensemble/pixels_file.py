"""Boosted pixels on disk: trees as safetensors, and beside them as JSON what they are of. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import Field
from typing_extensions import TypedDict

import atomic
from command_line import UserError
from competition import Size
from ensemble.blend_file import PIXELS_FILE, TREES_FILE
from ensemble.pixels import NAME, BoostedPixels, names_of_features
from ensemble.trees import Trees
from json_file import Digest, FolderName, Schema, Share, extensible
from models.frame import Frame

_CURE = "choose the blend again (make fit)"
_Side = Annotated[int, Field(ge=1)]


@extensible
class _Saved(TypedDict):
    """The content of pixels.json."""

    members: Annotated[list[FolderName], Field(min_length=1)]
    weights: list[Share]
    width: Annotated[float, Field(gt=0)]
    trained_on: tuple[_Side, _Side]
    features: list[str]
    digest: Digest


def _check(saved: _Saved) -> None:
    if len(saved["weights"]) != len(saved["members"]):
        raise ValueError("weights has another number of entries than members")
    if saved["features"] != names_of_features(len(saved["members"])):
        raise ValueError("features are other than this version computes")


_SAVED = Schema(_Saved, _CURE, _check)


def save(folder: Path, pixels: BoostedPixels, members: Sequence[str]) -> None:
    """Write boosted pixels of these members, in the order of their weights, into the folder of a blend."""
    with atomic.replacing(folder / TREES_FILE) as temporary:
        safetensors.numpy.save_file(pixels.trees.arrays(), temporary)
    saved = {
        "members": list(members),
        "weights": list(pixels.weights),
        "width": pixels.width,
        "trained_on": list(pixels.trained_on),
        "features": names_of_features(len(members)),
        "digest": pixels.digest(),
    }
    atomic.write_json(folder / PIXELS_FILE, saved)


@dataclass(frozen=True)
class _OfNetworks:
    """Boosted pixels for logits that come in another order, or with others among them."""

    pixels: BoostedPixels
    positions: tuple[int, ...]

    @property
    def label(self) -> str:
        return self.pixels.label

    def image_frame(self, frames: Sequence[Frame], full: Size) -> Frame:
        return self.pixels.image_frame([frames[i] for i in self.positions], full)

    def __call__(
        self,
        planes: Sequence[np.ndarray],
        frames: Sequence[Frame],
        weights: Sequence[float],
        full: Size,
        image: np.ndarray | None = None,
    ) -> np.ndarray:
        own, their_frames = [planes[i] for i in self.positions], [frames[i] for i in self.positions]
        return self.pixels(own, their_frames, [], full, image)


def load(folder: Path, names: Sequence[str], digest: str) -> _OfNetworks:
    """The boosted pixels of a blend.

    Args:
        folder: of the blend.
        names: the networks whose logits they will be given, in order.
        digest: what the blend says they are.

    Returns:
        A combination (`ensemble.voting.Combination`) of those networks' logits.

    Raises:
        UserError: a file is missing or damaged, of another fit than the blend, of features that this version does not
            compute, or `names` lacks a member.
    """
    try:
        saved = _SAVED.read(folder / PIXELS_FILE)
        trees = Trees.from_arrays(safetensors.numpy.load_file(folder / TREES_FILE))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or folder / TREES_FILE} is missing: {_CURE}.") from None
    except (ValueError, safetensors.SafetensorError):
        raise UserError(f"{folder / TREES_FILE} is damaged: {_CURE}.") from None
    members = saved["members"]
    height, width = saved["trained_on"]
    pixels = BoostedPixels(trees, tuple(saved["weights"]), saved["width"], (height, width))
    if trees.features != len(saved["features"]) or pixels.digest() != digest:
        raise UserError(f"{folder / TREES_FILE} is not of the fit that wrote the blend: {_CURE}.")
    lacking = [member for member in members if member not in names]
    if lacking:
        raise UserError(f"the {NAME} in {folder} need {lacking[0]}, which is not among the networks: {_CURE}.")
    return _OfNetworks(pixels, tuple(names.index(member) for member in members))
