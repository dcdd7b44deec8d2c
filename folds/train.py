"""`python -m folds.train`: K-fold training of one or more variants; `make fold` and `make folds` call it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import tyro
from tqdm import tqdm

from command_line import UserError, duration, program
from competition import Competition
from folder_lock import alone_with
from folds import split
from folds.complete import complete_fold, is_complete
from folds.devices import folds_at_once, threads_each
from folds.images import find_training_set
from folds.inputs import checked
from folds.leave_out import read_left_out
from folds.outputs import find_damage
from folds.plan import (
    check_batch,
    check_devices,
    check_plan,
    few_steps,
    parse_series,
    plan_of,
    variants_for,
    with_tag,
    with_weights,
)
from folds.precision import resolved
from folds.pseudo_set import PseudoSet
from folds.recipes import Recipe
from folds.run_layout import CACHE_DIR, FOLDS_FILE, fold_folder
from folds.soft_targets import check_student
from folds.task import FoldTask, mean_over_images, read_manifest
from folds.task_list import is_done, make_tasks
from folds.truth import load_truth
from folds.workers import available_precisions, check_address, run_all
from kernels.metrics import DICE, Metric, find_metric, metric_in
from models.build import build
from models.variant import Variant
from program_flags import (
    Batch,
    CompetitionName,
    DataFolder,
    Epochs,
    FoldCount,
    Folds,
    Fraction,
    LearningRate,
    Positive,
    ProcessesOrChosen,
    Seed,
    Weight,
    Workers,
    places,
)

# what a process does that holds the lock of a fold
_TRAINED = "is being trained"


def _done_line(manifest: dict[str, Any]) -> str:
    metric = metric_in(manifest)
    return (
        f"{manifest['variant']['name']} fold {manifest['fold']}  done: {metric.label} {manifest[metric.name]:.4f}"
        f" out of fold at full size, {manifest['seconds']:.0f} s"
    )


def _of_all(done: int, count: int, seconds: float) -> str:
    """How far the whole command is, over all variants and tags, as the end of a fold's line.

    >>> _of_all(2, 15, 120.0)
    '; 2 of 15 folds, 60 s each, 13 min 0 s left'
    """
    each = seconds / done
    left = f"{duration(each * (count - done))} left" if done < count else "all done"
    return f"; {done} of {count} folds, {duration(each)} each, {left}"


def _train(task: FoldTask) -> dict[str, Any]:
    """Complete a fold, unless another process has done so meanwhile; refused while one is at it."""
    with alone_with(task.folder, task.label, doing=_TRAINED):
        return complete_fold(task)


def _train_when_free(task: FoldTask) -> dict[str, Any]:
    """The same for a cluster's worker: when its scheduler has given another up, that may still train the fold."""
    with alone_with(task.folder, task.label, doing=_TRAINED, wait=True):
        return complete_fold(task)


def _refuse_what_is_trained(tasks: Iterable[FoldTask]) -> None:
    """Refuse folds that other processes train, before any work is done."""
    for task in tasks:
        with alone_with(task.folder, task.label, doing=_TRAINED):
            pass


def _run(tasks: list[FoldTask], jobs: int, cluster: str = "") -> None:
    """Train folds: one after the other in this process, or side by side in others; one that is killed goes on."""
    threads = 0 if cluster else threads_each(jobs)
    available = available_precisions(cluster)
    tasks = [resolved(replace(task, threads=threads), available) for task in tasks]
    start = time.perf_counter()
    if not cluster:
        _refuse_what_is_trained(tasks)
    if (jobs == 1 or len(tasks) == 1) and not cluster:
        for done, task in enumerate(tasks, 1):
            print(f"{task.label}, from {task.recipe.init_from}" if task.start else task.label)
            # a log or a pipe gets a line an epoch
            manifest = _train(replace(task, bar=sys.stdout.isatty()))
            print(_done_line(manifest) + _of_all(done, len(tasks), time.perf_counter() - start), flush=True)
        return
    tasks = [replace(task, bar=False) for task in tasks]

    def pending() -> list[FoldTask]:
        return [task for task in tasks if not is_complete(task)]

    shared = sorted({path for task in tasks for path in (task.training.data, task.store, task.start) if path})
    gpus = tasks[0].devices
    needs = {"precisions": {task.precision for task in tasks if task.precision}}
    call = _train_when_free if cluster else _train
    manifests = run_all(call, pending, jobs=jobs, cluster=cluster, shared=shared, gpus=gpus, alone=True, **needs)
    for done, manifest in enumerate(tqdm(manifests, "folds", len(tasks), unit="fold", disable=None), 1):
        tqdm.write(_done_line(manifest) + _of_all(done, len(tasks), time.perf_counter() - start))


def _print_table(variants: list[Variant], root: Path, count: int, metric: Metric = DICE) -> None:
    heads = "".join(f"  fold {k}" for k in range(count))
    print(f"\n{f'out-of-fold {metric.label}':24}{heads}    mean  of the last epoch")
    for variant in variants:
        manifests = [read_manifest(fold_folder(root / variant.name, k)) for k in range(count)]
        cells = "".join(f"  {m[metric.name]:.4f}" if m else "       -" for m in manifests)
        done = [m for m in manifests if m]
        means = (mean_over_images(done, key) for key in (metric.name, f"last_{metric.name}"))
        print(f"{variant.name:24}{cells}" + "".join("       -" if mean is None else f"  {mean:.4f}" for mean in means))


def _refuse_what_cannot_work(
    variants: list[Variant], plans: list[Recipe], facts: Competition, root: Path, devices: int, *, starts: bool
) -> None:
    """Refuse plans before any image is read; fetch the weights that encoders start from, or say that they lack.

    Args:
        root: `runs/<competition>`.
        starts: training starts from another run's weights.
    """
    for variant, plan in zip(variants, plans, strict=True):
        check_plan(variant, plan, facts)
        if not variant.fitted:
            check_devices(plan, devices)
        if variant.weights != "none" and not starts and not (root / variant.name).exists():
            # downloads what the folds will start from, or says at once that it cannot be had
            build(variant)


def _labels_of(pseudo: Path | None, facts: Competition, tag: str) -> PseudoSet | None:
    """The set of pseudo-labels in a folder; refused without a tag, as the round before is what it is held against."""
    if pseudo is None:
        return None
    if not tag:
        raise UserError("--pseudo trains beside the run that it is held against: give --tag, such as --tag round1.")
    return PseudoSet.read(pseudo, facts)


def _unfinished(tasks: Iterable[FoldTask]) -> list[FoldTask]:
    """The tasks that are not done; those that are get a line."""
    waiting = []
    for task in tasks:
        if not is_done(task):
            waiting.append(task)
            continue
        damage = find_damage(task, read_manifest(task.folder) or {})
        if damage:
            print(damage.sentence(task))
            waiting.append(task)
        else:
            print(f"{task.label} is finished ({task.folder}), skipped")
    return waiting


def _warn_of_few_steps(tasks: Iterable[FoldTask]) -> None:
    """Say of each variant whose folds have hardly any steps what would give them more; of its first fold alone."""
    first = {task.variant.name: task for task in reversed([*tasks]) if not task.variant.fitted}
    for task in reversed(first.values()):
        warning = few_steps(task.recipe, len(task.train), where=f"what {task.label} trains on", devices=task.devices)
        if warning:
            print(f"warning: {warning}", flush=True)


@program
def main(
    competition: CompetitionName = "carvana",
    variant: str = "",
    fold: Folds = "all",
    data: DataFolder = None,
    runs: Path = Path("runs"),
    recipe: str = "",
    epochs: Epochs = 0,
    batch: Batch = 0,
    accumulate: Batch = 0,
    learning_rate: LearningRate = 0.0,
    weights: Literal["", "imagenet", "none"] = "",
    init_from: str = "",
    tag: str = "",
    pseudo: Path | None = None,
    pseudo_share: Fraction = 0.25,
    pseudo_weight: Weight = 1.0,
    folds: FoldCount = 0,
    folds_csv: Path | None = None,
    seed: Seed = 0,
    split_seed: Seed | None = None,
    jobs: ProcessesOrChosen = 0,
    precision: Literal["", "auto", "bf16", "fp16", "float32"] = "",
    crop: Fraction = 0.0,
    compile: bool = False,
    keep: Literal["", "best", "last"] = "",
    leave_out: Path | None = None,
    workers: Workers = -1,
    devices: Positive = 1,
    cluster: str = "",
) -> None:
    """Train variants on folds; a finished fold is skipped, a killed one goes on from its last epoch.

    Args:
        variant: a name, a comma list, or all that suit the competition.
        runs: where results go.
        recipe: how to train, instead of each variant's own recipe.
        epochs: instead of the recipe's.
        batch: images a step, instead of the recipe's.
        accumulate: batches a step, instead of the recipe's.
        learning_rate: instead of the recipe's.
        weights: the encoders' starting weights, instead of each variant's own.
        init_from: start from the weights of a finished run of the same network, of any size: a variant's run folder
            (fold k from its fold k), or one fold's; a comma list has one for each tag. Refused where they have seen
            what a fold holds out.
        tag: train once more, side by side: run folder and name become <variant>-<tag>. For members of an ensemble that
            differ by seed, start or recipe alone; a comma list trains that many, each with the next seed.
        pseudo: train on a set of pseudo-labels too (make pseudo): its folder. Never in validation; needs a tag.
        pseudo_share: of every batch, that are images of that set.
        pseudo_weight: what such an image counts in the loss, where a training image counts 1.
        folds: number of folds of a new split; 0 makes 5.
        folds_csv: your own split, columns image and fold, instead of a new one.
        seed: of the weights, the order and the augmentation.
        split_seed: of a new split; 0 where it is not given, so that networks of any seed hold out the same images. Mask
            areas decide most of a split: where groups are of one size, it may be the same parts by other numbers.
        jobs: folds trained at once; by default one a GPU, else one a core.
        precision: what is computed in, instead of the recipe's.
        crop: train on crops of this share of height and width, around the mask's boundary, instead of the recipe's;
            scores are of whole images.
        compile: compile the training step (torch.compile); minutes of work before a fold's first
            step, so for long trainings only.
        keep: the weights kept, instead of the recipe's: those of the epoch with the highest score on the held-out
            images, or the last epoch's, which never stops early and owes nothing to those images.
        leave_out: a CSV with the column image (make suspects writes one): those images are not trained on, with
            pseudo-labels as little as with their own, but are held out and scored like all others.
        workers: processes that load and augment images for each device; 0 loads between the steps, -1 chooses.
        devices: GPUs, or processes on a CPU, that share every batch of a fold.
        cluster: address of a dask scheduler (tcp://host:8786) whose workers train the folds; one fold each GPU=1.
    """
    # 1) what shall be trained, and how
    facts, data, root = places(competition, data, runs)
    series = parse_series(tag, init_from, seed)
    wanted = [(with_weights(each, weights), one) for each in variants_for(variant, facts) for one in series]
    variants = [with_tag(each, one.tag) for each, one in wanted]
    changes: dict[str, Any] = {
        key: value
        for key, value in (
            ("epochs", epochs),
            ("batch", batch),
            ("accumulate", accumulate),
            ("learning_rate", learning_rate),
            ("precision", precision),
            ("crop", crop),
            ("compile", compile),
            ("keep", keep),
        )
        if value
    }
    labels = _labels_of(pseudo, facts, tag)
    if labels is not None:
        digest = labels.record["digest"]
        changes |= {"pseudo": digest, "pseudo_share": pseudo_share, "pseudo_weight": pseudo_weight}
    plans = [plan_of(each, recipe, changes) for each in variants]
    if cluster:
        check_address(cluster)
        # other machines have other working folders
        root, data = root.resolve(), data.resolve()
        wanted = [(each, one.resolved()) for each, one in wanted]
    _refuse_what_cannot_work(variants, plans, facts, root, devices, starts=bool(init_from))

    # 2) the images, their masks, the split
    training = find_training_set(facts, data)
    for each, plan in zip(variants, plans, strict=True) if labels is not None else ():
        check_student(each, plan, training)
    for plan in plans:
        check_batch(plan, len(training.names), where=f"the images of {training.data}")
    left_out = read_left_out(leave_out, training) if leave_out else frozenset()
    known = load_truth(training, root / CACHE_DIR)
    table = split.find_or_make(root / FOLDS_FILE, training, known.areas_px, own=folds_csv, folds=folds, seed=split_seed)
    count = int(table["fold"].max()) + 1
    chosen = split.parse_folds(fold, count)

    # 3) the folds that are not done, side by side
    tasks: list[FoldTask] = []
    for each, plan, (_, one) in zip(variants, plans, wanted, strict=True):
        where = (training, table, root, one.seed, workers, devices, one.start)
        tasks += make_tasks(each, plan, chosen, *where, left_out=left_out, labels=labels)
    waiting = _unfinished(tasks)
    _warn_of_few_steps(waiting)
    if waiting:
        whole = {id(task.inputs): checked(task.inputs) for task in waiting}
        waiting = [replace(task, inputs=whole[id(task.inputs)]) for task in waiting]
        _run(waiting, folds_at_once(jobs, len(tasks), devices), cluster)
    _print_table(variants, root, count, find_metric(facts.metric))


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
