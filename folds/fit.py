"""Training one fold's network by gradient with Lightning, in this process or spread over several devices."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import logging
import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from cores import core_count, thread_count
from folds import optimisation
from folds.augment import Augmentation
from folds.batch_norm import share_statistics
from folds.boundary_crop import BoundaryCrop, crop_size
from folds.devices import set_threads
from folds.divergence import LossWatch
from folds.failures import explained
from folds.heads import MASK_HEAD
from folds.inputs import CachedInputs, DrawnInputs
from folds.interrupt import InterruptBetweenBatches
from folds.module import SegmentationModule
from folds.progress import Bar, EpochRecord
from folds.randomness import SeededEpochs
from folds.ranks import Rank, run_ranks
from folds.samples import EpochSampler, Samples, loader
from folds.start import starting_network
from folds.states import EpochStates, StateFiles, load_state, refuse_other_network, weights_of
from folds.task import FoldTask, begun_with_threads
from models.frame import frame_of
from models.host_memory import keep_freed
from models.precision import Precision, native, resolve

# more processes than this only wait for each other
_MOST_WORKERS = 8


def worker_count(task: FoldTask) -> int:
    """Processes that load samples for one device: as many as the task asks for, else chosen by what there is to do."""
    if multiprocessing.current_process().daemon:
        # such a process, as dask's nanny starts them, may not have children
        return 0
    if task.workers >= 0:
        return task.workers
    cores = task.threads or core_count()
    if torch.cuda.is_available():
        return max(1, min(_MOST_WORKERS, cores // task.devices - 1))
    # on a CPU the network needs the cores, and frames that are cached or composed cost next to nothing
    fast = isinstance(task.inputs, CachedInputs) or task.training.composed
    return 0 if fast or min(cores, thread_count()) // task.devices < 2 else 1


def set_up(task: FoldTask) -> None:
    """Seed this process, set its threads and memory, and silence what Lightning says about other set-ups."""
    if not torch.cuda.is_available():
        keep_freed()
    set_threads(task.threads, exactly=begun_with_threads(task.folder) or 0)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    lightning.seed_everything(task.seed + task.fold, verbose=False)


def _loader(task: FoldTask, rank: int, *, train: bool) -> Any:
    seed = task.seed + task.fold
    drawn = None
    if train and task.draws is not None:
        heads = [head.name for head in task.variant.heads]
        drawn = DrawnInputs(task.draws, frame_of(task.variant), heads, task.training.competition.size)
    extra = task.extra if train else None
    inputs = task.inputs if extra is None else extra.after(task.inputs, len(task.training.names))
    augmentation = crop = None
    if train:
        augmentation = Augmentation(task.recipe.augment, seed)
        if task.recipe.crop:
            crop = BoundaryCrop(
                crop_size(task.variant, task.recipe.crop), seed, task.variant.planes_of(MASK_HEAD).start
            )
    samples = Samples(inputs, augmentation, drawn, crop)
    sampler = EpochSampler(
        task.train if train else task.held_out,
        seed=seed,
        shuffle=train,
        batch=task.recipe.batch,
        rank=rank,
        world=task.devices,
        extra=None if extra is None else len(task.training.names) + np.arange(len(extra.names)),
        extra_batch=0 if extra is None else extra.in_batch(task.recipe.batch),
    )
    workers = worker_count(task)
    if workers:
        # imported once by the server that the workers are forked from, and not by each of them
        multiprocessing.set_forkserver_preload([__name__])
    pin = torch.cuda.is_available()
    return loader(samples, sampler, task.recipe.batch // task.devices, workers=workers, pin=pin)


def train_loader(task: FoldTask) -> Any:
    """The batches that one process trains on."""
    return _loader(task, 0, train=True)


def make_trainer(task: FoldTask, gpus: list[int], callbacks: list[Callback], **more: Any) -> lightning.Trainer:
    """Lightning's trainer of a fold.

    Args:
        task: the fold.
        gpus: indices of the GPUs to train on; none is the CPU.
        callbacks: beside those of the recipe and the progress bar.
        more: further arguments of the trainer.
    """
    recipe = task.recipe
    callbacks.append(SeededEpochs(task.seed, task.fold))
    if recipe.patience:
        watched, mode = recipe.watched(task.metric)
        callbacks.append(EarlyStopping(watched, recipe.min_delta, recipe.patience, mode=mode, check_finite=True))
    if recipe.ema:
        callbacks.append(optimisation.MovingAverage(recipe.ema))
    if task.bar:
        callbacks.append(Bar())
    strategy: Any = "auto"
    if task.devices > 1:
        strategy = DDPStrategy(
            process_group_backend="nccl" if gpus else "gloo",
            # the encoders have layers whose output no decoder reads
            find_unused_parameters=True,
            # the statistics are alike on all devices, as they come from the whole batch (share_statistics)
            broadcast_buffers=False,
        )
    return lightning.Trainer(
        max_epochs=recipe.epochs,
        precision=optimisation.lightning_precision(precision_of(task)),
        accumulate_grad_batches=recipe.accumulate,
        accelerator="cuda" if gpus else "cpu",
        devices=gpus or task.devices,
        strategy=strategy,
        # the sampler knows its rank
        use_distributed_sampler=False,
        logger=[TensorBoardLogger(task.folder, name="", version="tensorboard")],
        callbacks=callbacks,
        plugins=[StateFiles()],
        gradient_clip_val=recipe.clip or None,
        enable_model_summary=False,
        enable_progress_bar=task.bar,
        num_sanity_val_steps=0,
        # no metric is logged by the step
        log_every_n_steps=10**9,
        **more,
    )


def precision_of(task: FoldTask) -> Precision:
    """What a fold computes in; of a task that was not begun, what it would be on this machine."""
    return task.precision or resolve(task.recipe.precision, native())


def module_of(task: FoldTask, network: torch.nn.Module) -> SegmentationModule:
    """The fold's network as Lightning trains it."""
    precision = precision_of(task)
    names = (*task.training.names, *(task.extra.names if task.extra else ()))
    watch = LossWatch(task.folder, names, task.label, task.recipe, precision)
    weight = task.recipe.pseudo_weight
    extra = (len(task.training.names), weight) if task.extra and weight != 1 else None
    full = task.training.competition.size
    frame = frame_of(task.variant)
    return SegmentationModule(
        network, task.variant, task.recipe, frame, task.truths, full, watch, task.metric, extra, precision
    )


def _train(task: FoldTask, network: torch.nn.Module, gpus: list[int], rank: int) -> dict[str, Any]:
    """Train; it goes on from the fold's last state.

    Returns:
        Facts for the manifest; as "earlier", what processes before this one have spent; and, as "best", the path of the
        best epoch's checkpoint.

    Raises:
        UserError: the last state is of another network.
        KeyboardInterrupt: Ctrl-C.
    """
    state = task.last_state
    goes_on = state.exists()
    if goes_on:
        refuse_other_network(state, network, task.label)
    best = EpochStates(task.resume_folder, task.metric.logged)
    record = EpochRecord(
        task.folder,
        task.label,
        lines=not task.bar,
        mask_plane=task.variant.planes_of(MASK_HEAD).start,
        metric=task.metric,
    )
    interrupt = InterruptBetweenBatches()
    trainer = make_trainer(task, gpus, [best, record, interrupt])
    try:
        with interrupt:
            trainer.fit(
                module_of(task, network),
                _loader(task, rank, train=True),
                _loader(task, rank, train=False),
                ckpt_path=str(state) if goes_on else None,
                weights_only=True,
            )
    except SystemExit:
        # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    if trainer.is_global_zero:
        record.finish()
    return {
        "epochs_run": trainer.current_epoch,
        "steps": trainer.global_step,
        "precision": precision_of(task),
        "alarms": record.alarms,
        "earlier": record.earlier,
        "best": best.best_model_path,
    }


def load_epoch(network: torch.nn.Module, state: Path) -> int:
    """Load the weights that an epoch was validated with, which are averages where the recipe averages.

    Args:
        network: the fold's; its weights are replaced.
        state: the file that Lightning saved after the epoch.

    Returns:
        The epoch, numbered from 0.

    Raises:
        UserError: the file is missing or damaged.
    """
    saved = load_state(state)
    network.load_state_dict(weights_of(saved))
    return int(saved["epoch"])


def _train_as_rank(task: FoldTask, gpus: list[int], rank: Rank) -> dict[str, Any]:
    set_up(task)
    with explained(task):
        network = share_statistics(starting_network(task), on_gpu=bool(gpus))
        return _train(task, network, gpus, rank.index)


def fit_network(task: FoldTask, network: torch.nn.Module, gpus: list[int]) -> dict[str, Any]:
    """Train by gradient; the network ends with the weights of the epoch that the recipe keeps.

    Args:
        task: the fold.
        network: its network, from which training starts unless a state to go on from is there.
        gpus: indices of the GPUs to train on; none is the CPU.

    Returns:
        Facts for the manifest: epochs_run, steps, precision, alarms, best_epoch (numbered from 0); and earlier, what
        processes before this one have spent.

    Raises:
        UserError: the training cannot go on; the message says what to change.
        KeyboardInterrupt: Ctrl-C; the state after the last completed epoch is there.
    """
    if task.devices == 1:
        facts = _train(task, network, gpus, 0)
    else:
        facts = run_ranks(_train_as_rank, task, gpus, count=task.devices)
    facts["best_epoch"] = load_epoch(network, Path(facts.pop("best")))
    if task.recipe.keep == "last":
        load_epoch(network, task.last_state)
    return facts
