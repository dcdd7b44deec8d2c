"""What a fold starts from: another run's weights, unless they have seen what the fold holds out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from command_line import UserError
from folds import split
from folds.images import TrainingSet
from folds.run_layout import FOLDS_FILE, MANIFEST_FILE, SEEN_FILE, fold_folder, fold_number, is_finished
from folds.seen import Seen
from folds.task import FoldTask, read_manifest, read_recipe
from models import checkpoint
from models.build import build, completed
from models.variant import Variant


@dataclass(frozen=True)
class Start:
    """A finished fold whose weights another one starts from.

    Attributes:
        folder: of the finished fold.
        identity: its variant, fold and a digest of its weights, as `Recipe.init_from` keeps it.
        seen: what the weights have seen; None where the folder is no longer there to tell.
    """

    folder: Path
    identity: str
    seen: Seen | None = None


def source_folder(run: Path, fold: int) -> Path:
    """The fold's folder that `--init-from RUN` means for fold `fold`: RUN itself, or RUN/fold<k>."""
    is_fold = is_finished(run) or (run / checkpoint.WEIGHTS_FILE).exists()
    return run if is_fold else fold_folder(run, fold)


def recorded_start(run: Path, fold: int, folder: Path) -> Start | None:
    """The start that a fold in `folder` was begun from, if RUN, which it was, is no longer there.

    So a run that goes on, or is finished, does not need RUN again.
    """
    source = source_folder(run, fold)
    recipe = read_recipe(folder)
    if source.exists() or recipe is None:
        return None
    # a run's folder has its variant's name
    names = (f"{run.name} fold {fold} ", f"{run.parent.name} fold {fold_number(run)} ")
    identity = str(recipe["init_from"])
    return Start(source, identity) if identity.startswith(names) else None


def find_start(
    run: Path, fold: int, training: TrainingSet, fold_of_image: np.ndarray, folds_digest: str, *, finished: bool = False
) -> Start:
    """The weights that fold `fold` starts from.

    Args:
        run: a variant's run folder, or one fold's.
        fold: the fold that shall be trained.
        training, fold_of_image, folds_digest: its images, the (N,) fold of each, and the digest of that table.
        finished: the fold is trained already: nothing that its start has seen is refused any more.

    Raises:
        UserError: the source is not finished; or its weights, or what they were started from, have seen or may have
            seen what the fold holds out, which would make its out-of-fold Dice a lie.
    """
    source = source_folder(run, fold)
    manifest = read_manifest(source)
    if manifest is None:
        raise UserError(
            f"{source} has no {MANIFEST_FILE}, so it is no finished fold to start from: give --init-from a variant's "
            "run folder whose folds are trained (make folds V=...), or one fold's folder."
        )
    identity = f"{manifest['variant']['name']} fold {manifest['fold']} {_digest(_read_weights(source))}"
    if finished:
        return Start(source, identity)
    seen = Seen.read(source) or _seen_without_record(source, manifest, training, fold_of_image, folds_digest)
    if seen is None:
        raise UserError(
            f"{source} has no {SEEN_FILE} that can be compared, so nobody can tell whether its weights have seen what "
            f"fold {fold} holds out: train that run again, which writes the file, or start from another one."
        )
    held_out = np.flatnonzero(fold_of_image == fold)
    leaks = seen.among(training, held_out, but=Seen.of(training, np.flatnonzero(fold_of_image != fold)))
    if leaks:
        through = manifest.get("recipe", {}).get("init_from")
        raise UserError(
            f"{source}{f' (itself started from {through})' if through else ''} was trained on {leaks[0]} or its group, "
            f"which fold {fold} holds out ({len(leaks)} of {len(held_out)} images): start fold {fold} from a run whose "
            "fold holds them out too."
        )
    return Start(source, identity, seen)


def _digest(weights: bytes) -> str:
    return hashlib.blake2b(weights, digest_size=8).hexdigest()


def _read_weights(source: Path) -> bytes:
    path = source / checkpoint.WEIGHTS_FILE
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: train that fold again, or leave --init-from out.") from None


def _seen_without_record(
    source: Path, manifest: dict[str, Any], training: TrainingSet, fold_of_image: np.ndarray, folds_digest: str
) -> Seen | None:
    """What a fold from before there were records has seen, if that is certain: trained on this very data, by a split
    that is known, from no other run's weights. None where it is not."""
    if manifest.get("data_digest") != training.digest or manifest.get("recipe", {}).get("init_from"):
        return None
    if manifest.get("folds_digest") != folds_digest:
        path = source.absolute().parent.parent / FOLDS_FILE
        if not path.exists():
            return None
        table = split.read(path, training)
        if split.digest(table) != manifest.get("folds_digest"):
            return None
        fold_of_image = table["fold"].to_numpy()
    return Seen.of(training, np.flatnonzero(fold_of_image != manifest["fold"]))


def record_seen(task: FoldTask) -> None:
    """Write what the fold's weights will have seen, before they see it: once it goes on, its start may be gone.

    Where that cannot be told, no record is left.
    """
    own = Seen.of(task.training, task.train)
    if task.start is None:
        own.write(task.folder)
    elif task.start_seen is not None:
        (own | task.start_seen).write(task.folder)
    elif not task.last_state.exists():
        (task.folder / SEEN_FILE).unlink(missing_ok=True)


def load_start(network: torch.nn.Module, variant: Variant, start: Start) -> None:
    """Load a start's weights into a network; sizes in pixels may differ, names and shapes may not.

    They may be those of a network within it (models/build.py).

    Raises:
        UserError: the weights do not fit, are damaged, or are others than when the fold was planned.
    """
    data = _read_weights(start.folder)
    if not start.identity.endswith(_digest(data)):
        raise UserError(f"the weights in {start.folder} have changed meanwhile: run the same command again.")
    state = completed(variant, network, checkpoint.parse_weights(data, start.folder))
    misfit = checkpoint.misfit(state, network)
    if misfit:
        raise UserError(
            f"the weights in {start.folder} do not fit the network of {variant.name}: {misfit}; --init-from takes a "
            "run of the same network, of any size."
        )
    network.load_state_dict(state)


def find_starts(
    run: Path,
    variant: Variant,
    folds: Sequence[int],
    training: TrainingSet,
    fold_of_image: np.ndarray,
    folder: Path,
    folds_digest: str,
) -> dict[int, Start]:
    """What each fold of a variant starts from, by fold.

    Args:
        run: a variant's run folder, or one fold's.
        variant: that shall be trained.
        folds: which folds.
        training, fold_of_image, folds_digest: its images, the (N,) fold of each, and the digest of that table.
        folder: `runs/<competition>/<variant>`.

    Raises:
        UserError: as `find_start` and `load_start`.
    """
    network = build(variant, pretrained=False)
    starts: dict[int, Start] = {}
    for fold in folds:
        own = fold_folder(folder, fold)
        start = recorded_start(run, fold, own)
        if start is None:
            finished = read_manifest(own) is not None
            start = find_start(run, fold, training, fold_of_image, folds_digest, finished=finished)
            load_start(network, variant, start)
        starts[fold] = start
    return starts


def starting_network(task: FoldTask) -> torch.nn.Module:
    """The fold's network with the weights its training starts from; at random where a state to go on from is there.

    Raises:
        UserError: as `build` and `load_start`.
    """
    goes_on = task.last_state.exists()
    network = build(task.variant, pretrained=not goes_on and task.start is None)
    if task.start is not None and not goes_on:
        load_start(network, task.variant, Start(task.start, task.recipe.init_from))
    return network
