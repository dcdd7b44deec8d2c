"""Two programs never fill one folder at once: the second is refused before it does anything, or waits."""

from __future__ import annotations

import errno
import importlib
import inspect
import multiprocessing
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import folder_lock
from command_line import UserError, program
from ensemble import photographs
from folder_lock import LOCK_FILE, alone_with, fill
from models.runtimes import TORCH
from tests.lock_holder import held_by_another
from tests.synthetic_runs import UNET, save_blend, save_member, write_photograph
from tests.test_documents import programs

ROOT = Path(__file__).parent.parent
# programs that fill a folder: what they are given, the folder under the working folder, and its lock
FILLERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "ensemble.export": ({"out": Path("there")}, "there", LOCK_FILE),
    "ensemble.fit": ({}, "runs/carvana/blend", ".fit.lock"),
    "ensemble.photographs": ({"images": Path("photographs"), "out": Path("there")}, "there", LOCK_FILE),
    "ensemble.ship": ({"out": Path("there")}, "there", ".carvana.lock"),
    "folds.export_composites": ({"out": Path("there")}, "there", LOCK_FILE),
    "folds.label_depth": ({"function": "json:loads", "data": Path("there")}, "there", LOCK_FILE),
    "kaggle_client.download": ({"data": Path("there")}, "there", LOCK_FILE),
    "predict.import_member": ({"name": "other", "oof": Path("none")}, "runs/carvana/other", LOCK_FILE),
    "report.explore.write": ({}, "runs/carvana/explore", LOCK_FILE),
    "report.group_labels": ({"out": Path("there")}, "there", LOCK_FILE),
    "report.pseudo": ({}, "runs/carvana/blend/pseudo", LOCK_FILE),
    "report.suspects": ({}, "runs/carvana/suspects", LOCK_FILE),
    "studio.composites": ({"out": Path("there")}, "there", LOCK_FILE),
    "studio.render": ({"out": Path("there")}, "there", LOCK_FILE),
    "submit.make": ({}, "runs/carvana/blend", ".submission.lock"),
}
# `out` is one file, or a page in a folder that another program fills
ONE_FILE = {"folds.augment", "report.activations", "report.photographs"}


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a blend of a network."""
    root = tmp_path / "runs" / "carvana"
    save_blend(root, [save_member(root, UNET)], [1.0])
    write_photograph(tmp_path / "photographs" / "one.jpg", 41, 67)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder_lock, "_DYING_S", 0.1)
    return tmp_path


@pytest.mark.parametrize("name", FILLERS)
def test_what_another_process_fills_is_refused_before_anything_is_done(name: str, here: Path) -> None:
    flags, folder, lock = FILLERS[name]
    before = files_in(here)
    with held_by_another(here / folder, lock) as holder, pytest.raises(SystemExit) as refused:
        importlib.import_module(name).main(**flags)
    message = str(refused.value.code)
    assert re.search(rf"is being written by process {holder.pid} on \S+: wait for it to end", message), message
    after = files_in(here)
    after.pop(f"{folder}/{lock}")
    assert after == before


def test_every_program_that_fills_a_folder_that_is_named_to_it_takes_its_lock() -> None:
    named = set()
    for name in programs():
        module = importlib.import_module(name)
        main = getattr(module, "main", None)
        if main is not None and not name.startswith("benchmarks") and "out" in inspect.signature(main).parameters:
            named.add(name)
    assert named - ONE_FILE <= set(FILLERS)


def test_of_two_that_ship_at_once_one_ships_and_the_other_is_refused(here: Path) -> None:
    """Whichever comes second is told at once, or finds the folder there: never a report of what is not."""
    command = [sys.executable, "-m", "ensemble.ship", "--runs", str(here / "runs"), "--out", str(here / "shipped")]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ended = [process.communicate() for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 1], ended
    refused = ended[codes.index(1)][1]
    assert re.search(r"error: \S+/carvana is (being written by process \d+ on|there already: remove it)", refused)
    assert not list((here / "shipped").glob(".*"))


def test_masks_of_two_variants_never_lie_in_one_folder(here: Path) -> None:
    root = here / "runs" / "carvana"
    for k in range(7):
        write_photograph(here / "photographs" / f"{k}.jpg", 33 + k, 47, seed=k)
    for name in ("one", "other"):
        save_member(root, replace(UNET, name=name))
    command = [sys.executable, "-m", "ensemble.photographs", "--images", str(here / "photographs"), "--backend", TORCH]
    command += ["--runs", str(here / "runs"), "--out", str(here / "masks"), "--variant"]
    both = [
        subprocess.Popen([*command, name], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in ("one", "other")
    ]
    ended = [process.communicate() for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 1], ended
    assert re.search(r"is being written by process|holds masks of another blend or variant", ended[codes.index(1)][1])
    masks = {name: data for name, data in files_in(here / "masks").items() if name.endswith(".png")}
    assert len(masks) == 8
    photographs.main(
        images=here / "photographs",
        out=here / "alone",
        variant=("one", "other")[codes.index(0)],
        runs=here / "runs",
        backend="torch",
    )
    assert {name: data for name, data in files_in(here / "alone").items() if name.endswith(".png")} == masks


def test_a_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    with alone_with(tmp_path / "a" / "b", "b"):
        assert (tmp_path / "a" / "b" / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []
    with alone_with(tmp_path / "a" / "b", "b"):
        (tmp_path / "a" / "b" / "written").touch()
    assert files_in(tmp_path) == {"a/b/written": b""}


def test_a_folder_that_may_not_be_written_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()

    def open_none(self: Path, *arguments: Any, **more: Any) -> Any:
        raise PermissionError(errno.EROFS, "Read-only file system", str(self))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=r"there may not be written \(Read-only"):
        patch.setattr(Path, "open", open_none)
        with alone_with(folder, "it"):
            pass


def test_a_program_that_fails_gives_the_lock_up(tmp_path: Path) -> None:
    @program
    def failing() -> None:
        fill(tmp_path, "the folder")
        raise UserError("no.")

    for _ in range(2):
        with pytest.raises(SystemExit, match=r"error: no\."):
            failing()
    assert list(tmp_path.iterdir()) == []


def _count(folder: Path, times: int) -> None:
    for _ in range(times):
        with alone_with(folder, "the counter", wait=True):
            path = folder / "count"
            path.write_text(str(int(path.read_text()) + 1))


def test_of_many_that_wait_each_has_it_alone(tmp_path: Path) -> None:
    """Each holder removes the lock's file, which others have open already."""
    (tmp_path / "count").write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(tmp_path, 23)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "count").read_text() == "92"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]
