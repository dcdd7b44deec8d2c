"""Whatever becomes of the states of an unfinished training, it ends with the weights of an undisturbed one."""

from __future__ import annotations

import errno
import functools
import math
import os
import pickle
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from command_line import UserError
from folds.fold import run_fold
from folds.module import SegmentationModule
from folds.states import StateFiles, load_state, settle_states
from folds.task import FoldTask, read_manifest
from tests.conftest import write_ellipses
from tests.killed_folds import check_same
from tests.no_room import no_room
from tests.test_folds_derived import FAULTS
from tests.tiny_folds import DROPPING, QUICK, TINY, maker

RECIPE = replace(QUICK, epochs=4)
# tensors of other shapes; more of them; less of them; and of other names
OTHERS = {
    "wider": replace(TINY, options={"widths": (4, 12)}),
    "deeper": replace(TINY, options={"widths": (4, 8, 8)}),
    "shallower": replace(TINY, options={"widths": (4,)}),
    "another architecture": DROPPING,
}


def flip_a_weight(path: Path) -> None:
    """Flip a bit of the largest tensor; between tensors a file has bytes that nobody reads."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
        content = archive.read(largest)
    whole = bytearray(path.read_bytes())
    whole[whole.index(content, largest.header_offset) + len(content) // 2] ^= 16
    path.write_bytes(whole)


# an empty file and one without a header are read no further than one that is cut off
DAMAGE = {"missing": FAULTS["missing"], "cut off": FAULTS["cut off"], "a flipped bit": flip_a_weight}
# what a sound file may hold, and be no state to go on from
NO_STATE: dict[str, object] = {
    "nothing": {},
    "a list": [1, 2],
    "weights alone": {"state_dict": {"network.weight": torch.zeros(3)}},
    "weights in words": {
        "state_dict": {"network.weight": "three"},
        "optimizer_states": [],
        "callbacks": {},
        "loops": {},
        "epoch": 2,
    },
    "no callbacks": {"state_dict": {}, "optimizer_states": [], "loops": {}, "epoch": 2},
    "an epoch in words": {"state_dict": {}, "optimizer_states": [], "callbacks": {}, "loops": {}, "epoch": "third"},
    "a class": Path("a/pickled/object"),
}


def another_zip(path: Path) -> None:
    path.unlink()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no state at all")


def empty_zip(path: Path) -> None:
    zipfile.ZipFile(path, "w").close()


FOREIGN: dict[str, Callable[[Path], object]] = {
    "another zip": another_zip,
    "an empty zip": empty_zip,
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"epoch": 2})),
    **{name: functools.partial(torch.save, content) for name, content in NO_STATE.items()},
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[FoldTask, bytes]:
    """A fold stopped in its fourth epoch, and the weights that it would have had in the end."""
    root = tmp_path_factory.mktemp("states")
    make = maker(write_ellipses(root / "data"), root)
    whole, stopped = make(TINY, RECIPE, "whole"), make(TINY, RECIPE, "stopped")
    run_fold(whole)
    stop_in_the_fourth_epoch(stopped)
    return stopped, (whole.folder / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def of_others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the states of other networks, trained on the same images by the same recipe."""
    root = tmp_path_factory.mktemp("others")
    make = maker(write_ellipses(root / "data"), root)
    tasks = {name: make(variant, RECIPE, name) for name, variant in OTHERS.items()}
    for task in tasks.values():
        stop_in_the_fourth_epoch(task)
    return {name: task.resume_folder for name, task in tasks.items()}


def stop_in_the_fourth_epoch(task: FoldTask) -> None:
    step = SegmentationModule.training_step

    def stop(self: SegmentationModule, batch: Any, index: int) -> object:
        if self.current_epoch == 3:
            raise RuntimeError("stopped here")
        return step(self, batch, index)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="stopped here"):
        patch.setattr(SegmentationModule, "training_step", stop)
        run_fold(task)


def copy_of(begun: FoldTask, root: Path) -> FoldTask:
    shutil.copytree(begun.folder.parent, root / "run")
    return replace(begun, folder=root / "run" / "fold0", store=root / "run" / "oof.zarr")


@pytest.mark.parametrize("fault", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize(
    ("places", "words"),
    [
        (["last.ckpt"], "goes on from the state an epoch before"),
        (["previous.ckpt"], ""),
        (["last.ckpt", "previous.ckpt"], "starts anew"),
        (["best.ckpt", "best-v1.ckpt"], "starts anew"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_a_damaged_state_costs_an_epoch_or_the_training_and_no_byte(
    fault: Callable[[Path], object],
    places: list[str],
    words: str,
    begun: tuple[FoldTask, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = copy_of(begun[0], tmp_path)
    for place in places:
        fault(task.resume_folder / place)
    run_fold(task)
    assert (task.folder / "weights.safetensors").read_bytes() == begun[1]
    said = capsys.readouterr().out
    # a kill, too, leaves a state before without a last one, or best ones without any: that needs no word
    assert words in said or (fault is Path.unlink and "last.ckpt" in places)
    assert not task.resume_folder.exists()


@pytest.mark.parametrize("fault", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("place", ["last.ckpt", "best.ckpt", "all"])
def test_a_sound_file_that_is_no_state_is_one_that_is_damaged(
    fault: Callable[[Path], object],
    place: str,
    begun: tuple[FoldTask, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = copy_of(begun[0], tmp_path)
    for state in sorted(task.resume_folder.glob("*.ckpt")):
        if place in (state.name, "all"):
            fault(state)
    run_fold(task)
    assert (task.folder / "weights.safetensors").read_bytes() == begun[1]
    said = capsys.readouterr().out
    words = "goes on from the state an epoch before" if place == "last.ckpt" else "starts anew"
    assert said.count(words) == 1


def best_of(folder: Path) -> Path:
    """The state after the best epoch, as the last one names it."""
    (best,) = {
        each["best_model_path"]
        for each in load_state(folder / "last.ckpt")["callbacks"].values()
        if each.get("best_model_path")
    }
    return folder / best


@pytest.mark.parametrize("place", ["all", "best"])
@pytest.mark.parametrize("other", OTHERS)
def test_states_of_another_network_are_refused_in_one_sentence_that_helps(
    other: str, place: str, begun: tuple[FoldTask, bytes], of_others: dict[str, Path], tmp_path: Path
) -> None:
    task = copy_of(begun[0], tmp_path)
    own, named = task.resume_folder, task.last_state
    if place == "best":
        named = best_of(own)
        shutil.copy(best_of(of_others[other]), named)
    else:
        for state in own.glob("*.ckpt"):
            state.unlink()
        for state in of_others[other].glob("*.ckpt"):
            shutil.copy(state, own)
    before = {path.name: path.read_bytes() for path in own.glob("*.ckpt")}
    with pytest.raises(UserError) as caught:
        run_fold(task)
    said = str(caught.value)
    assert said.startswith(f"{named} is a state of another network than tiny fold 0 has: ") and "\n" not in said
    assert re.search(r": \d+ tensors differ, \S+ first \(.+ there, .+ here\)", said)
    assert said.endswith(f"or remove {own} to train the fold anew.")
    # nothing was lost
    assert {path.name: path.read_bytes() for path in own.glob("*.ckpt")} == before
    shutil.rmtree(own)
    run_fold(task)
    assert (task.folder / "weights.safetensors").read_bytes() == begun[1]


@pytest.mark.parametrize("other", ["wider", "deeper", "shallower"])
def test_a_variant_that_changed_under_a_fold_is_refused_and_once_put_back_goes_on(
    other: str, begun: tuple[FoldTask, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = copy_of(begun[0], tmp_path)
    with pytest.raises(
        UserError, match=r"last\.ckpt is a state of another network than tiny fold 0 has: .* tensors? dif"
    ):
        run_fold(replace(task, variant=OTHERS[other]))
    capsys.readouterr()
    run_fold(task)
    assert (task.folder / "weights.safetensors").read_bytes() == begun[1]
    # the one epoch that was left
    assert capsys.readouterr().out.count("epoch ") == 1


def test_the_last_epoch_is_the_last_however_poor_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.4, 0.3, 0.2])
    logged = SegmentationModule.log

    def log(self: SegmentationModule, name: str, value: Any, **more: Any) -> None:
        logged(self, name, next(scores) if name == "val_dice" else value, **more)

    monkeypatch.setattr(SegmentationModule, "log", log)
    task = maker(write_ellipses(tmp_path / "data"), tmp_path)(TINY, replace(RECIPE, keep="last"))
    assert run_fold(task)["best_epoch"] == 0
    weights = safetensors.torch.load_file(task.folder / "weights.safetensors")
    # four epochs of four steps
    assert {int(count) for name, count in weights.items() if name.endswith("num_batches_tracked")} == {16}


@pytest.mark.parametrize("scores", [[0.5, 0.4, 0.3, 0.2, 0.1], [0.1, 0.3, 0.4, 0.2, 0.35]], ids=["first", "third"])
@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_training_that_is_moved_between_epochs_ends_as_one_that_stays(
    keep: Any, scores: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in every epoch but the first, and moved each time: the same files, whichever epoch was the best."""
    logged, step = SegmentationModule.log, SegmentationModule.training_step
    stop_in = math.inf

    def log(self: SegmentationModule, name: str, value: Any, **more: Any) -> None:
        logged(self, name, scores[self.current_epoch] if name == "val_dice" else value, **more)

    def stopping(self: SegmentationModule, batch: Any, index: int) -> object:
        if (self.current_epoch, index) == (stop_in, 1):
            raise RuntimeError("stopped here")
        return step(self, batch, index)

    monkeypatch.setattr(SegmentationModule, "log", log)
    monkeypatch.setattr(SegmentationModule, "training_step", stopping)
    make, recipe = maker(write_ellipses(tmp_path / "data"), tmp_path), replace(QUICK, epochs=5, keep=keep)
    whole, moved = make(TINY, recipe, "whole"), make(TINY, recipe, "epoch0")
    assert run_fold(whole)["best_epoch"] == scores.index(max(scores))
    for stop_in in range(1, 5):
        with pytest.raises(RuntimeError, match="stopped here"):
            run_fold(moved)
        assert not list(moved.resume_folder.glob("last-*"))
        assert load_state(moved.last_state)["epoch"] == stop_in - 1
        home = tmp_path / f"epoch{stop_in}"
        moved.folder.parent.rename(home)
        moved = replace(moved, folder=home / "fold0", store=home / "oof.zarr")
    stop_in = math.inf
    run_fold(moved)
    check_same(moved.folder.parent, whole.folder.parent)


def test_states_lie_beside_their_place_whatever_tmpdir_is(
    begun: tuple[FoldTask, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = copy_of(begun[0], tmp_path)
    shutil.rmtree(task.resume_folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no" / "such" / "folder"))
    run_fold(task)
    assert (task.folder / "weights.safetensors").read_bytes() == begun[1]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_state_to_go_on_from_is_there_whenever_a_save_is_killed(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each system call in turn, twice over: what one killed save leaves is what the next one finds."""
    files, last = StateFiles(), tmp_path / "last.ckpt"
    left: list[float] = []

    def dying(call: Callable[..., Any], works: bool = True) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            # nobody who asks whether a training was begun may hear that it was not
            assert last.exists() or not links
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            if not works:
                raise OSError(errno.EPERM, "Operation not permitted")
            return call(*args, **more)

        return wrapped

    def save(epoch: int, calls: float) -> None:
        left[:] = [calls]
        files.save_checkpoint({**state, "epoch": epoch}, last)

    left.append(math.inf)
    state: dict[str, Any] = {"state_dict": {}, "optimizer_states": [], "callbacks": {}, "loops": {}}
    files.save_checkpoint({**state, "epoch": 0}, last)
    monkeypatch.setattr(os, "link", dying(os.link, links))
    monkeypatch.setattr(os, "fsync", dying(os.fsync))
    monkeypatch.setattr(Path, "replace", dying(Path.replace))
    epoch = 1
    for calls in [0, 1, 2, 3] * 2:
        with pytest.raises(Killed):
            save(epoch, calls)
        left[:] = [math.inf]
        settle_states(tmp_path, "fold 0")
        # that of the save before, as the one that was killed took no name
        assert load_state(last)["epoch"] == epoch - 1
        save(epoch, math.inf)
        assert load_state(last)["epoch"] == epoch
        assert load_state(tmp_path / "previous.ckpt")["epoch"] == epoch - 1
        assert not list(tmp_path.glob(".tmp-*"))
        epoch += 1
    # more calls than that a save has not
    save(epoch, 4)


@pytest.mark.parametrize("limit_bytes", [500, 5_000, 20_000])
def test_a_full_disk_ends_a_training_in_one_sentence_and_then_it_goes_on(
    limit_bytes: int, begun: tuple[FoldTask, bytes], tmp_path: Path
) -> None:
    """The limit falls on the record of what is seen, on the first state, on weights or on logits."""
    task = copy_of(begun[0], tmp_path)
    with (
        pytest.raises(UserError, match=r"the disk is full: \S+ could not be written \(it needs"),
        no_room(limit_bytes),
    ):
        run_fold(task)
    assert read_manifest(task.folder) is None
    assert not list(tmp_path.rglob(".tmp-*"))
    for state in task.resume_folder.glob("*.ckpt"):
        load_state(state)
    run_fold(task)
    assert (task.folder / "weights.safetensors").read_bytes() == begun[1]
