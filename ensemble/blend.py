"""What predicts: a fitted blend of trained variants, or one variant alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import UserError
from ensemble import conv_stacker
from ensemble.blend_file import read_blend
from ensemble.voting import Combine, combination, weighted_logits
from models.frame import Frame
from predict.members import Member, find_members


@dataclass(frozen=True)
class Mixture:
    """A combination of members: masks are where their combined logits are above `threshold`.

    Attributes:
        weights: of the members, in order.
        repairs: (name, size in pixels) of the postprocessing steps (ensemble/postprocess.py) that the blend has kept.
        vote: how weighted members are combined: "logits" for the weighted mean of their logits, or another vote, or
            the name of a stacker with the digest of what it has learned.
        combine: from the members' logits, their frames, `weights` and a full size to full-size logits.
    """

    members: tuple[Member, ...]
    weights: tuple[float, ...]
    threshold: float
    repairs: tuple[tuple[str, int], ...] = ()
    vote: str = "logits"
    combine: Combine = weighted_logits

    @property
    def image_frame(self) -> Frame | None:
        """The frame in which `combine` needs the image, which is one of the members'; None where it needs none."""
        return conv_stacker.image_frame(self.combine, [member.frame for member in self.members])

    def state(self) -> dict[str, Any]:
        """What tells its masks from another's; JSON-able."""
        state: dict[str, Any] = {
            "weights": {m.name: w for m, w in zip(self.members, self.weights, strict=True)},
            "weights_digests": {m.name: m.weights_digest for m in self.members},
            "threshold": self.threshold,
            "postprocess": [list(repair) for repair in self.repairs],
        }
        # a linear blend is what it always was
        return state if self.vote == "logits" else {**state, "vote": self.vote}


def find_mixture(root: Path, blend: str, variant: str = "") -> Mixture:
    """A fitted blend, or one variant alone.

    Args:
        root: `runs/<competition>`.
        blend: its name.
        variant: a name, to take that variant instead of the blend.

    Raises:
        UserError: neither is there, a fold of a member is missing, or a member was trained again after the fit.
    """
    if variant:
        return Mixture((_members(root, [variant])[0],), (1.0,), 0.0)
    fitted = read_blend(root / blend)
    members = _members(root, fitted["members"])
    for member in members:
        if member.weights_digest != fitted["weights_digests"].get(member.name):
            raise UserError(f"{member.folder} was trained again after the blend was chosen: make fit.")
    repairs = tuple((name, size_px) for name, size_px in fitted.get("postprocess_kept", []))
    combine = find_combination(root / blend, fitted, fitted["members"])
    vote = " ".join(str(fitted[key]) for key in ("vote", "stacker_digest") if key in fitted) or "logits"
    return Mixture(tuple(members), tuple(fitted["weights"]), fitted["threshold"], repairs, vote, combine)


def find_combination(folder: Path, fitted: dict[str, Any], names: Sequence[str]) -> Combine:
    """How a fitted blend combines networks' logits.

    Args:
        folder: of the blend.
        fitted: its blend.json.
        names: the networks whose logits will be given, in order.

    Raises:
        UserError: the files of its stacker are missing or of another fit.
    """
    vote = fitted.get("vote", "logits")
    if vote in conv_stacker.NAMES:
        return conv_stacker.load(folder, names, fitted["stacker_digest"])
    return combination(vote)


def _members(root: Path, names: list[str]) -> list[Member]:
    folds = len(list((root / names[0]).glob("fold*/manifest.json")))
    if not folds:
        known = ", ".join(sorted({p.parent.parent.name for p in root.glob("*/fold*/manifest.json")})) or "none"
        raise UserError(f"{root / names[0]} has no trained fold (trained there: {known}): make folds V={names[0]}.")
    return find_members(root, names, folds)
