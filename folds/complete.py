"""A fold is complete when its outputs are: it is trained, or only what of it is damaged is made again."""

from __future__ import annotations

import shutil
from typing import Any

import atomic
from folds.outputs import LOGITS_DIGEST, Damage, digests, find_damage, names_held_out
from folds.precision import resolved
from folds.run_layout import MANIFEST_FILE, VARIANT_FILE
from folds.task import FoldTask, begin_with_threads, read_manifest
from models.precision import native


def is_complete(task: FoldTask) -> bool:
    """Whether nothing is left to do for a fold."""
    manifest = read_manifest(task.folder)
    return manifest is not None and not find_damage(task, manifest)


def complete_fold(task: FoldTask) -> dict[str, Any]:
    """Train a fold, or make again what of a finished one is missing or not as it was written, and leave the rest.

    Returns:
        The manifest.

    Raises:
        UserError: as `run_fold`.
    """
    # Lightning takes seconds, and a program that finds all folds finished, or has other processes train, needs none
    from folds.fold import run_fold

    manifest = read_manifest(task.folder)
    if manifest is None:
        return run_fold(task)
    damage = find_damage(task, manifest)
    if not damage:
        return manifest
    # refused before anything is removed
    task = resolved(task, native())
    if manifest.get("threads"):
        # so that what is made again has the bytes that it had
        begin_with_threads(task.folder, manifest["threads"])
    if damage.weights:
        (task.folder / MANIFEST_FILE).unlink()
        return run_fold(task)
    try:
        return _mended(task, manifest, damage)
    finally:
        shutil.rmtree(task.resume_folder, ignore_errors=True)


def _mended(task: FoldTask, manifest: dict[str, Any], damage: Damage) -> dict[str, Any]:
    from folds.fold import remake_logits, score_stored, write_records

    if damage.records:
        atomic.write_json(task.folder / VARIANT_FILE, task.variant.to_json())
        write_records(task)
    if not damage.logits:
        return manifest
    remake_logits(task, damage.logits)
    found, known = digests(task), manifest.get(LOGITS_DIGEST)
    if known is None or found[LOGITS_DIGEST] == known:
        return manifest
    # other hardware rounds otherwise: then all are made by it, and scored
    remake_logits(task, [name for name in names_held_out(task) if name not in damage.logits])
    changed = {**manifest, **digests(task), task.metric.name: score_stored(task)}
    atomic.write_json(task.folder / MANIFEST_FILE, changed)
    return changed
