"""The training program: its table, refusals before any image is read; folds side by side, of which one is killed."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import folder_lock
from folds import train
from folds.fold import run_fold
from folds.recipes import find_recipe
from folds.task import FoldTask, begin_with_threads
from folds.train import _print_table, main
from models.variants import VARIANTS
from tests.dying import die
from tests.killed_folds import check_same, kill_in_the_second_epoch, tiny_flags
from tests.lock_holder import held_by_another
from tests.tiny_folds import QUICK, TINY, maker


def refusal(tmp_path: Path, **arguments: Any) -> str:
    with pytest.raises(SystemExit) as caught:
        main(**{"data": tmp_path / "none", "runs": tmp_path / "runs", **arguments})
    assert not (tmp_path / "runs").exists()
    return str(caught.value.code)


def test_plans_that_cannot_work_are_refused_before_the_data_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert "--weights none" in refusal(tmp_path, variant="unet-resnet34-512")
    assert "is missing" in refusal(tmp_path, variant="unet-resnet34-512", weights="none")
    assert "has no encoder" in refusal(tmp_path, variant="a-unet-128", weights="imagenet")
    assert "unknown recipe" in refusal(tmp_path, variant="a-unet-128", recipe="z-unet")
    assert "accumulate -1" in refusal(tmp_path, variant="a-unet-128", accumulate=-1)
    assert "is missing" in refusal(tmp_path, variant="a-unet-128,average-mask")


def test_a_batch_larger_than_the_data_is_refused_before_an_image_is_opened(ellipses: Path, tmp_path: Path) -> None:
    for image in (ellipses / "train").iterdir():
        image.write_bytes(b"not an image")
    assert "--batch 12 works" in refusal(tmp_path, data=ellipses, variant="a-cnn-128")


def test_the_table_has_the_last_epochs_dice_beside_that_of_the_weights_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"fpn-regnetx": {"last_dice": 0.8}, "average-mask": {}, "a-cnn-128": {"last_dice": 0.8}}
    for name, more in figures.items():
        for fold, images in enumerate((1, 3)):
            # one fold from before the figure was there
            extra = {} if (name, fold) == ("a-cnn-128", 1) else more
            facts = {"variant": VARIANTS[name].to_json(), "fold": fold, "data_digest": "d", "folds_digest": "f"}
            manifest = {**facts, "dice": 0.9 - 0.2 * fold, "images": {"train": 1, "held_out": images}} | extra
            path = tmp_path / name / f"fold{fold}" / "manifest.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(manifest))
    _print_table([VARIANTS[name] for name in (*figures, "unet-resnet18")], tmp_path, 2)
    head, *rows = capsys.readouterr().out.splitlines()[1:]
    assert head.split() == ["out-of-fold", "Dice", "fold", "0", "fold", "1", "mean", "of", "the", "last", "epoch"]
    assert [row.split()[1:] for row in rows] == [
        ["0.9000", "0.7000", "0.7500", "0.8000"],
        ["0.9000", "0.7000", "0.7500", "-"],
        ["0.9000", "0.7000", "0.7500", "-"],
        ["-", "-", "-", "-"],
    ]


@pytest.mark.slow
def test_folds_end_as_undisturbed_though_one_is_killed_in_mid_training(
    ellipses: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags, marker = tiny_flags(monkeypatch), tmp_path / "killed"
    kill_in_the_second_epoch(monkeypatch, marker)
    main(**flags, data=ellipses, runs=tmp_path / "alone", jobs=1)
    main(**flags, data=ellipses, runs=tmp_path / "beside", jobs=2)
    assert marker.exists()
    printed = capsys.readouterr().out
    assert "a process was killed; 2 tasks remain" in printed
    # one after the other, and side by side
    assert printed.count("; 1 of 2 folds, ") == 2 and printed.count("; 2 of 2 folds, ") == 2
    check_same(tmp_path / "beside", tmp_path / "alone")
    assert len(list((tmp_path / "beside").rglob("weights.safetensors"))) == 2


def test_a_fold_whose_process_is_killed_each_time_ends_in_one_sentence(
    ellipses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_train", die)
    flags = tiny_flags(monkeypatch)
    with pytest.raises(SystemExit) as caught:
        main(**flags, data=ellipses, runs=tmp_path / "runs", jobs=2)
    message = str(caught.value.code)
    assert message.startswith("error: processes keep dying")
    assert "fewer --jobs" in message
    assert "\n" not in message


def manifest_of(task: FoldTask) -> dict[str, Any]:
    """What the line about a finished fold is made of."""
    return {"variant": {"name": task.variant.name}, "fold": task.fold, "dice": 0.5, "seconds": 1.0}


def test_a_fold_is_refused_at_once_while_another_process_trains_it_and_not_after(
    ellipses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_lock, "_DYING_S", 0.2)
    begun: list[str] = []

    def begin(task: FoldTask) -> dict[str, Any]:
        begun.append(task.label)
        return manifest_of(task)

    monkeypatch.setattr(train, "_train", begin)
    flags = {**tiny_flags(monkeypatch), "data": ellipses, "runs": tmp_path / "runs", "jobs": 1}
    with held_by_another(tmp_path / "runs" / "carvana" / "tiny" / "fold1") as holder:
        with pytest.raises(SystemExit) as caught:
            main(**flags)
        named = f"error: tiny fold 1 is being trained by process {holder.pid} on {platform.node()}: wait"
        assert str(caught.value.code).startswith(named)
        assert begun == []
        # killed with no chance to clear up, it gives the lock up
        holder.kill()
        holder.wait()
        main(**flags)
    assert begun == ["tiny fold 0", "tiny fold 1"]


def test_a_cluster_waits_for_a_fold_that_another_process_trains(
    ellipses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_lock, "_DYING_S", 0.2)
    # what a thread prints while capsys is read may be lost
    said: list[str] = []
    monkeypatch.setattr(folder_lock, "print", lambda text, **_: said.append(text), raising=False)
    task = maker(ellipses, tmp_path)(TINY, QUICK)
    trained: list[str] = []
    monkeypatch.setattr(train, "complete_fold", lambda each: trained.append(each.label))
    with ThreadPoolExecutor(1) as pool, held_by_another(task.folder) as holder:
        other = pool.submit(train._train_when_free, task)
        while not said:
            assert not other.done()
            time.sleep(0.01)
        assert f"trained by process {holder.pid}" in said[0]
        assert trained == []
        holder.kill()
        other.result()
    assert trained == ["tiny fold 0"]


PARENT = """
import sys, time
from pathlib import Path
from command_line import program
from folds.parallel import in_parallel
from tests.dying import tell_who_and_sleep

@program
def main():
    folder = Path(sys.argv[1])
    list(in_parallel(tell_who_and_sleep, [folder] * 2, 2, label="sleep", size=lambda _: 1, few=0, jobs=2))

main()
"""


def test_workers_end_with_the_program_that_started_them(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1]) as parent:
        while len(list(tmp_path.iterdir())) < 2:
            assert parent.poll() is None
            time.sleep(0.05)
        parent.kill()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(set(workers)) == 2
    until = time.monotonic() + 20
    while any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers):
        assert time.monotonic() < until, "a worker has outlived its program"
        time.sleep(0.05)


def test_the_bytes_of_a_fold_do_not_depend_on_how_many_are_left(
    ellipses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {**tiny_flags(monkeypatch), "fold": "0,1,2", "epochs": 1, "data": ellipses}
    given: dict[Path, list[int]] = {}
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("folds.devices.core_count", lambda: 6)
    monkeypatch.setattr("folds.devices.thread_count", lambda: 6)

    def begin(task: FoldTask) -> dict[str, Any]:
        given.setdefault(task.folder, []).append(task.threads)
        return manifest_of(task)

    def all_here(call: Callable[[FoldTask], object], pending: Callable[[], list[FoldTask]], **_: object) -> list[None]:
        for task in pending():
            call(task)
        return []

    monkeypatch.setattr(train, "_train", begin)
    monkeypatch.setattr(train, "run_all", all_here)
    monkeypatch.setattr(train, "_print_table", lambda *_: None)
    monkeypatch.setattr(train, "is_complete", lambda task: False)
    main(**flags, runs=tmp_path / "runs")
    assert list(given.values()) == [[2], [2], [2]]
    # of three folds one is left
    monkeypatch.setattr(train, "is_done", lambda task: task.fold != 1)
    monkeypatch.setattr(train, "find_damage", lambda *_: None)
    main(**flags, runs=tmp_path / "runs")
    assert list(given.values()) == [[2], [2, 2], [2]]


def test_a_fold_goes_on_with_the_threads_that_it_was_begun_with(ellipses: Path, tmp_path: Path) -> None:
    make = maker(ellipses, tmp_path)
    fitted, recipe = VARIANTS["average-mask"], find_recipe(VARIANTS["average-mask"].recipe)
    before = torch.get_num_threads()
    try:
        for begun, expected in ((2, 2), (None, 1)):
            task = make(fitted, recipe, f"begun-{begun}")
            if begun:
                begin_with_threads(task.folder, begun)
            # wherever it is taken up, with however many to itself
            assert run_fold(replace(task, threads=1))["threads"] == torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
