"""The registry of recipes: how a network is trained. What it is, is a `Variant` (models/variant.py)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from command_line import UserError
from json_file import Schema, extensible
from kernels.metrics import Metric

Optimiser = Literal["adamw", "rmsprop", "sgd"]
Schedule = Literal["one-cycle", "cosine", "plateau", "step", "constant"]
Precision = Literal["auto", "bf16", "fp16", "float32"]
Monitor = Literal["val_dice", "val_loss"]
Keep = Literal["best", "last"]


@extensible
@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    A field that is added later must default to what was done before it existed: a finished fold's recipe is compared
    with today's.

    Attributes:
        name: unique.
        epochs: passes over the training folds, at most.
        batch: images a forward pass.
        accumulate: batches whose gradients are added up before a step; a step sees batch * accumulate images.
        loss: name in models/losses.py.
        losses: names by head, for heads that are trained by another.
        loss_weights: what a head's loss counts in the sum, by head; 1 unless it is named.
        optimiser: "adamw" (Adam where `weight_decay` is 0), "rmsprop" or "sgd" (momentum 0.9, Nesterov).
        learning_rate: the highest of the schedule.
        weight_decay: decoupled for AdamW, added to the gradient for the others.
        schedule: "one-cycle" (up to `learning_rate` in the first `warmup` share of the steps, then down to about 0);
            "cosine" (linearly up in the first `warmup` share, then along a half cosine to 0); "plateau" (times
            `plateau_factor` after `plateau_patience` epochs in which `monitor` did not get better by more than
            `plateau_threshold`); "step" (times `plateau_factor` after every `step_epochs` epochs); or "constant".
        warmup: share of the steps, 0..1.
        augment: name in folds/augment.py.
        patience: epochs without a better `monitor` after which training stops; 0 never stops early, which `keep` "last"
            demands.
        min_delta: by how much `monitor` must get better to count for `patience`.
        monitor: what `patience` and "plateau" watch: the loss, or the competition's metric ("val_dice", whatever metric
            it is: the name is older than the others).
        keep: the epoch whose weights are kept: "best" is that of the highest score by the competition's
            metric, whatever `monitor` is, so the held-out images had a say in it and their out-of-fold score is a
            little too high; "last" is the last one.
        clip: gradient norm above which gradients are scaled down; 0 never does.
        ema: decay of the exponential moving average of the weights that is validated and kept; 0 keeps the weights
            themselves.
        precision: "auto" is bf16 on a GPU or CPU that computes in it itself, else float32; "bf16" and "fp16" are mixed
            with float32.
        compile: let torch.compile turn the network's training step into machine code. It takes a minute or more for
            each fold, so it pays where training takes hours.
        init_from: the weights that training starts from, as folds/start.py names them; empty starts as the variant
            says. Filled in for each fold, never in the registry.
        step_epochs: of the schedule "step".
        left_out: which images are not trained on although they are scored (folds/leave_out.py); filled in from a list
            of the user's, never in the registry.
        pseudo: digest of the set of pseudo-labels that is trained on beside the training images; empty is none. Filled
            in when a fold is trained, never in the registry.
        pseudo_share: of every batch, 0..0.9, that are images of that set; an epoch stays one pass over the training
            images, and so takes more steps.
        pseudo_weight: what such an image counts in the loss, where a training image counts 1.
        crop: share of height and of width, 0..1, that every training image is cropped to around a point of its mask's
            boundary, rounded up to what the network takes; 0 trains on whole images. Scores are of whole images.
    """

    name: str
    epochs: int
    batch: int
    accumulate: int = 1
    loss: str = "bce-dice"
    optimiser: Optimiser = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    schedule: Schedule = "one-cycle"
    warmup: float = 0.25
    plateau_factor: float = 0.1
    plateau_patience: int = 4
    plateau_threshold: float = 1e-4
    augment: str = "flip-affine-hsv"
    patience: int = 0
    min_delta: float = 0.0
    monitor: Monitor = "val_dice"
    keep: Keep = "best"
    clip: float = 1.0
    ema: float = 0.0
    precision: Precision = "auto"
    compile: bool = False
    init_from: str = ""
    step_epochs: int = 7
    left_out: str = ""
    losses: dict[str, str] = field(default_factory=dict)
    loss_weights: dict[str, float] = field(default_factory=dict)
    pseudo: str = ""
    pseudo_share: float = 0.0
    pseudo_weight: float = 1.0
    crop: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping of the fields."""
        return asdict(self)

    def watched(self, metric: Metric) -> tuple[str, Literal["min", "max"]]:
        """What `monitor` is called in a competition of that metric, and which way it gets better."""
        return ("val_loss", "min") if self.monitor == "val_loss" else (metric.logged, "max")


def _check(value: dict[str, Any]) -> None:
    _FIELDS.of(value)


_HINT = "put a good copy back, or remove the folder that it is in and train the fold again"
_FIELDS = Schema(Recipe, _HINT)
# as it was written: a recipe of another version may have fields that this one's has not
RECIPE = Schema(dict[str, Any], _HINT, _check)

# what the three published systems have in common: nothing is clipped or averaged, plain float32
_PUBLISHED: dict[str, Any] = {"weight_decay": 0.0, "clip": 0.0, "precision": "float32"}
# system A's own settings of its U-Net's schedule; B and C do not say theirs and borrow them
_PLATEAU: dict[str, Any] = {
    "optimiser": "rmsprop",
    "learning_rate": 1e-4,
    "schedule": "plateau",
    "plateau_factor": 0.1,
    "plateau_patience": 4,
    "plateau_threshold": 1e-4,
    "patience": 8,
    "min_delta": 1e-4,
    "monitor": "val_loss",
}
# a GPU's worth: a network from ImageNet weights, warmed up, averaged, bf16 where the GPU has it
_STRONG: dict[str, Any] = {
    "learning_rate": 5e-4,
    "schedule": "cosine",
    "warmup": 0.05,
    "ema": 0.999,
    "patience": 10,
}
# networks that have learned before, from images of any hue
_HUES: dict[str, Any] = {"warmup": 0.1, "augment": "flip-hsv"}
# composites are drawn anew for every epoch, so little else is needed against overfitting
_COMPOSITES: dict[str, Any] = {"batch": 16, "learning_rate": 4e-3, "augment": "flip", "keep": "last"}

# thousands of small images and minutes on a core; the last epoch's weights owe nothing to the held-out images
_SMALL: dict[str, Any] = {
    "epochs": 12,
    "batch": 16,
    "learning_rate": 2e-3,
    "warmup": 0.2,
    "augment": "flip-affine-light",
    "keep": "last",
}

RECIPES = {
    r.name: r
    for r in (
        # one pass over the masks; nothing below applies to it
        Recipe(name="fitted", epochs=0, batch=1),
        # from scratch on a CPU within a minute a fold
        Recipe(name="demo", epochs=8, batch=8, learning_rate=4e-3, patience=4, augment="flip"),
        # from scratch on a CPU, for thousands of images: within an hour on one core
        Recipe(name="cpu-hour", epochs=32, batch=16, learning_rate=4e-3, augment="flip"),
        # goes on, on a CPU, from another run's weights (--init-from) at a higher resolution
        Recipe(name="cpu-higher", epochs=6, batch=8, learning_rate=2e-3, warmup=0.1, augment="flip"),
        # the same, with hues turned as far as they go: most cars are grey, and the few that are not come in any colour
        Recipe(name="cpu-higher-hsv", epochs=6, batch=8, learning_rate=2e-3, **_HUES),
        # from ImageNet weights on a CPU, for thousands of images: within an hour on one core
        Recipe(name="cpu-imagenet", epochs=3, batch=4, learning_rate=1.5e-3, **_HUES),
        # then, from those weights (--init-from), an epoch on all pixels
        Recipe(name="cpu-full", epochs=1, batch=4, learning_rate=8e-4, **_HUES),
        # from scratch on a CPU, for thousands of small images: within five minutes a fold on one core
        Recipe(name="small", **_SMALL),
        Recipe(name="small-lovasz", **(_SMALL | {"loss": "bce-lovasz"})),
        # system A: Adam, no augmentation
        Recipe(
            name="a-cnn", epochs=20, batch=16, learning_rate=1e-3, schedule="constant", augment="none", **_PUBLISHED
        ),
        Recipe(name="a-unet", epochs=50, batch=16, augment="hsv-shift-scale-rotate-flip", **_PLATEAU, **_PUBLISHED),
        Recipe(name="b-unet", epochs=50, batch=4, augment="scale-shear-rotate-shift-flip", **_PLATEAU, **_PUBLISHED),
        Recipe(name="c-unet", epochs=50, batch=16, augment="flip-rotate", **_PLATEAU, **_PUBLISHED),
        # system D: SGD from 0.01 in steps, whose length the document does not say
        Recipe(
            name="d-resunet",
            epochs=20,
            batch=32,
            loss="bce",
            losses={"depth": "ssim"},
            optimiser="sgd",
            learning_rate=1e-2,
            schedule="step",
            augment="cutout",
            **_PUBLISHED,
        ),
        # system E: Adam until the loss rests; its author came back to SSIM
        Recipe(
            name="e-unet",
            epochs=20,
            batch=16,
            losses={"depth": "ssim"},
            augment="none",
            **(_PLATEAU | {"optimiser": "adamw", "plateau_patience": 3, "patience": 0, "learning_rate": 1e-3}),
            **_PUBLISHED,
        ),
        # masks and depth of composites on a CPU; the last epoch is kept, as the best would be the best of the masks
        Recipe(name="composites", epochs=10, losses={"depth": "bce-ssim"}, **_COMPOSITES),
        # masks alone, where nobody knows the depth
        Recipe(name="composites-mask", epochs=10, **_COMPOSITES),
        Recipe(name="strong", epochs=50, batch=16, **_STRONG),
        Recipe(name="strong-large", epochs=40, batch=4, accumulate=4, **_STRONG),
        # from scratch and without batch norm: a longer warm-up, smaller steps
        Recipe(name="dilated", epochs=60, batch=2, accumulate=4, **(_STRONG | {"learning_rate": 2e-4, "warmup": 0.1})),
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
