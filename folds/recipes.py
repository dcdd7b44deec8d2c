"""The registry of recipes: how a network is trained. What it is, is a `Variant` (models/variants.py)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from command_line import UserError


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: unique.
        epochs: passes over the training folds, at most.
        batch: images a step.
        loss: name in models/losses.py.
        learning_rate: the highest of the schedule.
        weight_decay: AdamW's decoupled decay.
        schedule: "one-cycle" (up to `learning_rate` in the first `warmup` share of the steps, then down to about 0)
            or "constant".
        warmup: share of the steps, 0..1.
        augment: name in folds/augment.py.
        patience: epochs without a better validation Dice after which training stops; 0 never stops early.
        clip: gradient norm above which gradients are scaled down; 0 never does.
    """

    name: str
    epochs: int
    batch: int
    loss: str = "bce-dice"
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    warmup: float = 0.25
    augment: str = "flip-affine-hsv"
    patience: int = 0
    clip: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping of the fields."""
        return asdict(self)


RECIPES = {
    r.name: r
    for r in (
        # one pass over the masks; nothing below applies to it
        Recipe(name="fitted", epochs=0, batch=1),
        # from scratch on a CPU within a minute a fold
        Recipe(name="demo", epochs=8, batch=8, learning_rate=4e-3, patience=4, augment="flip"),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise UserError(
            f"unknown recipe {name!r}; known: {', '.join(RECIPES)} (add one in folds/recipes.py)."
        ) from None
