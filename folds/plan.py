"""What shall be trained and how, and what of it cannot work: refused before any image is read."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from command_line import UserError
from competition import Competition
from folds.augment import find_augmentation
from folds.heads import MASK_HEAD, check_heads
from folds.recipes import Keep, Monitor, Optimiser, Precision, Recipe, Schedule, find_recipe
from models.build import at_size_of, check_size
from models.losses import find_loss
from models.variant import PRESENCE_HEAD, Variant
from models.variants import VARIANTS, parse_variants

# a training from scratch of fewer steps shows nothing: batch norm's statistics alone lag behind by tens of them
_FEW_STEPS = 50
# field: the least and the highest value that works, both included
_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000),
    "batch": (1, 100_000),
    "accumulate": (1, 100_000),
    "warmup": (0, 1),
    "plateau_patience": (0, 100_000),
    "patience": (0, 100_000),
    "step_epochs": (1, 100_000),
    "ema": (0, 0.999999),
    "weight_decay": (0, 10),
    "clip": (0, 1e9),
    "min_delta": (0, 1),
    "pseudo_share": (0, 0.9),
    "pseudo_weight": (0.001, 1000),
    "crop": (0, 1),
}
_WORDS: dict[str, Any] = {
    "optimiser": Optimiser,
    "schedule": Schedule,
    "precision": Precision,
    "monitor": Monitor,
    "keep": Keep,
}


def plan_of(variant: Variant, recipe: str, changes: dict[str, Any]) -> Recipe:
    """The variant's recipe, or the one named `recipe` unless that is "", with `changes` of its fields.

    A fitted variant keeps its own, unchanged. With `keep` "last" among the changes training no longer stops early.

    Raises:
        UserError: no recipe has that name.
    """
    found = find_recipe(recipe or variant.recipe)
    if changes.get("keep") == "last":
        # a schedule that was cut off has not come down: its last epoch is any epoch
        changes = {**changes, "patience": 0}
    return find_recipe(variant.recipe) if variant.fitted else replace(found, **changes)


def with_weights(variant: Variant, weights: Literal["", "imagenet", "none"]) -> Variant:
    """The variant with other starting weights of its encoder; "" leaves it alone.

    Raises:
        UserError: ImageNet weights are asked for a network that has no encoder.
    """
    if weights == "imagenet" and variant.network != "smp":
        raise UserError(f"{variant.name} has no encoder that ImageNet weights exist for: leave --weights out.")
    return replace(variant, weights=weights) if weights else variant


def variants_for(text: str, competition: Competition) -> list[Variant]:
    """The variants that `V=` names, at the size of the competition's frames; `all` are those that its data suit.

    Raises:
        UserError: as `parse_variants`.
    """
    variants = [at_size_of(each, competition.size) for each in parse_variants(text)]
    return [each for each in variants if _suits(each, competition)] if text == "all" else variants


def _suits(variant: Variant, competition: Competition) -> bool:
    try:
        check_heads(variant, competition)
        check_size(variant, competition.size)
    except UserError:
        return False
    return True


@dataclass(frozen=True)
class Series:
    """One of several trainings of the same variants.

    Attributes:
        tag: what is added to the variants' names; empty adds nothing.
        start: the finished run, or fold, whose weights it starts from; None starts as the variants say.
        seed: of weights, order and augmentation.
    """

    tag: str
    start: Path | None
    seed: int

    def resolved(self) -> Series:
        """The same for machines with other working folders."""
        return replace(self, start=self.start and self.start.resolve())


def parse_series(tags: str, starts: str, seed: int) -> list[Series]:
    """What `--tag` and `--init-from` mean together.

    Args:
        tags: a comma list; empty is one training without a tag.
        starts: a comma list of folders, one for each tag or one for all; may be empty.
        seed: of the first; each one that follows has the next.

    Raises:
        UserError: a tag is listed twice, or there are neither one start nor as many as tags.

    >>> [(one.tag, str(one.start), one.seed) for one in parse_series("a, b", "runs/x/fold0,runs/x/fold1", 7)]
    [('a', 'runs/x/fold0', 7), ('b', 'runs/x/fold1', 8)]
    >>> parse_series("", "", 0)
    [Series(tag='', start=None, seed=0)]
    """
    names = [name.strip() for name in tags.split(",")]
    folders: list[Path | None] = [Path(start.strip()) for start in starts.split(",")] if starts else [None]
    if len(set(names)) < len(names):
        raise UserError(f"a tag is listed twice in {tags!r}: name each once.")
    if len(folders) not in (1, len(names)):
        raise UserError(
            f"--init-from names {len(folders)} folders, --tag {len(names)}: give one for each tag, or one for all."
        )
    spread = folders * len(names) if len(folders) == 1 else folders
    return [Series(name, start, seed + n) for n, (name, start) in enumerate(zip(names, spread, strict=True))]


def with_tag(variant: Variant, tag: str) -> Variant:
    """The variant under the name `<variant>-<tag>`, to be trained once more beside itself; "" leaves it alone.

    Raises:
        UserError: the tag holds other than letters and digits, or the name is a registered variant's.
    """
    if not tag:
        return variant
    if not re.fullmatch(r"[A-Za-z0-9]{1,64}", tag):
        raise UserError(
            f"--tag {tag!r} becomes part of a folder's name: give at most 64 letters and digits, such as s1."
        )
    name = f"{variant.name}-{tag}"
    if name in VARIANTS:
        raise UserError(f"--tag {tag} makes {variant.name} into {name}, which is a variant of its own: another tag.")
    return replace(variant, name=name)


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe that cannot work on any data.

    Raises:
        UserError: an unknown loss, augmentation, optimiser, schedule, precision, monitor or keep, a number outside its
            range, the last weights of a run that may stop early, or fp16 without a GPU; the message says what works.
    """
    for loss in (recipe.loss, *recipe.losses.values()):
        find_loss(loss)
    find_augmentation(recipe.augment)
    for field, words in _WORDS.items():
        value = getattr(recipe, field)
        if value not in get_args(words):
            raise UserError(f"unknown {field} {value!r} in recipe {recipe.name}; known: {', '.join(get_args(words))}.")
    for field, (low, high) in _RANGES.items():
        value = getattr(recipe, field)
        if not low <= value <= high:
            nearest = min(max(value, low), high)
            raise UserError(f"{field} {value} of recipe {recipe.name} cannot work: {nearest} would.")
    if recipe.keep == "last" and recipe.patience:
        raise UserError(
            f"recipe {recipe.name} keeps the last epoch's weights and may stop early, which would make any epoch the "
            'last: give it patience 0, or keep "best".'
        )
    if not 0 < recipe.learning_rate <= 100:
        raise UserError(
            f"learning_rate {recipe.learning_rate} of recipe {recipe.name} must be above 0 and at most 100: try 1e-4."
        )
    if not 0 < recipe.plateau_factor < 1:
        raise UserError(f"plateau_factor {recipe.plateau_factor} of recipe {recipe.name} must be between 0 and 1.")
    if recipe.compile and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "c++", "clang++"))):
        raise UserError(
            f"{recipe.name} compiles the network, which needs a C++ compiler: install g++, or leave out --compile."
        )
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise UserError(f"recipe {recipe.name} trains in fp16, which needs a GPU: choose precision auto or float32.")


def check_plan(variant: Variant, recipe: Recipe, competition: Competition) -> None:
    """Refuse what `check_recipe` refuses, and a network that the competition's data do not suit.

    Args:
        variant, recipe: what shall be trained, and how; the recipe of a fitted variant is not looked at.
        competition: whose images it shall be trained on.

    Raises:
        UserError: the message computes a value that works.
    """
    check_heads(variant, competition)
    check_size(variant, competition.size)
    if variant.fitted:
        return
    check_recipe(recipe)
    heads = [head.name for head in variant.heads]
    stray = [head for head in (*recipe.losses, *recipe.loss_weights) if head not in heads]
    if stray:
        raise UserError(
            f"recipe {recipe.name} has a loss for the head {stray[0]!r}, and {variant.name} has {', '.join(heads)}: "
            "choose another recipe."
        )
    if recipe.crop and PRESENCE_HEAD in heads:
        raise UserError(
            f"{variant.name} says whether there is anything in the whole image, which a crop does not show: train it "
            "without --crop."
        )
    if MASK_HEAD not in heads:
        raise UserError(
            f"{variant.name} has no head {MASK_HEAD!r}, by whose score training is watched: give it one "
            "(models/variants.py)."
        )


def check_batch(recipe: Recipe, images: int, *, where: str) -> None:
    """Refuse a batch, or a step, larger than the data.

    Args:
        recipe: its `batch` and `accumulate`.
        images: to train on.
        where: names them in the message.

    Raises:
        UserError: the message computes a value that works.
    """
    if recipe.batch > images:
        raise UserError(f"a batch of {recipe.batch} is larger than {where} ({images} images): --batch {images} works.")
    batches = images // recipe.batch
    if recipe.accumulate > batches:
        raise UserError(
            f"recipe {recipe.name} adds up {recipe.accumulate} batches of {recipe.batch} a step, and {where} give "
            f"{batches}: --accumulate {batches} works."
        )


def few_steps(recipe: Recipe, images: int, *, where: str, devices: int = 1) -> str:
    """A warning for a training of so few steps that it learns next to nothing; empty for another, or for one that goes
    on from other weights.

    Args:
        recipe: its `epochs`, `batch` and `accumulate`.
        images: to train on.
        where: names them in the message.
        devices: that share every batch.

    Returns:
        A sentence that proposes a batch, and more epochs where no batch alone is enough.
    """

    def steps(batch: int, accumulate: int) -> int:
        return max(1, images // batch // accumulate)

    each = steps(recipe.batch, recipe.accumulate)
    if recipe.init_from or recipe.epochs * each >= _FEW_STEPS:
        return ""
    # batch norm needs two images
    smaller = [batch for batch in range(recipe.batch, 1, -1) if batch % devices == 0] or [recipe.batch]
    batch = next((b for b in smaller if recipe.epochs * steps(b, 1) >= _FEW_STEPS), smaller[-1])
    flags = f"--batch {batch}" if batch != recipe.batch else ""
    flags += " --accumulate 1" if recipe.accumulate > 1 else ""
    epochs = -(-_FEW_STEPS // steps(batch, 1))
    flags += f" --epochs {epochs}" if epochs > recipe.epochs else ""
    total = max(epochs, recipe.epochs) * steps(batch, 1)
    return (
        f"{where} ({images} images) gives {each} step{'' if each == 1 else 's'} an epoch and {recipe.epochs * each} in "
        f"all, which learn next to nothing: {flags.strip()} makes {total}."
    )


def check_devices(recipe: Recipe, devices: int) -> None:
    """Refuse a number of devices that cannot share the recipe's batches, or that this machine does not have.

    Raises:
        UserError: the message computes a value that works.
    """
    gpus = torch.cuda.device_count()
    most = gpus or 100_000
    if not 1 <= devices <= most:
        raise UserError(
            f"--devices {devices} cannot work with {gpus} GPUs: --devices {min(max(1, devices), most)} does."
        )
    if recipe.batch % devices:
        whole = -(-recipe.batch // devices) * devices
        raise UserError(
            f"a batch of {recipe.batch} cannot be shared by {devices} devices alike: --batch {whole} works."
        )
