import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image

import atomic
from command_line import UserError
from tests.modes import GROUP_READS, check_modes, umask
from tests.no_room import no_room


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    atomic.write_json(target, {"old": 1})
    with pytest.raises(RuntimeError), atomic.replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(target.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_missing_folders_are_made_and_the_suffixes_kept(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "b.csv.gz"
    with atomic.replacing(target) as temporary:
        assert temporary.suffixes[-2:] == [".csv", ".gz"]
        assert temporary.parent == target.parent
        temporary.write_bytes(b"x")
    assert target.read_bytes() == b"x"


NOISE = np.random.default_rng(0).integers(0, 256, (100, 111, 3)).astype(np.uint8)


def map_into_memory(path: Path) -> None:
    atomic.allocate(path, NOISE.nbytes)
    np.memmap(path, np.uint8, "r+", shape=NOISE.shape)[:] = NOISE


def save_into_file(path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"a": torch.from_numpy(NOISE)}, file)


# 33,300 bytes and more, by every library that writes here
WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(NOISE.tobytes()),
    "text": lambda path: path.write_text("x" * 40_000),
    "numpy": lambda path: np.save(path, NOISE),
    "memory map": map_into_memory,
    "safetensors": lambda path: safetensors.torch.save_file({"a": torch.from_numpy(NOISE)}, path),
    "torch": lambda path: torch.save({"a": torch.from_numpy(NOISE)}, path),
    "torch, a file": save_into_file,
    "pandas": lambda path: pd.DataFrame(NOISE[..., 0]).to_csv(path),
    "Pillow": lambda path: Image.fromarray(NOISE).save(path, format="PNG"),
}


@pytest.mark.parametrize("inside", ["file", "folder"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_one_sentence_whatever_writes_and_nothing_is_half_written(
    write: Callable[[Path], object], inside: str, tmp_path: Path
) -> None:
    target = tmp_path / "a.npy"

    def attempt() -> None:
        if inside == "file":
            with atomic.replacing(target) as temporary:
                write(temporary)
        else:
            with atomic.building(target) as temporary:
                write(temporary / "b.npy")

    if inside == "file":
        target.write_text("old")
    with no_room(), pytest.raises(UserError) as caught:
        attempt()
    found = re.fullmatch(
        r"the disk is full: (\S+) could not be written \(it needs (more than )?([\d,]+ bytes|more), and [\d,]+ are "
        r"free( in all, but a quota or another limit is reached)?\); free some space in (\S+) and run the same command "
        r"again, what is finished is kept\.",
        str(caught.value),
    )
    assert found is not None, caught.value
    assert found[1].startswith(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == (["a.npy"] if inside == "file" else [])
    if inside == "file":
        assert target.read_text() == "old"
    # the remedy
    attempt()
    assert target.is_dir() == (inside == "folder")


@pytest.mark.parametrize("mask", [0o002, 0o022, GROUP_READS, 0o077], ids=oct)
@pytest.mark.parametrize("inside", ["file", "folder"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_files_have_the_mode_that_any_new_file_has_whatever_writes(
    write: Callable[[Path], object], inside: str, mask: int, tmp_path: Path
) -> None:
    target = tmp_path / "deep" / "a.npy"
    with umask(mask):
        if inside == "file":
            with atomic.replacing(target) as temporary:
                write(temporary)
        else:
            with atomic.building(target) as temporary:
                (temporary / "deeper").mkdir()
                write(temporary / "deeper" / "b.npy")
    check_modes(tmp_path, mask)


def test_what_a_link_in_a_folder_leads_to_keeps_its_mode(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.touch(0o600)
    with atomic.building(tmp_path / "a") as temporary:
        (temporary / "link").symlink_to(private)
    assert private.stat().st_mode & 0o777 == 0o600


def test_what_cannot_fit_is_refused_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "free_bytes", lambda folder: 1000)
    for context in (atomic.replacing, atomic.building):
        with (
            pytest.raises(UserError, match=r"/a could not be written \(it needs 1,001 bytes, and 1,000 are free"),
            context(tmp_path / "a", needed_bytes=1001),
        ):
            pytest.fail("it was begun")
        assert list(tmp_path.iterdir()) == []


def ended_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_killed_processes_left_goes_and_what_others_are_at_stays(kind: str, tmp_path: Path) -> None:
    mine = atomic.temporary_beside(tmp_path / "living.csv")
    machine, process = mine.name.split("-")[1:3]
    assert mine.name.endswith("-living.csv")
    names = {
        mine.name: True,
        f".tmp-{machine}-{ended_process()}-01234567-dead.csv": False,
        f".tmp-00000000-{process}-01234567-other-young.csv": True,
        f".tmp-00000000-{process}-01234567-other-old.csv": False,
        ".tmp-01234567-older-kind.csv": False,
        ".tmp-fetch": True,
        "a.csv": True,
    }
    for name in names:
        path = tmp_path / name
        if kind == "folder":
            path.mkdir()
            (path / "inside").touch()
        else:
            path.touch()
        if "old" in name:
            for each in (*path.rglob("*"), path):
                os.utime(each, (time.time() - 7200,) * 2)
    removed = atomic.clear_leftovers(tmp_path)
    assert {path.name for path in removed} == {name for name, stays in names.items() if not stays}
    assert {path.name for path in tmp_path.iterdir()} == {name for name, stays in names.items() if stays}


def test_whoever_writes_into_a_folder_clears_it_and_so_does_make_clean(tmp_path: Path) -> None:
    machine = atomic.temporary_beside(tmp_path).name.split("-")[1]
    name = f".tmp-{machine}-{ended_process()}-01234567-dead.csv"
    inner = tmp_path / "runs" / "a"
    inner.mkdir(parents=True)
    for folder in (tmp_path, inner):
        (folder / name).touch()
    atomic.write_text(tmp_path / "a.txt", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "runs"]
    done = subprocess.run(
        [sys.executable, "-m", "atomic", str(tmp_path / "runs"), str(tmp_path / "none")],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"removed {inner / name}\n"
    assert list(inner.iterdir()) == []


def test_names_of_any_length_have_room_for_a_temporary_one(tmp_path: Path) -> None:
    for name in ("a" * 250 + ".csv", "\U0001f697" * 62 + ".csv"):
        atomic.write_text(tmp_path / name, "whole")
        assert (tmp_path / name).read_text() == "whole"
