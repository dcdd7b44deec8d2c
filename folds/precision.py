"""What a fold computes in: resolved once, when it begins, and kept wherever it goes on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from typing_extensions import TypedDict

import atomic
from command_line import UserError
from folds.run_layout import PRECISION_FILE, PREVIOUS_STATE_FILE
from folds.task import FoldTask, read_manifest, read_recipe
from json_file import Schema, closed
from models.precision import FLOAT32, Precision, resolve


@closed
class _Begun(TypedDict):
    """The content of precision.json."""

    precision: Precision


_BEGUN = Schema(_Begun, "remove the folder that it is in, which begins the fold anew")


def _begun_in(task: FoldTask) -> Precision | None:
    """What an unfinished training that the task goes on with was begun in; None where there is none to go on with."""
    states = (task.last_state, task.last_state.with_name(PREVIOUS_STATE_FILE))
    if not any(state.exists() for state in states) or read_recipe(task.folder) != task.recipe.to_json():
        return None
    begun = _BEGUN.read_if_there(task.resume_folder / PRECISION_FILE)
    return None if begun is None else begun["precision"]


def resolved(task: FoldTask, available: Collection[Precision]) -> FoldTask:
    """The task with what it computes in: training, validation and out-of-fold logits alike.

    That is what the fold was trained or begun in; else what was resolved for the task before; else what its recipe asks
    for.

    Args:
        task: the fold.
        available: the precisions that the devices which may train it compute in themselves.

    Raises:
        UserError: it was begun in one that these devices would emulate, which was not asked for by name.
    """
    if task.variant.fitted:
        return replace(task, precision=FLOAT32)
    trained: Precision | None = (read_manifest(task.folder) or {}).get("precision")
    before = trained or _begun_in(task)
    precision = before or task.precision or resolve(task.recipe.precision, available)
    if before and precision not in available and task.recipe.precision != precision:
        raise UserError(
            f"{task.label} was {'trained' if trained else 'begun'} in {precision}, which no device here computes in "
            f"itself: go on where one does, or remove {task.folder} to train it anew."
        )
    return replace(task, precision=precision)


def begin_in(task: FoldTask, available: Collection[Precision]) -> FoldTask:
    """As `resolved`, and kept for whoever goes on with the fold."""
    task = resolved(task, available)
    atomic.write_json(task.resume_folder / PRECISION_FILE, {"precision": task.precision})
    return task
