"""`python -m refine.train`: train the boundary refiner of a blend, and keep it where it gains; `make refine`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tyro
from tqdm import tqdm

import atomic
from command_line import UserError, duration, program
from ensemble.blend_file import BLEND_FILE, REFINER_DIR, REFINER_FILE, FittedBlend, blend_folder, read_blend
from ensemble.boundary import NAME, Boundary, boundary_for, check_boundary
from ensemble.boundary_file import REFINER, after_refiner, coarse_digest, digest_of, entries_of
from ensemble.chosen_without import used_members
from ensemble.intervals import figures, mean_interval
from ensemble.oof_data import OofData, find_oof_data
from folder_lock import alone_with
from folds import split
from folds.devices import folds_at_once, threads_each
from folds.images import TrainingSet, find_training_set
from folds.inputs import checked, load_inputs
from folds.outputs import WEIGHTS_DIGEST
from folds.plan import check_batch, plan_of
from folds.recipes import Recipe
from folds.run_layout import CACHE_DIR, fold_folder
from folds.task import FoldTask, read_manifest
from folds.workers import run_all
from kernels.metrics import Metric
from models.losses import find_loss
from program_flags import (
    Batch,
    BlendName,
    CompetitionName,
    DataFolder,
    Epochs,
    Folds,
    LearningRate,
    Pixels,
    Positive,
    ProcessesOrChosen,
    ReachPx,
    RunsFolder,
    Seed,
    SizePx,
    places,
)
from refine.coarse import Coarse
from refine.fold import RefinerTask, check_same, complete_refiner, is_done, read_scores
from refine.planes import CoarsePlanes, forget_others, kept_of_all


def _tasks(
    folder: Path,
    fitted: FittedBlend,
    oof: OofData,
    training: TrainingSet,
    boundary: Boundary,
    planes: Sequence[CoarsePlanes],
    recipe: Recipe,
    chosen: list[int],
    *,
    cache: Path,
    tiles: int,
    seed: int,
    jobs: int,
) -> list[RefinerTask]:
    """The folds of a blend's refiner, finished or not."""
    truths = {"mask": oof.truth}
    inputs = load_inputs(training, boundary.frame, truths, cache, jobs=jobs)
    for fold in chosen:
        check_batch(recipe, int((oof.fold != fold).sum()), where=f"what fold {fold} trains on")
    return [
        RefinerTask(
            fold=FoldTask(
                training=training,
                truths=truths,
                inputs=inputs,
                variant=boundary.variant(),
                recipe=recipe,
                fold=fold,
                train=np.flatnonzero(oof.fold != fold),
                held_out=np.flatnonzero(oof.fold == fold),
                folder=fold_folder(folder / REFINER_DIR, fold),
                # it has no logits of its own to keep
                store=folder / REFINER_DIR,
                folds_digest=fitted["folds_digest"],
                seed=seed,
            ),
            boundary=boundary,
            planes=planes[fold],
            coarse_digest=coarse_digest(fitted),
            after=after_refiner(fitted),
            tiles=tiles,
        )
        for fold in chosen
    ]


def _gain_line(label: str, table: pd.DataFrame, metric: Metric) -> str:
    gain = (table["after"] - table["before"]).to_numpy()
    low, high = mean_interval(gain, table["group"].to_numpy())
    return (
        f"{label}: {metric.label} {table['before'].mean():.5f} without, {table['after'].mean():.5f} with the refiner, "
        f"gain {gain.mean():+.5f} ({low:+.5f}..{high:+.5f}) on {len(table)} images"
    )


def _complete(task: RefinerTask) -> dict[str, Any]:
    """Complete a fold; refused while another process is at it."""
    with alone_with(task.fold.folder, task.fold.label, doing="is being trained"):
        return complete_refiner(task)


def _run(tasks: list[RefinerTask], jobs: int, metric: Metric, folder: Path) -> None:
    """Complete folds: one after the other in this process, or side by side in others; one that is killed goes on. What
    they all learn from is kept in `folder`."""
    start = time.perf_counter()
    waiting = [task for task in tasks if not is_done(task)]
    alone = jobs == 1 or len(tasks) == 1
    shown = alone and sys.stdout.isatty()
    waiting = [replace(task, fold=replace(task.fold, threads=threads_each(jobs), bar=shown)) for task in waiting]
    if waiting:
        whole = checked(waiting[0].fold.inputs)
        wanted = [(task.planes, [*task.fold.train, *task.validated]) for task in waiting]
        waiting = [
            replace(task, fold=replace(task.fold, inputs=whole), planes=planes)
            for task, planes in zip(waiting, kept_of_all(wanted, folder), strict=True)
        ]
    of = {task.fold.fold: task for task in tasks}
    for task in tasks:
        if task.fold.fold not in {each.fold.fold for each in waiting}:
            print(f"{task.fold.label} is finished ({task.fold.folder}), skipped")

    def pending() -> list[RefinerTask]:
        return [task for task in waiting if not is_done(task)]

    manifests = map(_complete, waiting) if alone else run_all(_complete, pending, jobs=jobs, alone=True)
    for done, manifest in enumerate(tqdm(manifests, "folds", len(waiting), unit="fold", disable=alone or None), 1):
        task = of[manifest["fold"]]
        left = (time.perf_counter() - start) / done * (len(waiting) - done)
        tqdm.write(_gain_line(task.fold.label, read_scores(task), metric) + f"; {duration(left)} left")


def judge(folder: Path, fitted: FittedBlend, tasks: list[RefinerTask], metric: Metric) -> dict[str, Any]:
    """Write what the refiner gains, and tell blend.json; returns what refiner.json holds.

    Args:
        folder: of the blend.
        fitted: the content of its blend.json.
        tasks: all of its folds, done.
    """
    table = pd.concat([read_scores(task) for task in tasks], ignore_index=True)
    groups, before, after = (table[column].to_numpy() for column in ("group", "before", "after"))
    low, high = mean_interval(after - before, groups)
    first = tasks[0]
    manifests = [read_manifest(task.fold.folder) or {} for task in tasks]
    weights = [manifest[WEIGHTS_DIGEST] for manifest in manifests]
    record = {
        "name": NAME,
        "boundary": asdict(first.boundary),
        "coarse_digest": first.coarse_digest,
        "weights_digests": weights,
        "precisions": [manifest["precision"] for manifest in manifests],
        "digest": digest_of(first.boundary, weights),
        **first.after,
        "before": figures(before, groups, metric),
        "after": figures(after, groups, metric),
        "gain": float((after - before).mean()),
        "interval": [low, high],
        "kept": low > 0,
    }
    REFINER.of(record)
    atomic.write_json(folder / REFINER_DIR / REFINER_FILE, record)
    plain = {key: value for key, value in fitted.items() if key not in ("refiners", "refiner_fit")}
    atomic.write_json(folder / BLEND_FILE, {**plain, **entries_of(folder, plain)})
    verdict = "kept" if low > 0 else "not kept, as its interval is not above 0"
    print(_gain_line("all folds", table, metric))
    print(f"{verdict}; written: {folder / REFINER_DIR / REFINER_FILE}, {folder / BLEND_FILE}")
    return record


@program
def main(
    competition: CompetitionName = "carvana",
    name: BlendName = "blend",
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
    fold: Folds = "all",
    size: SizePx = (0, 0),
    reach_px: ReachPx = 8.0,
    tile_px: Pixels = 96,
    tiles: Positive = 4,
    epochs: Epochs = 0,
    batch: Batch = 0,
    learning_rate: LearningRate = 0.0,
    loss: str = "",
    precision: Literal["", "auto", "bf16", "fp16", "float32"] = "",
    seed: Seed = 0,
    jobs: ProcessesOrChosen = 0,
) -> None:
    """Train the boundary refiner of a blend, one network a fold, and keep it where its nested gain is above 0.

    A fold's network learns from the blend's out-of-fold logits of the other folds' images, and is scored on its own.
    A finished fold is skipped, a killed one goes on from its last epoch. When all folds are done, refiner.json beside
    them says what they gain, and blend.json whether they are used: then `make submission` and `make predict` use them.

    Args:
        size: height and width at which the refiner sees an image; half of full size by default.
        reach_px: how far from the blend's boundary it may change anything, in pixels of the full image.
        tile_px: side of the tiles that it sees, in pixels of its size.
        tiles: of an image, in an epoch.
        epochs: instead of the recipe's.
        batch: images a step, each with its tiles, instead of the recipe's.
        learning_rate: instead of the recipe's.
        loss: name in models/losses.py, instead of the recipe's.
        precision: what is computed in, instead of the recipe's.
        seed: of the weights, the order and the tiles.
        jobs: folds trained at once; by default one a GPU, else one a core.
    """
    # 1) what cannot be meant is refused before anything is read
    facts, data, root = places(competition, data, runs)
    given = {"reach_px": reach_px, "tile_px": tile_px, **({"size": size} if any(size) else {})}
    boundary = replace(boundary_for(facts.size), **given)  # type: ignore[arg-type]
    try:
        check_boundary(boundary)
    except ValueError as error:
        raise UserError(f"such a refiner cannot be: {error}.") from None
    changes = {"epochs": epochs, "batch": batch, "learning_rate": learning_rate, "loss": loss, "precision": precision}
    recipe = plan_of(boundary.variant(), "", {key: value for key, value in changes.items() if value})
    find_loss(recipe.loss)
    folder = blend_folder(root, name)
    fitted = read_blend(folder)

    # 2) the blend's out-of-fold logits, as it was chosen without each fold
    training = find_training_set(facts, data)
    oof = find_oof_data(root, training, used_members(fitted))
    for key, now in (("data_digest", training.digest), ("folds_digest", oof.members[0].folds_digest)):
        if fitted[key] != now:  # type: ignore[literal-required]
            raise UserError(f"{folder / BLEND_FILE} was chosen on other {key.split('_')[0]} than are there: make fit.")
    count = int(oof.fold.max()) + 1
    chosen = split.parse_folds(fold, count)
    planes = [CoarsePlanes(Coarse.without(k, folder, fitted, oof, training), boundary.frame) for k in range(count)]
    more = {"cache": root / CACHE_DIR, "tiles": tiles, "seed": seed, "jobs": -1}
    tasks = _tasks(folder, fitted, oof, training, boundary, planes, recipe, chosen, **more)  # type: ignore[arg-type]
    for task in tasks:
        check_same(task)

    # 3) the folds that are not done
    kept_in = root / CACHE_DIR / training.digest / f"coarse-{name}"
    forget_others(kept_in, planes)
    _run(tasks, folds_at_once(jobs, len(tasks)), oof.metric, kept_in)

    # 4) what they gain together
    if len(chosen) == count:
        judge(folder, fitted, tasks, oof.metric)


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
