"""One fold of one variant: train, keep the best weights, write its out-of-fold logits, and last its manifest."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import json
import logging
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import atomic
import provenance
from folds import optimisation
from folds.augment import Augmentation
from folds.cache import Frames, Truth
from folds.images import TrainingSet
from folds.module import SegmentationModule
from folds.recipes import Recipe
from folds.samples import EpochSampler, Samples
from folds.scoring import full_size_dice
from folds.store import LogitStore
from models import checkpoint
from models.build import build, parameter_count
from models.frame import frame_of
from models.network_input import normalise
from models.tta import find_transforms, mean_logits
from models.variants import Variant

MANIFEST_FILE = "manifest.json"
RECIPE_FILE = "recipe.json"
_RESUME_DIR = "resume"


@dataclass(frozen=True)
class FoldTask:
    """Everything one fold needs; pickles to a worker.

    Attributes:
        folder: `runs/<competition>/<variant>/fold<k>`.
        fold: its number.
        train, held_out: positions in `training.names`.
        store: path of the variant's OOF store, already created.
        folds_digest: digest of the fold table, for the manifest.
        seed: of weights, order and augmentation; the fold number is added.
        threads: of torch and OpenCV; 0 leaves them alone.
        bar: show Lightning's progress bar; otherwise one line an epoch.
    """

    training: TrainingSet
    truth: Truth
    frames: Frames
    variant: Variant
    recipe: Recipe
    fold: int
    train: np.ndarray
    held_out: np.ndarray
    folder: Path
    store: Path
    folds_digest: str
    seed: int
    threads: int = 0
    bar: bool = True


class _EpochLines(Callback):
    """One line an epoch, for runs whose output is shared with others or kept in a log."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print epoch, loss, full-size Dice and the time left at this rate."""
        metrics = trainer.callback_metrics
        done, epochs = trainer.current_epoch + 1, trainer.max_epochs or 0
        left = (time.perf_counter() - self._start) / done * (epochs - done)
        print(
            f"{self._label}  epoch {done}/{epochs}  loss {float(metrics['train_loss']):.4f}"
            f"  Dice {float(metrics['val_dice']):.4f}  {left:.0f} s left",
            flush=True,
        )


def _loader(samples: Samples, positions: np.ndarray, task: FoldTask, *, shuffle: bool) -> Any:
    sampler = EpochSampler(positions, seed=task.seed + task.fold, shuffle=shuffle)
    # a last batch of one image would break batch norm at 1x1; dropping it changes with the order, so none is lost
    drop = shuffle and len(positions) > task.recipe.batch
    return torch.utils.data.DataLoader(samples, task.recipe.batch, sampler=sampler, drop_last=drop)


def _last_state(task: FoldTask) -> Path:
    return task.folder / _RESUME_DIR / "last.ckpt"


def _fit_network(task: FoldTask, network: torch.nn.Module) -> dict[str, Any]:
    """Train by gradient; the network ends with the weights of its best epoch. Returns facts for the manifest."""
    resume = task.folder / _RESUME_DIR
    module = SegmentationModule(
        network, task.variant, task.recipe, frame_of(task.variant), task.truth, task.training.competition.size
    )
    best = ModelCheckpoint(resume, filename="best", monitor="val_dice", mode="max", save_last=True)
    callbacks: list[Callback] = [
        best,
        TQDMProgressBar(leave=True) if task.bar else _EpochLines(f"{task.variant.name} fold {task.fold}"),
    ]
    recipe = task.recipe
    if recipe.patience:
        mode = "max" if recipe.monitor == "val_dice" else "min"
        callbacks.append(EarlyStopping(recipe.monitor, recipe.min_delta, recipe.patience, mode=mode, check_finite=True))
    if recipe.ema:
        callbacks.append(optimisation.MovingAverage(recipe.ema))
    precision = optimisation.precision(recipe)
    trainer = lightning.Trainer(
        max_epochs=recipe.epochs,
        precision=precision,
        accumulate_grad_batches=recipe.accumulate,
        accelerator="auto",
        devices=1,
        logger=[
            CSVLogger(task.folder, name="", version="", flush_logs_every_n_steps=10**9),
            TensorBoardLogger(task.folder, name="", version="tensorboard"),
        ],
        callbacks=callbacks,
        gradient_clip_val=recipe.clip or None,
        enable_model_summary=False,
        enable_progress_bar=task.bar,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
    )
    augmented = Samples(task.frames, Augmentation(recipe.augment, task.seed + task.fold))
    last = _last_state(task)
    trainer.fit(
        module,
        _loader(augmented, task.train, task, shuffle=True),
        _loader(Samples(task.frames, None), task.held_out, task, shuffle=False),
        ckpt_path=str(last) if last.exists() else None,
        weights_only=True,
    )
    if trainer.interrupted:
        raise KeyboardInterrupt
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
    network.load_state_dict({name.removeprefix("network."): tensor for name, tensor in state.items()})
    return {"epochs_run": trainer.current_epoch, "steps": trainer.global_step, "precision": precision}


def _write_oof(task: FoldTask, network: torch.nn.Module) -> np.ndarray:
    """Write the held-out images' logits; return their full-size Dice as they read back from the store."""
    store = LogitStore.open(task.store)
    transforms = find_transforms(task.variant.tta)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).eval()
    frame, full = frame_of(task.variant), task.training.competition.size
    scores = []
    for start in range(0, len(task.held_out), task.recipe.batch):
        positions = task.held_out[start : start + task.recipe.batch]
        images = np.stack([task.frames.image(int(p)) for p in positions])
        with torch.inference_mode():
            batch = normalise(torch.from_numpy(images).to(device), task.variant)
            logits = mean_logits(network, batch, transforms).cpu().numpy()
        for position, planes in zip(positions, logits, strict=True):
            name = task.training.names[position]
            store.write(name, planes)
            scores.append(full_size_dice(store.read(name)[0], frame, task.truth.of(int(position)), full))
    return np.array(scores)


def run_fold(task: FoldTask) -> dict[str, Any]:
    """Train one fold and write `weights.safetensors`, variant and recipe, OOF logits and, last, `manifest.json`.

    Killed and called again, it goes on from its last completed epoch.

    Returns:
        The manifest.

    Raises:
        UserError: the network diverged or cannot be built; the message says what to change.
    """
    if task.threads:
        torch.set_num_threads(task.threads)
        cv2.setNumThreads(task.threads)
    # its tips about loaders' workers and devices are written for other set-ups
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    start = time.perf_counter()
    lightning.seed_everything(task.seed + task.fold, verbose=False)
    # a run that goes on has its weights already
    network = build(task.variant, pretrained=not _last_state(task).exists())
    atomic.write_json(task.folder / RECIPE_FILE, task.recipe.to_json())
    if task.variant.fitted:
        network.fit(task.frames.mask(int(p)) for p in task.train)  # type: ignore[operator]
        facts: dict[str, Any] = {}
    else:
        facts = _fit_network(task, network)
    checkpoint.save(task.folder, network, task.variant)
    scores = _write_oof(task, network)
    manifest = {
        "variant": task.variant.to_json(),
        "recipe": task.recipe.to_json(),
        "fold": task.fold,
        "seed": task.seed,
        "data_digest": task.training.digest,
        "folds_digest": task.folds_digest,
        "images": {"train": len(task.train), "held_out": len(task.held_out)},
        "parameters": parameter_count(network),
        **facts,
        "dice": float(scores.mean()),
        "seconds": round(time.perf_counter() - start, 1),
        "git_commit": provenance.git_commit(),
        "versions": provenance.versions(),
    }
    shutil.rmtree(task.folder / _RESUME_DIR, ignore_errors=True)
    atomic.write_json(task.folder / MANIFEST_FILE, manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a completed fold; None where there is none."""
    try:
        value: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text())
    except FileNotFoundError:
        return None
    return value
