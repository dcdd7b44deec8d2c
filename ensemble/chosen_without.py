"""A blend as it was chosen without one of the folds, in the words of blend.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensemble.blend_file import PIXELS_VOTE, FittedBlend
from ensemble.selection import VOTING_WAYS
from ensemble.voting import LINEAR


def used_members(fitted: FittedBlend) -> list[str]:
    """The members that a blend has, or had when it was chosen without a fold."""
    names = dict.fromkeys(fitted["members"])
    choices: Mapping[str, Mapping[str, Any]] = fitted.get("chosen_without", {})
    for choice in choices.values():
        names |= dict.fromkeys(name for name, weight in choice.get("weights", {}).items() if weight > 0)
    return list(names)


def chosen_without(fitted: FittedBlend, fold: int) -> dict[str, Any]:
    """The content of a blend.json as if the blend were what was chosen without a fold.

    Boosted pixels are written as they were fitted on all folds alone; so where they are what was chosen, and where
    nothing was chosen without the fold, it is the blend itself.
    """
    own: dict[str, Any] = {**fitted}
    choice: Mapping[str, Any] | None = fitted.get("chosen_without", {}).get(str(fold))
    if choice is None or "weights" not in choice or choice["kind"] == PIXELS_VOTE:
        return own
    weights = {name: weight for name, weight in choice["weights"].items() if weight > 0}
    own.pop("presence", None)
    return {
        **own,
        "kind": choice["kind"],
        "vote": VOTING_WAYS[choice["kind"]][1] if choice["kind"] in VOTING_WAYS else LINEAR.label,
        "members": list(weights),
        "weights": list(weights.values()),
        "threshold": choice["threshold"],
        "postprocess_kept": choice["postprocess_kept"],
        **({"presence": choice["presence"]} if "presence" in choice else {}),
    }
