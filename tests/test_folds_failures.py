"""What a fold says when it cannot go on, and that nothing is lost by it."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch._utils import ExceptionWrapper

from command_line import UserError
from folds.devices import lease
from folds.failures import explained, out_of_memory
from folds.fold import run_fold
from folds.heads import HEADS
from folds.module import SegmentationModule
from folds.recipes import Recipe
from folds.store import LogitStore
from folds.task import FoldTask, read_manifest
from models.variant import PRESENCE_HEAD, Head
from tests.tiny_folds import DROPPING, QUICK, TINY, DyingInputs, Make, maker, train_in_child


@pytest.fixture
def task(ellipses: Path, tmp_path: Path) -> Make:
    return maker(ellipses, tmp_path)


def weights(made: FoldTask) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(made.folder / "weights.safetensors")


def same(first: FoldTask, second: FoldTask) -> bool:
    expected = weights(second)
    return all(torch.equal(tensor, expected[name]) for name, tensor in weights(first).items())


def test_a_loss_that_is_no_number_stops_and_names_its_images(task, capsys: pytest.CaptureFixture[str]) -> None:
    # the first step throws the weights so far that the second overflows
    wild = task(TINY, replace(QUICK, optimiser="sgd", learning_rate=1e25))
    with pytest.raises(
        UserError, match=r"became (nan|-?inf) in epoch 1, batch .*diverged.json.*--learning-rate 2.5e\+24"
    ):
        run_fold(wild)
    told = json.loads((wild.folder / "diverged.json").read_text())
    assert told["phase"] == "train"
    assert len(told["images"]) == 2
    assert set(told["images"]) <= set(wild.training.names[:8])
    assert read_manifest(wild.folder) is None
    run_fold(replace(wild, recipe=QUICK))
    assert not (wild.folder / "diverged.json").exists()


def test_an_interrupted_run_does_not_go_on_with_another_recipe(
    task, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = task(TINY, QUICK, "begun")
    step = SegmentationModule.training_step

    def stop_in_the_second_epoch(self: SegmentationModule, batch, index: int):
        if self.current_epoch:
            raise RuntimeError("stopped here")
        return step(self, batch, index)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped here"):
        patch.setattr(SegmentationModule, "training_step", stop_in_the_second_epoch)
        run_fold(begun)
    assert begun.last_state.exists()
    slower = replace(QUICK, learning_rate=1e-3)
    changed, fresh = replace(begun, recipe=slower), task(TINY, slower, "fresh")
    run_fold(changed)
    assert "begun with another recipe" in capsys.readouterr().out
    run_fold(fresh)
    assert same(changed, fresh)


def test_dice_that_stays_at_0_is_an_alarm(
    task, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_fold(task(TINY, QUICK, "alive"))["alarms"] == []
    monkeypatch.setitem(HEADS, "mask", replace(HEADS["mask"], score=lambda *_: 0.0))
    (alarm,) = run_fold(task(TINY, replace(QUICK, epochs=4), "dead"))["alarms"]
    assert "tiny fold 0 was 0 for 3 epochs up to epoch 3" in alarm
    assert capsys.readouterr().out.count(f"warning: {alarm}") == 1


@pytest.mark.parametrize(
    ("recipe", "devices", "words"),
    [
        (replace(QUICK, batch=16), 1, "batch of 16 at 32x48 .*--batch 8 --accumulate 2 .* 2 times less .* 16 images a"),
        (replace(QUICK, batch=12, accumulate=2), 1, "--batch 6 --accumulate 4 "),
        (replace(QUICK, batch=5), 1, r"--batch 2 --accumulate 2 .*keeps 4 images a step \(now 5\)"),
        (replace(QUICK, batch=8), 4, "--batch 4 --accumulate 2 "),
        (replace(QUICK, batch=1, precision="float32"), 1, "size 16x24 .* 4 times less, or train with --precision bf16"),
        (replace(QUICK, batch=1, precision="bf16"), 1, r"the size 16x24 .* 4 times less\.$"),
        (replace(QUICK, batch=4), 4, "no smaller batch"),
        (replace(QUICK, batch=1), 1, r"train on crops \(--crop 0\.5\), or give .* the size 16x24 .* 4 times less"),
        (replace(QUICK, batch=16, crop=0.5), 1, "batch of 16 at 16x24 .*--batch 8 "),
        (replace(QUICK, batch=1, crop=0.5), 1, r"batch of 1 at 16x24 .*\(--crop 0\.25\), or .* 16x24 .* 4 times less"),
    ],
)
def test_out_of_memory_computes_what_fits(task, recipe: Recipe, devices: int, words: str) -> None:
    made = replace(task(TINY, recipe), devices=devices)
    assert re.search(words, out_of_memory(made)), out_of_memory(made)


def test_crops_are_no_advice_where_they_are_refused_or_no_smaller(task) -> None:
    presence = replace(TINY, heads=(*TINY.heads, Head(PRESENCE_HEAD, 1)))
    for made in (
        replace(task(TINY, replace(QUICK, batch=1)), variant=presence),
        task(TINY, replace(QUICK, batch=1, crop=0.01), "small"),
    ):
        assert "no smaller batch" in out_of_memory(made) and "--crop" not in out_of_memory(made)


def test_out_of_memory_while_training_is_said(task, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: SegmentationModule, batch, index: int):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(SegmentationModule, "training_step", fail)
    with pytest.raises(UserError, match="--batch 1 --accumulate 2"):
        run_fold(task(TINY, QUICK))


def test_a_dead_loading_process_is_said(task) -> None:
    made = task(TINY, QUICK)
    made = replace(made, inputs=DyingInputs(made.inputs, os.getpid()), workers=1)
    with pytest.raises(UserError, match=r"loads the images of tiny fold 0 died.*--workers"):
        run_fold(made)


def test_a_fault_found_by_a_loading_process_is_said_without_its_traceback(task) -> None:
    made = task(TINY, QUICK)
    try:
        raise UserError("a.jpg is cut off: copy it again.")
    except UserError:
        # what torch makes of an error in a worker
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(UserError) as caught, explained(made):
        wrapped.reraise()
    assert str(caught.value) == "a.jpg is cut off: copy it again."


def test_folds_at_once_take_their_own_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("folds.devices._name", str)
    with lease(1, tmp_path) as first, lease(2, tmp_path) as second:
        assert (first, second) == ([0], [1, 2])
        # none is free: shared rather than waited for
        with lease(2, tmp_path) as third:
            assert len(set(third)) == 2
    with lease(2, tmp_path) as again:
        assert again == [0, 1]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with lease(1, tmp_path) as none:
        assert none == []


@pytest.fixture(scope="module")
def children():
    """Processes that begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["folds.fit"])
    return context


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_ctrl_c_leaves_a_state_to_go_on_from(task, children) -> None:
    recipe = replace(QUICK, epochs=30)
    whole, stopped = task(TINY, recipe, "whole"), task(TINY, recipe, "stopped")
    child = children.Process(target=train_in_child, args=(stopped,))
    child.start()
    wait_for(stopped.last_state.exists)
    os.kill(child.pid, signal.SIGINT)
    child.join(60)
    assert child.exitcode == 130
    assert read_manifest(stopped.folder) is None
    assert run_fold(stopped)["steps"] == run_fold(whole)["steps"] == 120
    assert same(stopped, whole)


def test_a_run_killed_at_ten_moments_ends_as_one_that_was_not(task, children) -> None:
    recipe = replace(QUICK, epochs=12, ema=0.9, schedule="cosine", patience=12, augment="flip-affine-hsv")
    whole, killed = task(DROPPING, recipe, "whole"), task(DROPPING, recipe, "killed")
    start = time.monotonic()
    manifest = run_fold(whole)
    epoch_s = (time.monotonic() - start) / recipe.epochs

    def saved() -> int:
        try:
            return killed.last_state.stat().st_mtime_ns
        except FileNotFoundError:
            # not yet, or no more: a fold that is complete removes it
            return 0

    rng = np.random.default_rng(4)
    begun = 0
    for kill in range(10):
        before = saved()
        child = children.Process(target=train_in_child, args=(killed,))
        child.start()
        if kill in (0, 5):  # while it starts, or goes on
            child.join(rng.uniform(0, epoch_s))
        else:
            while child.is_alive() and saved() == before:
                child.join(0.01)
            child.join(rng.uniform(0, epoch_s / 2))
        child.kill()
        child.join()
        begun += saved() != before
        if child.exitcode == 0:  # it was faster, and what it left counts: run again, it would train anew
            break
    assert begun > 3
    again = read_manifest(killed.folder) or run_fold(killed)
    assert again["steps"] == manifest["steps"] == 48
    assert again["epochs_run"] == manifest["epochs_run"] == 12
    assert same(killed, whole)
    assert (killed.folder / "metrics.csv").read_bytes() == (whole.folder / "metrics.csv").read_bytes()
    stores = [LogitStore.open(made.store) for made in (killed, whole)]
    assert stores[0].missing() == stores[1].missing() == list(whole.training.names[:8])
    for name in whole.training.names[8:]:
        np.testing.assert_array_equal(stores[0].read(name), stores[1].read(name))
