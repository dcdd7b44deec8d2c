"""File systems that lack calls, as ext2, NFS and FUSE do: what is written there is what is written anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import write_ellipses
from tests.killed_folds import check_same
from tests.lacking_calls import CALLS, CAN_LACK, REFUSALS

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(not CAN_LACK, reason="needs Linux on x86-64 or ARM64")

# a file of 1,234,567 bytes with something at its beginning and nothing after it, as a new array is
RESERVE = """
import pathlib, sys
from tests.lacking_calls import lack
lack({"fallocate": sys.argv[2]})
import atomic
from tests.no_room import no_room
path = pathlib.Path(sys.argv[1])
with path.open("wb") as file:
    file.write(b"begun")
    file.truncate(1_234_567)
if len(sys.argv) > 3:
    with no_room():
        atomic.allocate(path.with_name("b.npy"), 1_234_567)
atomic.allocate(path, 1_234_567)
"""

TRAIN_AND_WRITE = """
import json, pathlib, sys
from tests.lacking_calls import lack
lack(json.loads(sys.argv[3]))
from folds.fold import run_fold
from submit.spool import write_all
from submit.stream import SubmissionStream
from tests.tiny_folds import QUICK, TINY, maker
root = pathlib.Path(sys.argv[2])
run_fold(maker(pathlib.Path(sys.argv[1]), root)(TINY, QUICK))
names = [f"{k}.jpg" for k in range(7)]
stream = SubmissionStream(root / "shards", names, header=("img", "rle_mask"), size=(1, 1), shard_rows=3, fingerprint={})
write_all(stream, ((name, b"1 1") for name in names))
"""


def run(program: str, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )


@pytest.mark.parametrize("refusal", REFUSALS)
def test_room_is_taken_where_there_is_no_call_for_it(refusal: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    done = run(RESERVE, path, refusal)
    assert done.returncode == 0, done.stderr
    status = path.stat()
    assert status.st_size == 1_234_567 <= status.st_blocks * 512
    assert path.read_bytes() == b"begun".ljust(1_234_567, b"\0")


def test_a_full_disk_is_a_sentence_there_too(tmp_path: Path) -> None:
    done = run(RESERVE, tmp_path / "a.npy", "ENOSYS", "full")
    assert done.returncode != 0
    assert f"the disk is full: {tmp_path / 'b.npy'} could not be written (it needs 1,234,567 bytes" in done.stderr


def test_folds_and_submissions_are_the_same_where_calls_are_lacking(tmp_path: Path) -> None:
    data = write_ellipses(tmp_path / "data")
    for folder, refusals in (("whole", {}), ("lacking", dict(zip(CALLS, REFUSALS, strict=True)))):
        done = run(TRAIN_AND_WRITE, data, tmp_path / folder, json.dumps(refusals))
        assert done.returncode == 0, done.stderr
    check_same(tmp_path / "whole", tmp_path / "lacking")
