"""What there is to train: a variant's folds as tasks, and which of them are done."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from command_line import UserError
from folds import split
from folds.heads import load_truths
from folds.images import TrainingSet
from folds.inputs import load_inputs
from folds.leave_out import identity
from folds.plan import check_batch
from folds.pseudo_set import PseudoSet
from folds.recipes import Recipe
from folds.run_layout import CACHE_DIR, OOF_STORE, fold_folder
from folds.soft_targets import extra_rows, told
from folds.start import Start, find_starts
from folds.store import LogitStore
from folds.task import FoldTask, check_frame, read_manifest, read_recipe
from models.frame import frame_of
from models.variant import Variant


def make_tasks(
    variant: Variant,
    recipe: Recipe,
    folds: list[int],
    training: TrainingSet,
    table: pd.DataFrame,
    root: Path,
    seed: int,
    workers: int,
    devices: int,
    init_from: Path | None,
    left_out: Collection[str] = (),
    labels: PseudoSet | None = None,
) -> list[FoldTask]:
    """A variant's folds as tasks, its OOF store and frame cache made.

    Args:
        variant, recipe: what is trained, and how.
        folds: which of the split's.
        training: the images.
        table: the split, from `folds.split`.
        root: `runs/<competition>`.
        seed, workers, devices: as `FoldTask` has them.
        init_from: a finished run, or fold, whose weights training starts from; None starts as the variant says.
        left_out: names of images that no fold trains on; they are held out as without that.
        labels: pseudo-labels that are trained on beside the training images; None is without.

    Raises:
        UserError: a fold has too few images for a batch or the devices, the weights to start from are refused, or the
            store that is there was made for something else.
    """
    column = table["fold"].to_numpy()
    kept = ~table["image"].isin(list(left_out)).to_numpy()
    recipe = replace(recipe, left_out=identity(left_out))
    if not variant.fitted:
        for fold in folds:
            check_batch(recipe, int(((column != fold) & kept).sum()), where=f"what fold {fold} trains on")
            held_out = int((column == fold).sum())
            if held_out < devices:
                raise UserError(
                    f"fold {fold} holds {held_out} images out, too few for {devices} devices: "
                    f"--devices {held_out} works."
                )
    folder = root / variant.name
    digest = split.digest(table)
    starts: dict[int, Start] = {}
    if init_from and not variant.fitted:
        starts = find_starts(init_from, variant, folds, training, column, folder, digest)
    truths = load_truths(variant, training, root / CACHE_DIR)
    heads = [head.name for head in variant.heads]
    inputs = load_inputs(training, frame_of(variant), truths, root / CACHE_DIR, heads=heads)
    store = LogitStore.create(
        folder / OOF_STORE,
        training.names,
        (variant.out_channels, *variant.size),
        variant=variant.name,
        **variant.head_attributes(),
        tta=list(variant.tta),
        data_digest=training.digest,
        folds_digest=digest,
        frame_version=frame_of(variant).version(training.competition.size),
    )
    extras = {
        fold: extra_rows(labels, fold, variant, recipe.pseudo_share, training, root / CACHE_DIR, left_out)
        for fold in folds
        if labels is not None
    }

    def rounds(fold: int) -> tuple[dict[str, Any], ...]:
        before = (read_manifest(starts[fold].folder) or {}).get("rounds", []) if fold in starts else []
        if labels is None:
            return tuple(before)
        return (*before, told(labels, variant, recipe, len(extras[fold].names)))

    return [
        FoldTask(
            training=training,
            truths=truths,
            inputs=inputs,
            variant=variant,
            recipe=replace(recipe, init_from=starts[fold].identity) if fold in starts else recipe,
            fold=fold,
            train=np.flatnonzero((column != fold) & kept),
            held_out=np.flatnonzero(column == fold),
            folder=fold_folder(folder, fold),
            store=store.path,
            folds_digest=digest,
            seed=seed,
            workers=workers,
            devices=devices,
            start=starts[fold].folder if fold in starts else None,
            start_seen=starts[fold].seen if fold in starts else None,
            draws=training.draws(np.flatnonzero(column != fold), np.flatnonzero(column == fold), seed + fold),
            extra=extras.get(fold),
            rounds=rounds(fold),
        )
        for fold in folds
    ]


def is_done(task: FoldTask) -> bool:
    """Whether the fold was completed with this very configuration; its outputs are not looked at (folds.outputs).

    Raises:
        UserError: it was completed with another.
    """
    manifest = read_manifest(task.folder)
    if manifest is None:
        _refuse_other_labels(task)
        return False
    check_frame(manifest, task.folder, task.variant, task.training.competition.size)
    wanted = {
        "variant": task.variant.to_json(),
        "recipe": task.recipe.to_json(),
        "seed": task.seed,
        "data_digest": task.training.digest,
        "folds_digest": task.folds_digest,
    }
    # a recipe from before a field existed was trained with what is now its default
    if isinstance(manifest.get("recipe"), dict):
        manifest["recipe"] = {**Recipe(name="", epochs=0, batch=0).to_json(), **manifest["recipe"]}
    for key, value in wanted.items():
        # through JSON, tuples have become lists
        if _plain(manifest.get(key)) != _plain(value):
            raise UserError(
                f"{task.folder} was trained with another {key.replace('_', ' ')}: remove that folder alone to train it "
                "again, train beside it (--tag), or choose another --runs folder."
            )
    return True


def _refuse_other_labels(task: FoldTask) -> None:
    """Refuse to go on with a fold that was begun with other pseudo-labels: half a training on each is neither."""
    begun = read_recipe(task.folder) if task.last_state.exists() else None
    if begun is not None and begun["pseudo"] != task.recipe.pseudo:
        was, now = (digest or "none" for digest in (begun["pseudo"], task.recipe.pseudo))
        raise UserError(
            f"{task.folder} was begun with other pseudo-labels ({was}, now {now}): remove that folder to train it "
            "anew, or train beside it (--tag)."
        )


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value
