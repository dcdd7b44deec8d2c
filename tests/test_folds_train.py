"""The training program: its table, refusals before any image is read; folds side by side, of which one is killed."""

from __future__ import annotations

import fcntl
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import atomic
from folds import train
from folds.run_layout import LOCK_FILE, MANIFEST_FILE
from folds.train import _print_table, main
from models.variants import VARIANTS
from tests.dying import die
from tests.killed_folds import kill_in_the_second_epoch, results, tiny_flags
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
            manifest = {"dice": 0.9 - 0.2 * fold, "images": {"held_out": images}} | extra
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
    assert "a process was killed; 2 tasks remain" in capsys.readouterr().out
    expected = results(tmp_path / "alone")
    assert results(tmp_path / "beside") == expected
    assert sum(name.endswith("weights.safetensors") for name in expected) == 2


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


def test_a_fold_that_another_process_trains_is_waited_for(
    ellipses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = maker(ellipses, tmp_path)(TINY, QUICK)
    trained: list[str] = []
    monkeypatch.setattr(train, "run_fold", lambda each: trained.append(each.label))
    with ThreadPoolExecutor(1) as pool:
        task.folder.mkdir()
        with (task.folder / LOCK_FILE).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            other = pool.submit(train._train, task)
            while "trained by another process" not in capsys.readouterr().out:
                assert not other.done()
            done = {"variant": TINY.to_json(), "fold": 0, "images": {"train": 1, "held_out": 1}, "dice": 1.0}
            atomic.write_json(task.folder / MANIFEST_FILE, {**done, "data_digest": "d", "folds_digest": "f"})
        assert other.result()["dice"] == 1.0
    assert trained == []
