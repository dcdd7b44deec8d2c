"""States of a training to go on from: written whole beside their place, and the one before the last is kept."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

import atomic
from command_line import UserError
from folds.run_layout import LAST_STATE_FILE, PREVIOUS_STATE_FILE
from models import checkpoint, torch_file

# of what Lightning's `ModelCheckpoint` keeps
_STATE_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
# of a state: what a training that goes on reads
_PARTS = {"state_dict": dict, "optimizer_states": list, "callbacks": dict, "loops": dict, "epoch": int}


class StateFiles(TorchCheckpointIO):
    """How Lightning writes states: its own way goes through TMPDIR and copies from there, so that a killed copy, or a
    full disk, leaves half a file under the name of a whole one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a state whole or not at all; the last one becomes the one before.

        Raises:
            UserError: the disk is full; the states that are there stay.
        """
        target = Path(path)
        with atomic.replacing(target) as temporary:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
            if target.name == LAST_STATE_FILE and target.exists():
                _keep_as_previous(target)


def _keep_as_previous(last: Path) -> None:
    """Have the last state be the one before, too, until the next one takes its name: whoever asks in between whether a
    training was begun finds it."""
    previous = last.with_name(PREVIOUS_STATE_FILE)
    linked = atomic.temporary_beside(previous)
    try:
        os.link(last, linked)
    except OSError:
        # no hard links on this file system: killed before the next one is there, a training goes on from that one
        last.replace(previous)
        return
    try:
        linked.replace(previous)
    finally:
        # of two names of one file, neither takes the other's place
        linked.unlink(missing_ok=True)


def _each_path(kept: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """What a `ModelCheckpoint` keeps, with each path to a state changed; an empty one is of no state."""
    changed = {key: change(kept[key]) if kept[key] else "" for key in _STATE_PATHS}
    return {**kept, **changed, "best_k_models": {change(path): score for path, score in kept["best_k_models"].items()}}


class EpochStates(ModelCheckpoint):
    """Saves the states after the two best epochs and, whatever its score, after the last one.

    Lightning's own `save_last` saves the last one only where it is among the best: a training that goes on would go
    back to an older one, and `keep` "last" would keep that.

    Args:
        folder: of the states.
        logged: the name of the score.
    """

    def __init__(self, folder: Path, logged: str) -> None:
        # two are kept: a run that is killed before its state is saved must still find the best epoch before
        super().__init__(folder, filename="best", monitor=logged, mode="max", save_last=True, save_top_k=2)

    @property
    def state_key(self) -> str:
        """That of Lightning's own, under which states of before have what is kept."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def state_dict(self) -> dict[str, Any]:
        """What Lightning keeps, with names of states in place of their paths, as the folder may be moved."""
        return _each_path(super().state_dict(), lambda path: Path(path).name) | {"dirpath": ""}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what was kept, wherever the folder was then: of another one Lightning drops nearly all."""
        folder = str(self.dirpath)
        here = _each_path(state_dict, lambda path: str(Path(folder, Path(path).name)))
        super().load_state_dict(here | {"dirpath": folder})

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the states."""
        super().on_train_epoch_end(trainer, pl_module)
        # nothing was saved yet after this epoch: it is not among the best
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


def _is_whole(path: Path) -> bool:
    """Whether a state's file is there and its content has its checksums, at which torch does not look."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError):
        return False


def _read(path: Path, *, mapped: bool = False) -> dict[str, Any] | None:
    """A state that Lightning saved, on the CPU; None where the file is missing, damaged or no state."""
    if not _is_whole(path):
        return None
    state = torch_file.read(path, mapped=mapped)
    if not isinstance(state, dict) or any(not isinstance(state.get(key), kind) for key, kind in _PARTS.items()):
        return None
    if not all(isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in state["state_dict"].items()):
        return None
    return state


def load_state(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """A state that Lightning saved, on the CPU.

    Args:
        path: of its file.
        mapped: tensors stay on the disk until they are used.

    Raises:
        UserError: it is missing or damaged.
    """
    state = _read(path, mapped=mapped)
    if state is None:
        raise UserError(f"{path} is missing or damaged: run the same command again, which goes on from another state.")
    return state


def weights_of(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The network's tensors in a state, by its own names."""
    return {name.removeprefix("network."): tensor for name, tensor in state["state_dict"].items()}


def _best_beside(path: Path, state: dict[str, Any]) -> list[Path]:
    """Where the state of the best epoch lies beside one that was saved after it; empty where there was none."""
    kept = [each.get("best_model_path") for each in state["callbacks"].values() if isinstance(each, dict)]
    return [path.with_name(Path(best).name) for best in kept if best]


def _is_usable(path: Path) -> bool:
    """Whether a training can go on from a state, and end: the best epoch before it must be there too."""
    state = _read(path, mapped=True)
    return state is not None and all(_read(best, mapped=True) is not None for best in _best_beside(path, state))


def refuse_other_network(path: Path, network: torch.nn.Module, label: str) -> None:
    """Refuse to go on from a state of another network: one that was copied here, or of a variant that has changed.

    The state of the best epoch is looked at too, which training would load hours later.

    Args:
        path: of the state.
        network: that shall go on; names and shapes of its tensors are compared.
        label: of the fold, for the message.

    Raises:
        UserError: it is one; or a file is missing or damaged.
    """
    state = load_state(path, mapped=True)
    for each in (path, *_best_beside(path, state)):
        misfit = checkpoint.misfit(weights_of(state if each == path else load_state(each, mapped=True)), network)
        if misfit:
            raise UserError(
                f"{each} is a state of another network than {label} has: {misfit}; put the fold's own states or its "
                f"variant back as they were, or remove {path.parent} to train the fold anew."
            )


def settle_states(folder: Path, label: str) -> None:
    """Have a training's last state be one that it can go on from: where the last one is damaged or missing, the one
    before takes its place, or all are dropped.

    Args:
        folder: of the states, there or not.
        label: of the fold, for the line that says what was done.
    """
    last, previous = folder / LAST_STATE_FILE, folder / PREVIOUS_STATE_FILE
    atomic.clear_leftovers(folder)
    if not last.exists() and not previous.exists():
        # killed before the first epoch was through
        return
    if _is_usable(last):
        return
    if _is_usable(previous):
        if last.exists():
            print(f"{label}: {last} is damaged, the training goes on from the state an epoch before", flush=True)
        previous.replace(last)
        return
    print(f"{label}: no state in {folder} can be read, the training starts anew", flush=True)
    for path in folder.glob("*.ckpt"):
        path.unlink()
