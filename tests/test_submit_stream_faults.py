"""A submission that is made while the disk is full, may not be written, or its processes are killed."""

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import UserError
from submit.spool import write_all
from tests.small_stream import NAMES, expected_bytes, new_stream, rows

ROOT = Path(__file__).parents[1]


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_sentence_and_leaves_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stream(tmp_path / "shards")
    with monkeypatch.context() as patch:
        # the disk refuses when the third shard is to be made safe
        calls = iter([lambda _: None, lambda _: None])
        patch.setattr(os, "fsync", lambda fd: next(calls, full_disk)(fd))
        with pytest.raises(UserError, match=r"disk is full: .*shard-00002\.csv.* kept\.$"):
            write_all(stream, rows(NAMES))
    assert stream.missing() == [2, 3, 4, 5]
    assert not list(stream.folder.glob(".tmp-*"))
    again = new_stream(tmp_path / "shards")
    write_all(again, rows(NAMES))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(UserError, match=r"disk is full: .*submission\.csv\.gz"):
            again.join(tmp_path / "submission.csv.gz", {})
    assert [p.name for p in tmp_path.iterdir()] == ["shards"]
    again.join(tmp_path / "submission.csv", {})
    assert (tmp_path / "submission.csv").read_bytes() == expected_bytes()


def run(code: str, *arguments: object, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )


LIMITED = """
import os, sys
from pathlib import Path
from command_line import program
from submit.spool import write_all
from tests.no_room import no_room
from tests.small_stream import NAMES, new_stream, rows

@program
def main():
    folder = Path(sys.argv[1])
    stream = new_stream(folder)
    # rows that take too much room are those of the last shards
    heavy = [(name, b" ".join([b"1 1"] * (4000 if k >= 30 else 1))) for k, name in enumerate(NAMES)]
    if sys.argv[2] == "full":
        with no_room(100_000):
            return write_all(stream, heavy)
    else:
        stream.write_shard(0, heavy[:10])
        os.chmod(folder, 0o555)
        os.chdir(folder)
        stream.folder = Path()
        if os.getuid() == 0:
            # root may write everywhere
            os.setuid(65534)
        write_all(stream, heavy)

main()
"""


def test_a_real_refusal_of_the_system_ends_the_program_in_one_sentence(tmp_path: Path) -> None:
    for how, what, left in (
        ("full", "the disk is full", [3, 4, 5]),
        ("denied", "may not be written", [1, 2, 3, 4, 5]),
    ):
        folder = tmp_path / how
        done = run(LIMITED, folder, how)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert what in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        folder.chmod(0o755)
        stream = new_stream(folder)
        assert stream.missing() == left
        assert not list(folder.glob(".tmp-*"))
        assert stream.shard_path(0).read_bytes().count(b"\n") == 10 + 1


KILLED = """
import json, os, signal, sys
from pathlib import Path
from submit import spool
from tests.small_stream import new_stream, rows, shuffled

root = Path(sys.argv[1])
# rows are put down too, so that a kill can fall into that
spool._BUFFER_BYTES = 2000

class Moments:
    # The moments are counted in steps on the disk, not in seconds: a clock's kills all fall into one step as soon as
    # the machine takes its time somewhere.
    seen, last = 0, None
    between = False

    def __call__(self, event, arguments):
        if event in ("open", "os.rename", "os.remove") and str(root) in str(arguments[0]):
            self.seen += 1
            if self.seen == self.last:
                if self.between:
                    # the system's own clock ends the process as harshly, in the middle of what follows
                    signal.setitimer(signal.ITIMER_REAL, 0.0002)
                else:
                    os.kill(os.getpid(), signal.SIGKILL)

moments = Moments()
sys.addaudithook(moments)

def write(folder, seed, last=None, between=False):
    # a process of its own, without the tests' interpreter state: forked before any thread runs
    counted, count = os.pipe()
    child = os.fork()
    if child == 0:
        moments.seen, moments.last, moments.between = 0, last, between
        stream = new_stream(folder / "shards")
        spool.write_all(stream, rows(shuffled(seed)), workers=2)
        stream.join(folder / "submission.csv.gz", {})
        os.write(count, str(moments.seen).encode())
        os._exit(0)
    os.close(count)
    with open(counted) as file:
        steps = file.read()
    return os.waitpid(child, 0)[1], steps

def finish(folder, seed):
    status, steps = write(folder, seed)
    assert status == 0
    return int(steps)

finish(root / "whole1", 1)
steps = finish(root / "whole0", 0)
found = []
for k in range(20):
    folder = root / f"killed{k}"
    status, _ = write(folder, 0, last=1 + k * (steps - 1) // 19, between=k % 2 == 1)
    shards = len(list(folder.glob("shards/shard-*.csv")))
    finish(folder, 100 + k)
    found.append([status, shards])
print(json.dumps(found))
"""


def test_killed_at_20_moments_the_final_bytes_never_differ(tmp_path: Path) -> None:
    done = run(KILLED, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    whole = (tmp_path / "whole0" / "submission.csv.gz").read_bytes()
    assert gzip.decompress(whole) == expected_bytes()
    for k in range(20):
        assert (tmp_path / f"killed{k}" / "submission.csv.gz").read_bytes() == whole
        assert not list((tmp_path / f"killed{k}" / "shards").glob("spool-*.csv"))
        assert json.loads((tmp_path / f"killed{k}" / "manifest.json").read_text())["rows"] == 53
    # those between two steps come with the system's clock, which may be late; the others come as they were counted
    assert all(status == signal.SIGKILL for status, _ in found[::2]), "a process lived through its kill"
    assert len({shards for _, shards in found[::2]}) >= 4, "the kills fell into too few moments"
