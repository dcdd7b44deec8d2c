"""One fold of one variant: train, keep the weights, write its out-of-fold logits, and last its manifest."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch

import atomic
import provenance
from folds.devices import hardware, lease, share_of
from folds.divergence import DIVERGED_FILE
from folds.failures import explained
from folds.fit import fit_network, load_epoch, precision_of, set_up, worker_count
from folds.heads import MASK_HEAD
from folds.outputs import digests
from folds.precision import begin_in
from folds.run_layout import MANIFEST_FILE, RECIPE_FILE
from folds.scoring import full_size_score
from folds.spent import Spent
from folds.start import record_seen, starting_network
from folds.states import settle_states
from folds.store import LogitStore
from folds.task import FoldTask, begin_with_threads, begun_with_threads, read_recipe
from models import checkpoint
from models.build import parameter_count
from models.frame import frame_of
from models.precision import native
from models.prediction import torch_network
from models.tta import find_transforms


def begin(task: FoldTask) -> FoldTask:
    """Keep the recipe, the precision and what will be seen; a state of another recipe is no state to go on
    from, nor is a damaged one.

    Returns:
        The task, with what it computes in.
    """
    settle_states(task.resume_folder, task.label)
    if task.last_state.exists() and read_recipe(task.folder) != task.recipe.to_json():
        print(
            f"{task.label} was begun with another recipe or start: its unfinished training is dropped, it starts anew"
        )
        shutil.rmtree(task.resume_folder)
    if begun_with_threads(task.folder) is None:
        # so a fold that goes on beside more or fewer others keeps its number
        begin_with_threads(task.folder, share_of(task.threads))
    task = begin_in(task, native())
    write_records(task)
    return task


def write_records(task: FoldTask) -> None:
    """Write how a fold is trained, and what its weights will have seen."""
    atomic.write_json(task.folder / RECIPE_FILE, task.recipe.to_json())
    record_seen(task)


def _held_out_logits(
    task: FoldTask, network: torch.nn.Module, device: torch.device, wanted: Collection[int] | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Position and logits (K, h, w) of the held-out images, or of those wanted; batches are the same for any number of
    them, as the last bits depend on it."""
    transforms = find_transforms(task.variant.tta)
    predicting = torch_network(network, task.variant, device, precision_of(task))
    for start in range(0, len(task.held_out), task.recipe.batch):
        positions = [int(p) for p in task.held_out[start : start + task.recipe.batch]]
        if wanted is not None and not set(positions) & set(wanted):
            continue
        inputs = predicting.inputs(np.stack([task.inputs.image(p) for p in positions]))
        logits = predicting.mean_logits(inputs, transforms).cpu().numpy()
        yield from ((p, planes) for p, planes in zip(positions, logits, strict=True) if wanted is None or p in wanted)


def remake_logits(task: FoldTask, names: Sequence[str]) -> None:
    """Write a finished fold's out-of-fold logits of some images again, as they were written, on the same hardware.

    Args:
        task: the fold, whose weights are whole.
        names: of held-out images.

    Raises:
        UserError: the weights cannot be loaded, or memory ran out.
    """
    atomic.clear_leftovers(task.folder)
    set_up(task)
    store, wanted = LogitStore.open(task.store), {task.training.names.index(name) for name in names}
    with lease(task.devices) as gpus, explained(task):
        network = checkpoint.load(task.folder)[0]
        device = torch.device("cuda", gpus[0]) if gpus else torch.device("cpu")
        for position, planes in _held_out_logits(task, network, device, wanted):
            store.write(task.training.names[position], planes)


def score_stored(task: FoldTask) -> float:
    """Mean full-size score of the held-out images' stored logits."""
    store = LogitStore.open(task.store)
    return float(np.mean([_score(task, int(p), store.read(task.training.names[p])) for p in task.held_out]))


def _score(task: FoldTask, position: int, stored: np.ndarray) -> float:
    frame, full = frame_of(task.variant), task.training.competition.size
    plane = stored[task.variant.planes_of(MASK_HEAD)][0]
    return full_size_score(plane, frame, task.truths[MASK_HEAD].of(position), full, task.metric)


def _held_out_scores(task: FoldTask, network: torch.nn.Module, device: torch.device, *, write: bool) -> np.ndarray:
    """Full-size scores of the held-out images' logits as they read back from the store, which they are written to or
    not; one figure an image, in their order."""
    store = LogitStore.open(task.store)
    scores = []
    for position, planes in _held_out_logits(task, network, device):
        name = task.training.names[position]
        if write:
            store.write(name, planes)
        scores.append(_score(task, position, store.read(name) if write else store.rounded(planes)))
    return np.array(scores)


def run_fold(task: FoldTask) -> dict[str, Any]:
    """Train one fold and write `weights.safetensors`, variant and recipe, OOF logits and, last, `manifest.json`.

    Killed and called again, it goes on from its last completed epoch; with another recipe or start it starts anew.

    Returns:
        The manifest.

    Raises:
        UserError: the network diverged or cannot be built, memory ran out, or a process that loads images died; the
            message says what to change.
        KeyboardInterrupt: Ctrl-C; called again, it goes on.
    """
    start = Spent.so_far()
    task = begin(task)
    set_up(task)
    with lease(task.devices) as gpus, explained(task):
        network = starting_network(task)
        if task.variant.fitted:
            network.fit(task.inputs.target(int(p)) for p in task.train)  # type: ignore[operator]
            facts: dict[str, Any] = {}
        else:
            facts = fit_network(task, network, gpus)
        earlier = facts.pop("earlier", Spent())
        checkpoint.save(task.folder, network, task.variant)
        device = torch.device("cuda", gpus[0]) if gpus else torch.device("cpu")
        # the competition's name of the score; `last_` before it for the last epoch's
        kept, last = task.metric.name, f"last_{task.metric.name}"
        scores = {kept: float(_held_out_scores(task, network, device, write=True).mean())}
        if facts:
            # choosing an epoch by its score makes that score too high: beside it stands one that nothing was chosen by
            scores[last] = scores[kept]
            if task.recipe.keep == "best" and facts["best_epoch"] < facts["epochs_run"] - 1:
                load_epoch(network, task.last_state)
                scores[last] = float(_held_out_scores(task, network, device, write=False).mean())
        computed_on = hardware(gpus) if task.variant.fitted else hardware(gpus, task.devices, worker_count(task))
    manifest = {
        "variant": task.variant.to_json(),
        "recipe": task.recipe.to_json(),
        "fold": task.fold,
        "seed": task.seed,
        "threads": torch.get_num_threads(),
        "frame_version": frame_of(task.variant).version(task.training.competition.size),
        "data_digest": task.training.digest,
        "folds_digest": task.folds_digest,
        "images": {"train": len(task.train), "held_out": len(task.held_out)},
        **({"rounds": list(task.rounds)} if task.rounds else {}),
        "parameters": parameter_count(network),
        **facts,
        **scores,
        **digests(task),
        **Spent.so_far().since(start).after(earlier).rounded(),
        "hardware": computed_on,
        "git_commit": provenance.git_commit(),
        "versions": provenance.versions(),
    }
    shutil.rmtree(task.resume_folder, ignore_errors=True)
    (task.folder / DIVERGED_FILE).unlink(missing_ok=True)
    atomic.write_json(task.folder / MANIFEST_FILE, manifest)
    return manifest
