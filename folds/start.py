"""What a fold starts from: another run's weights, unless they have seen what the fold holds out."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from command_line import UserError
from folds import split
from folds.images import TrainingSet
from folds.task import MANIFEST_FILE, FoldTask, read_manifest, read_recipe
from models import checkpoint
from models.build import build
from models.variants import Variant


@dataclass(frozen=True)
class Start:
    """A finished fold whose weights another one starts from.

    Attributes:
        folder: of the finished fold.
        identity: its variant, fold and a digest of its weights, as `Recipe.init_from` keeps it.
    """

    folder: Path
    identity: str


def source_folder(run: Path, fold: int) -> Path:
    """The fold's folder that `--init-from RUN` means for fold `fold`: RUN itself, or RUN/fold<k>."""
    is_fold = (run / MANIFEST_FILE).exists() or (run / checkpoint.WEIGHTS_FILE).exists()
    return run if is_fold else run / f"fold{fold}"


def recorded_start(run: Path, fold: int, folder: Path) -> Start | None:
    """The start that a fold in `folder` was begun from, if RUN, which it was, is no longer there.

    So a run that goes on, or is finished, does not need RUN again.
    """
    source = source_folder(run, fold)
    recipe = read_recipe(folder)
    if source.exists() or recipe is None:
        return None
    # a run's folder has its variant's name
    names = (f"{run.name} fold {fold} ", f"{run.parent.name} fold {run.name.removeprefix('fold')} ")
    identity = str(recipe["init_from"])
    return Start(source, identity) if identity.startswith(names) else None


def find_start(run: Path, fold: int, training: TrainingSet, held_out: list[str], folds_digest: str) -> Start:
    """The weights that fold `fold` starts from.

    Args:
        run: a variant's run folder, or one fold's.
        fold: the fold that shall be trained.
        training: its data.
        held_out: names of the images that it holds out.
        folds_digest: of its fold table.

    Raises:
        UserError: the source is not finished; or its weights have seen, or may have seen, what the fold holds out,
            which would make its out-of-fold Dice a lie.
    """
    source = source_folder(run, fold)
    manifest = read_manifest(source)
    if manifest is None:
        raise UserError(
            f"{source} has no {MANIFEST_FILE}, so it is no finished fold to start from: give --init-from a variant's "
            "run folder whose folds are trained (make folds V=...), or one fold's folder."
        )
    target = f"fold {fold}"
    table = _table_of(source, manifest)
    if table is None:
        _check_by_digests(source, manifest, training.digest, folds_digest, fold)
    else:
        _check_by_images(source, manifest, table, training, held_out, target)
    digest = hashlib.blake2b(_read_weights(source), digest_size=8).hexdigest()
    return Start(source, f"{manifest['variant']['name']} fold {manifest['fold']} {digest}")


def _read_weights(source: Path) -> bytes:
    path = source / checkpoint.WEIGHTS_FILE
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: train that fold again, or leave --init-from out.") from None


def _table_of(source: Path, manifest: dict[str, Any]) -> pd.DataFrame | None:
    """The fold table that the source was trained by; None where it does not lie beside it."""
    path = source.absolute().parent.parent / "folds.csv"
    if not path.exists():
        return None
    table = pd.read_csv(path, dtype={"image": str, "group": str})
    if not {"image", "group", "fold"} <= set(table.columns) or split.digest(table) != manifest.get("folds_digest"):
        raise UserError(
            f"{path} is not the split that {source} was trained by, so nobody can tell what its weights have seen: put "
            "the right folds.csv back, or start from another run."
        )
    return table


def _check_by_images(
    source: Path,
    manifest: dict[str, Any],
    table: pd.DataFrame,
    training: TrainingSet,
    held_out: list[str],
    target: str,
) -> None:
    trained = table["fold"] != manifest["fold"]
    # another view of the same car is as bad
    seen = set(table["image"][trained]) | set(table["group"][trained])
    leaks = [name for name in held_out if name in seen or training.competition.group(name) in seen]
    if leaks:
        raise UserError(
            f"{source} was trained on {leaks[0]} or its group, which {target} holds out ({len(leaks)} of "
            f"{len(held_out)} images): start {target} from a run whose fold holds them out too."
        )
    # what the source's own start has seen is only known of what the source holds out
    unknown = sorted(set(held_out) - set(table["image"]))
    if unknown and manifest.get("recipe", {}).get("init_from"):
        raise UserError(
            f"{source} was itself started from other weights ({manifest['recipe']['init_from']}), which may have seen "
            f"{unknown[0]}, which {target} holds out: start {target} from a run with the same images."
        )


def _check_by_digests(source: Path, manifest: dict[str, Any], data: str, folds: str, fold: int) -> None:
    same_data = manifest.get("data_digest") == data
    if same_data and (manifest.get("folds_digest"), manifest.get("fold")) == (folds, fold):
        return
    if same_data:
        raise UserError(
            f"{source} was trained on the same data with another split or as fold {manifest.get('fold')}, so it has "
            f"seen images that fold {fold} holds out: start fold {fold} from a run with the same folds.csv."
        )
    if manifest.get("recipe", {}).get("init_from"):
        raise UserError(
            f"{source} was itself started from other weights ({manifest['recipe']['init_from']}), and no folds.csv "
            f"beside it tells what they have seen: start fold {fold} from another run."
        )


def load_start(network: torch.nn.Module, variant: Variant, start: Start) -> None:
    """Load a start's weights into a network; sizes in pixels may differ, names and shapes may not.

    Raises:
        UserError: the weights do not fit, are damaged, or are others than when the fold was planned.
    """
    data = _read_weights(start.folder)
    if not start.identity.endswith(hashlib.blake2b(data, digest_size=8).hexdigest()):
        raise UserError(f"the weights in {start.folder} have changed meanwhile: run the same command again.")
    state = checkpoint.parse_weights(data, start.folder)
    own = network.state_dict()
    unfit = [name for name, tensor in own.items() if name not in state or state[name].shape != tensor.shape]
    unfit += [name for name in state if name not in own]
    if unfit:
        first = unfit[0]
        there, here = (tuple(s[first].shape) if first in s else "none" for s in (state, own))
        raise UserError(
            f"the weights in {start.folder} do not fit the network of {variant.name}: {len(unfit)} tensors differ, "
            f"{first} first ({there} there, {here} here); --init-from takes a run of the same network, of any size."
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
        start = recorded_start(run, fold, folder / f"fold{fold}")
        if start is None:
            held_out = [training.names[i] for i in np.flatnonzero(fold_of_image == fold)]
            start = find_start(run, fold, training, held_out, folds_digest)
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
