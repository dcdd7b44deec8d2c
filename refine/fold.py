"""One fold of a refiner: trained on the images of the other folds, scored on its own, and last its manifest."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from typing_extensions import TypedDict

import atomic
import provenance
from command_line import UserError
from ensemble.blend_file import REFINED_SCORES_FILE, REFINER_BEGUN_FILE
from ensemble.boundary import Boundary, BoundaryRefiner
from folds.csv_table import read_table, write_table
from folds.outputs import WEIGHTS_DIGEST, digest, fault_of_weights
from folds.run_layout import MANIFEST_FILE, WEIGHTS_FILE
from folds.spent import Spent
from folds.task import FoldTask, begin_with_threads, read_manifest
from json_file import Digest, Schema, closed
from models import checkpoint
from models.build import parameter_count
from models.precision import FLOAT32
from refine.coarse import Coarse
from refine.planes import CoarsePlanes
from refine.tiles import Tiles

# held-out images that an epoch is validated on, at most; at the end all of them are scored
_VALIDATED = 16


@closed
class _Begun(TypedDict):
    """The content of begun.json: what identifies the configuration that a fold was begun with."""

    configuration: Digest


_BEGUN = Schema(_Begun, "remove the folder that it is in")


@dataclass(frozen=True)
class RefinerTask:
    """Everything one fold of a refiner needs; pickles to a worker.

    Attributes:
        fold: images, recipe, folder, seed, and the network that sees one tile.
        boundary: what the refiner is.
        planes: the blend's logits in the refiner's frame, as it was chosen without the fold.
        coarse_digest: identifies them, of all folds together.
        after: what comes after the refiner, which scores depend on (`ensemble.boundary_file.after_refiner`).
        tiles: of an image, in an epoch.
    """

    fold: FoldTask
    boundary: Boundary
    planes: CoarsePlanes
    coarse_digest: str
    after: Mapping[str, Any]
    tiles: int

    @property
    def coarse(self) -> Coarse:
        """The blend's logits at full size."""
        return self.planes.coarse

    @property
    def validated(self) -> np.ndarray:
        """Positions of the held-out images that an epoch is validated on, in their order."""
        held_out = self.fold.held_out
        return held_out[np.linspace(0, len(held_out) - 1, min(_VALIDATED, len(held_out))).round().astype(int)]

    def configuration(self) -> dict[str, Any]:
        """What decides the weights, as the manifest has it."""
        return {
            "variant": self.fold.variant.to_json(),
            "recipe": self.fold.recipe.to_json(),
            "fold": self.fold.fold,
            "seed": self.fold.seed,
            "boundary": asdict(self.boundary),
            "tiles": self.tiles,
            "coarse_digest": self.coarse_digest,
            "data_digest": self.fold.training.digest,
            "folds_digest": self.fold.folds_digest,
        }


def _plain(value: object) -> object:
    """As it is after it was written as JSON and read: tuples are lists."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def check_same(task: RefinerTask) -> None:
    """Raise UserError where the fold was trained, or begun, with another configuration than the task's."""
    manifest = read_manifest(task.fold.folder)
    if manifest is None:
        return
    for key, value in task.configuration().items():
        if _plain(manifest.get(key)) != _plain(value):
            what = "on other logits of the blend" if key == "coarse_digest" else f"with another {key.replace('_', ' ')}"
            raise UserError(
                f"{task.fold.folder} was trained {what}: remove {task.fold.folder.parent} to train the refiner again."
            )


def is_done(task: RefinerTask) -> bool:
    """Whether nothing is left to do for a fold."""
    manifest = read_manifest(task.fold.folder)
    if manifest is None or fault_of_weights(task.fold.folder, manifest):
        return False
    return _scores_are_whole(task, manifest)


def _scores_are_whole(task: RefinerTask, manifest: Mapping[str, Any]) -> bool:
    if _plain(manifest.get("after")) != _plain(task.after):
        return False
    try:
        table = read_scores(task)
    except (FileNotFoundError, UserError):
        return False
    return table["image"].tolist() == [task.fold.training.names[p] for p in task.fold.held_out]


def read_scores(task: RefinerTask) -> pd.DataFrame:
    """The scores of a fold's held-out images: columns image, group, before, after.

    Raises:
        FileNotFoundError, UserError: they are not there, or damaged.
    """
    path = task.fold.folder / REFINED_SCORES_FILE
    return read_table(path, ["image", "group"], "make refine makes it again", numbers=["before", "after"])


def _settle(task: RefinerTask) -> None:
    """Drop a state that another configuration left behind, such as other logits of the blend: half a training on each
    is neither."""
    fold = task.fold
    content = json.dumps(_plain(task.configuration()), sort_keys=True).encode()
    configuration = hashlib.blake2b(content, digest_size=8).hexdigest()
    path = fold.folder / REFINER_BEGUN_FILE
    try:
        begun = _BEGUN.read_if_there(path)
    except UserError:
        begun = None
    if begun is None or begun["configuration"] != configuration:
        if fold.last_state.exists():
            print(f"{fold.label} was begun on other logits or otherwise: its unfinished training is dropped")
        shutil.rmtree(fold.resume_folder, ignore_errors=True)
        atomic.write_json(path, {"configuration": configuration})


def _tiles(task: RefinerTask, *, train: bool) -> Tiles:
    seed = task.fold.seed + task.fold.fold
    return Tiles(task.boundary, task.planes, task.fold.inputs, task.tiles, seed, augmented=train)


def _loader(task: RefinerTask, *, train: bool) -> Any:
    from folds.samples import EpochSampler, loader

    fold = task.fold
    positions = fold.train if train else task.validated
    sampler = EpochSampler(positions, seed=fold.seed + fold.fold, shuffle=train, batch=fold.recipe.batch)
    pin = torch.cuda.is_available()
    return loader(_tiles(task, train=train), sampler, fold.recipe.batch, workers=max(0, fold.workers), pin=pin)


def _train(task: RefinerTask, gpus: list[int]) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The trained network, and facts for the manifest."""
    from folds.divergence import LossWatch
    from folds.fit import keep_epoch, precision_of, train_module
    from folds.start import starting_network
    from refine.module import RefinerModule

    fold, coarse, inputs = task.fold, task.coarse, task.fold.inputs
    watch = LossWatch(fold.folder, fold.training.names, fold.label, fold.recipe, precision_of(fold))

    def score(position: int, refiner: BoundaryRefiner) -> float:
        return coarse.score(position, refiner, inputs)

    network = starting_network(fold)
    module = RefinerModule(network, task.boundary, fold.recipe, score, watch, fold.metric, precision_of(fold))
    facts = train_module(fold, module, _loader(task, train=True), _loader(task, train=False), gpus, pictures=False)
    return network, keep_epoch(fold, network, facts)


def _score(task: RefinerTask) -> pd.DataFrame:
    """Write the scores of the held-out images without and with the weights that lie in the fold's folder."""
    fold = task.fold
    state = checkpoint.parse_weights((fold.folder / WEIGHTS_FILE).read_bytes(), fold.folder)
    refiner = BoundaryRefiner(task.boundary, [state], "", (fold.precision or FLOAT32,))
    positions = [int(position) for position in fold.held_out]
    scores = np.array(
        [
            (task.coarse.score(p), task.coarse.score(p, refiner, fold.inputs))
            for p in tqdm(positions, desc="score refiner", unit="image", disable=None if fold.bar else True)
        ]
    )
    groups = fold.training.groups()[fold.held_out]
    names = [fold.training.names[p] for p in positions]
    table = pd.DataFrame({"image": names, "group": groups, "before": scores[:, 0], "after": scores[:, 1]})
    write_table(fold.folder / REFINED_SCORES_FILE, table, float_format="%.8f")
    return table


def complete_refiner(task: RefinerTask) -> dict[str, Any]:
    """Train and score one fold, or what of that is not done; killed and called again, it goes on from its last epoch.

    Returns:
        The manifest.

    Raises:
        UserError: the fold was trained with another configuration; as `folds.fold.run_fold`.
        KeyboardInterrupt: Ctrl-C; called again, it goes on.
    """
    from folds.devices import hardware, lease
    from folds.failures import explained
    from folds.fit import set_up
    from folds.fold import begin

    check_same(task)
    fold, start = task.fold, Spent.so_far()
    manifest = read_manifest(fold.folder)
    if manifest is not None and not fault_of_weights(fold.folder, manifest):
        if _scores_are_whole(task, manifest):
            return manifest
        earlier = Spent(manifest["seconds"], manifest.get("cpu_seconds", 0.0))
        begin_with_threads(fold.folder, manifest["threads"])
        set_up(fold)
        task = replace(task, fold=replace(fold, precision=manifest.get("precision")))
    else:
        (fold.folder / MANIFEST_FILE).unlink(missing_ok=True)
        _settle(task)
        fold = begin(fold)
        task = replace(task, fold=fold)
        set_up(fold)
        with lease(1) as gpus, explained(fold):
            network, facts = _train(task, gpus)
            earlier = facts.pop("earlier")
            checkpoint.save(fold.folder, network, fold.variant)
            computed_on = hardware(gpus)
        manifest = {
            **task.configuration(),
            "threads": torch.get_num_threads(),
            "images": {"train": len(fold.train), "held_out": len(fold.held_out)},
            "parameters": parameter_count(network),
            **facts,
            WEIGHTS_DIGEST: digest((fold.folder / WEIGHTS_FILE).read_bytes()),
            "hardware": computed_on,
            "git_commit": provenance.git_commit(),
            "versions": provenance.versions(),
        }
    with explained(fold):
        table = _score(task)
    manifest = {
        **manifest,
        "after": dict(task.after),
        f"before_{fold.metric.name}": float(table["before"].mean()),
        fold.metric.name: float(table["after"].mean()),
        **Spent.so_far().since(start).after(earlier).rounded(),
    }
    shutil.rmtree(fold.resume_folder, ignore_errors=True)
    atomic.write_json(fold.folder / MANIFEST_FILE, manifest)
    return manifest
