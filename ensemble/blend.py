"""A blend: the one value that turns members' logits into logits, a mask, or a row of a submission, at full size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from command_line import UserError
from competition import Order, Size
from ensemble import pixels_file
from ensemble.blend_file import PIXELS_VOTE, blend_folder, read_blend
from ensemble.presence import Gate
from ensemble.repairs import apply_kept
from ensemble.voting import LINEAR, Combination, combination_of
from folds.run_layout import finished_folds, trained_runs
from kernels.rle import encode_logits_text, encode_text
from models.frame import Frame
from models.precision import Precision
from models.runtimes import TORCH
from models.variants import VARIANTS
from path_names import inside
from predict.members import Member, find_members
from predict.presence import Said

Images = Mapping[Frame, np.ndarray]


@dataclass(frozen=True)
class Blend:
    """Members, how they are combined, and what is done with the result. Pickles to workers.

    Attributes:
        members: the trained variants.
        weights: of the members, in order.
        combination: from the members' logits to full-size logits.
        threshold: masks are where the combined logits are above it.
        repairs: (name, size in pixels) of the repairs (ensemble/repairs.py) of the mask, in order.
        frames: that the logits lie in; the members' own by default.
        gate: what empties masks of images in which the networks see nothing; None where nothing does.
        agreement_limit: on pictures that they know, all networks agree at least so far (`predict.agreement`); None
            where nobody has measured it, as of a variant alone.
    """

    members: tuple[Member, ...]
    weights: tuple[float, ...]
    combination: Combination = LINEAR
    threshold: float = 0.0
    repairs: tuple[tuple[str, int], ...] = ()
    frames: tuple[Frame, ...] = ()
    gate: Gate | None = None
    agreement_limit: float | None = None

    def __post_init__(self) -> None:
        if not self.frames:
            object.__setattr__(self, "frames", tuple(member.frame for member in self.members))

    def on(self, runtime: str) -> Blend:
        """The same with its members' networks computed by another runtime (models/runtimes.py)."""
        return replace(self, members=tuple(replace(member, runtime=runtime) for member in self.members))

    def within(self, available: frozenset[Precision]) -> Blend:
        """The same with its members' networks computed by devices that have these precisions; says of which networks
        that is not what they were trained in."""
        members = tuple(replace(member, available=available) for member in self.members)
        for member in members:
            if words := member.other_precision():
                print(f"{member.name} {words}", flush=True)
        return replace(self, members=members)

    def image_frames(self, full: Size) -> tuple[Frame, ...]:
        """The frames in which an image of size `full` (H, W) is needed beside the logits; most blends need none."""
        wanted = self.combination.image_frame([frame.of(full) for frame in self.frames], full)
        return () if wanted is None else (wanted,)

    def combined(self, planes: Sequence[np.ndarray], full: Size, images: Images | None = None) -> np.ndarray:
        """The members' logits as one, before threshold and repairs.

        Args:
            planes: per member (h, w) float32 logits in its frame; not modified.
            full: (H, W) of the full frame.
            images: per frame of `image_frames`, (h, w, 3) uint8 RGB.

        Returns:
            (H, W) float32.

        Raises:
            ValueError: an image is needed and not given.
        """
        image = _image(images, self.combination.image_frame(self.frames, full))
        return self.combination(planes, self.frames, self.weights, full, image)

    def _sees_nothing(self, said: Said) -> bool:
        return self.gate is not None and self.gate.empties(said)

    def logits(
        self, planes: Sequence[np.ndarray], full: Size, images: Images | None = None, said: Said = ()
    ) -> np.ndarray:
        """Full-size logits, (H, W) float32, above 0 exactly where the mask is; arguments as `mask`."""
        logits = self.combined(planes, full, images) - np.float32(self.threshold)
        if self.repairs:
            before = logits > 0
            after = apply_kept(before, self.repairs)
            logits = np.where(after == before, logits, np.where(after, _CERTAIN, -_CERTAIN))
        return np.where(logits > 0, -_CERTAIN, logits) if self._sees_nothing(said) else logits

    def mask(
        self, planes: Sequence[np.ndarray], full: Size, images: Images | None = None, said: Said = ()
    ) -> np.ndarray:
        """The mask, (H, W) bool.

        Args:
            planes, full, images: as `combined`.
            said: per member, what it says of the image as a whole; looked at where the blend has a gate.

        Raises:
            ValueError: an image, or what a member says, is needed and not given.
        """
        if self._sees_nothing(said):
            return np.zeros(full, bool)
        return apply_kept(self.combined(planes, full, images) > self.threshold, self.repairs)

    def row(
        self, planes: Sequence[np.ndarray], full: Size, order: Order, images: Images | None = None, said: Said = ()
    ) -> bytes:
        """The mask's run-length text in pixel order `order`; other arguments as `mask`."""
        if self._sees_nothing(said):
            return b""
        if self.repairs:
            return encode_text(self.mask(planes, full, images, said), order=order)
        return encode_logits_text(self.combined(planes, full, images), threshold=self.threshold, order=order)

    def _names(self, positions: Sequence[int]) -> list[str]:
        return [self.members[m].name for m in positions]

    def state(self) -> dict[str, Any]:
        """What tells its masks from another's; JSON-able."""
        state: dict[str, Any] = {
            "weights": {m.name: w for m, w in zip(self.members, self.weights, strict=True)},
            "threshold": self.threshold,
            "postprocess": [list(repair) for repair in self.repairs],
            "weights_digests": {m.name: m.weights_digest for m in self.members},
        }
        if self.combination.label != LINEAR.label:
            state["vote"] = self.combination.label
        if self.gate is not None:
            state["presence"] = {"threshold": self.gate.threshold, "members": self._names(self.gate.members)}
        others = {m.name: m.precisions() for m in self.members if m.other_precision()}
        if others:
            state["precisions"] = others
        runtimes = {m.name: m.runtime for m in self.members if m.runtime != TORCH}
        if runtimes:
            state["runtimes"] = runtimes
        return state


# the logit of a pixel that a repair has decided: beyond what 8 bits of alpha can show
_CERTAIN = np.float32(16)


def _image(images: Images | None, frame: Frame | None) -> np.ndarray | None:
    if frame is None:
        return None
    if images is None or frame not in images:
        raise ValueError(f"the blend needs the image in {frame}")
    return images[frame]


def find_blend(root: Path, name: str, variant: str = "") -> Blend:
    """A fitted blend, or one variant alone.

    Args:
        root: `runs/<competition>`.
        name: of the blend.
        variant: a name, to take that variant instead of the blend.

    Raises:
        UserError: neither is there, a fold of a member is missing, or a member was trained again after the fit.
    """
    if variant:
        return Blend((_members(root, [variant])[0],), (1.0,))
    folder = blend_folder(root, name)
    fitted = read_blend(folder)
    return blend_of(folder, fitted, _members(root, fitted["members"]))


def blend_of(folder: Path, fitted: Mapping[str, Any], members: Sequence[Member]) -> Blend:
    """The blend that a blend.json describes, over some members.

    Args:
        folder: of the blend.
        fitted: the content of its blend.json.
        members: the networks whose logits it will be given, in order; those of no part in it get weight 0.

    Raises:
        UserError: a member was trained again after the fit, or the files of boosted pixels are missing or of another
            fit.
    """
    for member in members:
        if member.weights_digest != fitted["weights_digests"].get(member.name):
            raise UserError(f"{member.folder} was trained again after the blend was chosen: make fit.")
    weights = dict(zip(fitted["members"], fitted["weights"], strict=True))
    vote = fitted.get("vote", LINEAR.label)
    names = [member.name for member in members]
    gate = None
    if "presence" in fitted:
        asked = fitted["presence"]["members"]
        gate = Gate(fitted["presence"]["threshold"], tuple(names.index(name) for name in asked))
    return Blend(
        tuple(members),
        tuple(weights.get(name, 0.0) for name in names),
        _combination(folder, vote, names, fitted.get("stacker_digest", "")),
        fitted["threshold"],
        tuple((repair, size_px) for repair, size_px in fitted.get("postprocess_kept", [])),
        gate=gate,
        agreement_limit=fitted["agreement"]["limit"] if "agreement" in fitted else None,
    )


def _combination(folder: Path, vote: str, names: Sequence[str], digest: str) -> Combination:
    """What a blend combines logits of these networks by, read from its folder where it has learned something."""
    if vote == PIXELS_VOTE:
        return pixels_file.load(folder, names, digest)
    return combination_of(vote)


def _members(root: Path, names: list[str]) -> list[Member]:
    first = inside(root, names[0], "the variant")
    folds = len(finished_folds(first))
    if not folds:
        known = ", ".join(run.name for run in trained_runs(root)) or "none"
        if names[0] not in VARIANTS:
            raise UserError(f"{first} has no trained fold, and {names[0]!r} is no variant (trained there: {known}).")
        raise UserError(f"{first} has no trained fold (trained there: {known}): make folds V={names[0]}.")
    return find_members(root, names, folds)
