import errno
import gzip
import hashlib
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from command_line import UserError
from competition import COMPETITIONS, Order
from submit import spool
from submit.spool import write_all
from submit.stream import Row, SubmissionStream, row_text
from submit.writer import open_rows
from tests import naive

ROOT = Path(__file__).parents[1]
SIZE = (24, 37)
HEADER = COMPETITIONS["carvana"].header
NAMES = [f"{k:012x}_01.jpg" for k in range(53)]


def mask_of(name: str) -> np.ndarray:
    """A mask drawn from the image's name; every seventh is empty."""
    number = int(name[:12], 16)
    return np.random.default_rng(number).random(SIZE) > (1 if number % 7 == 0 else 0.6)


def rows(names: list[str]) -> Iterator[Row]:
    for name in names:
        yield name, mask_of(name)


def text_of(mask: np.ndarray, order: Order = "row") -> bytes:
    return naive.text(naive.encode(mask, order))


def expected_bytes() -> bytes:
    return b"img,rle_mask\n" + b"".join(b"%s,%s\n" % (n.encode(), text_of(mask_of(n))) for n in NAMES)


def new_stream(folder: Path, **changes: object) -> SubmissionStream:
    arguments = {
        "names": NAMES,
        "header": HEADER,
        "size": SIZE,
        "shard_rows": 10,
        "fingerprint": {"blend": "mean", "k": [1, 2]},
    }
    return SubmissionStream(folder, **{**arguments, **changes})  # type: ignore[arg-type]


def shuffled(seed: int) -> list[str]:
    return random.Random(seed).sample(NAMES, len(NAMES))


@pytest.mark.parametrize("seed", range(4))
def test_rows_in_any_order_give_the_same_bytes(tmp_path: Path, seed: int) -> None:
    stream = new_stream(tmp_path / "shards")
    write_all(stream, rows(NAMES if seed == 0 else shuffled(seed)), workers=1 + seed % 3)
    stream.join(tmp_path / "submission.csv", {})
    assert (tmp_path / "submission.csv").read_bytes() == expected_bytes()


def test_rows_put_down_to_disk_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_BUFFER_BYTES", 700)
    stream = new_stream(tmp_path / "shards")

    def watched() -> Iterator[Row]:
        for k, row in enumerate(rows(shuffled(9))):
            if k == 45:
                assert list(stream.folder.glob("spool-*.csv")), "nothing was ever put down"
            yield row

    write_all(stream, watched())
    assert not list(stream.folder.glob("spool-*.csv"))
    stream.join(tmp_path / "submission.csv", {})
    assert (tmp_path / "submission.csv").read_bytes() == expected_bytes()


def write_one(stream: SubmissionStream, shard: int) -> int:
    stream.write_shard(shard, rows(list(reversed(stream.shard_names(shard)))))
    return os.getpid()


def test_shards_from_several_processes(tmp_path: Path) -> None:
    stream = new_stream(tmp_path / "shards")
    assert stream.missing() == list(range(6))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(write_one, [stream] * 6, [5, 3, 1, 0, 2, 4]))
    assert stream.missing() == []
    stream.join(tmp_path / "submission.csv", {})
    assert (tmp_path / "submission.csv").read_bytes() == expected_bytes()


def test_a_stream_is_small_to_send_to_a_process(tmp_path: Path) -> None:
    many = new_stream(tmp_path / "many", names=[f"{k}.jpg" for k in range(20_000)])
    sent = pickle.dumps(many)
    assert len(sent) < 2000
    assert pickle.loads(sent).names == many.names


def test_one_gzip_member_and_the_manifest_last(tmp_path: Path) -> None:
    stream = new_stream(tmp_path / "shards")
    write_all(stream, rows(NAMES))
    path = tmp_path / "submission.csv.gz"
    manifest = stream.join(path, {"dice": 0.5})
    packed = path.read_bytes()
    member = zlib.decompressobj(31)
    assert member.decompress(packed) == gzip.decompress(packed) == expected_bytes()
    assert member.eof
    assert not member.unused_data, "more than one member"
    assert manifest == json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["sha256"] == hashlib.sha256(packed).hexdigest()
    assert (manifest["rows"], manifest["bytes"], manifest["dice"]) == (53, len(packed), 0.5)
    assert manifest["fingerprint"] == {"blend": "mean", "k": [1, 2]}
    before = path.stat().st_ino
    stream.join(path, {})
    assert path.stat().st_ino != before
    assert path.read_bytes() == packed, "the same shards give the same bytes at any time"


@pytest.mark.parametrize("step", ["pack_submission", "json.dumps", "check"])
def test_a_failed_join_leaves_the_submission_before_it_as_it_was(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = new_stream(tmp_path / "shards")
    write_all(stream, rows(NAMES))
    stream.join(tmp_path / "submission.csv", {})
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}

    def fail(*arguments: object, **more: object) -> None:
        raise ZeroDivisionError

    if step != "check":
        monkeypatch.setattr(f"submit.stream.{step}", fail)
    with pytest.raises(ZeroDivisionError):
        stream.join(tmp_path / "submission.csv", {"other": 1}, fail)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before
    assert set(before) == {"submission.csv", "manifest.json"}


def test_a_shard_that_is_damaged_is_noticed_and_made_again_alone(tmp_path: Path) -> None:
    stream = new_stream(tmp_path / "shards")
    write_all(stream, rows(NAMES))
    stream.join(tmp_path / "submission.csv", {})
    before = (tmp_path / "submission.csv").read_bytes()
    shard, other = stream.shard_path(2), new_stream(tmp_path / "others", fingerprint={"blend": "another"})
    good = shard.read_bytes()
    write_all(other, rows(NAMES))
    number = re.search(rb",(\d+)", good)
    assert number is not None
    damages = {f"bit {k} flipped": flipped(good, k * len(good) * 8 // 23) for k in range(23)}
    damages["a number that is still one"] = flipped(good, 8 * number.start(1))
    damages |= {"empty": b"", "cut off": good[:-9], "half": good[: len(good) // 2], "more": good + good[-30:]}
    damages["without its last line"] = good[: good.rfind(b"\n", 0, -1) + 1]
    damages["another shard"] = stream.shard_path(1).read_bytes()
    damages["of another submission"] = other.shard_path(2).read_bytes()
    for name, damage in damages.items():
        shard.write_bytes(damage)
        with pytest.raises(UserError, match=r"shard-00002\.csv was damaged .*: run the same command again"):
            stream.join(tmp_path / "submission.csv", {})
        assert (tmp_path / "submission.csv").read_bytes() == before, name
        assert stream.missing() == [2], name
        # the same command again finds it gone; had it looked before, it would have found the damage itself
        shard.write_bytes(damage)
        assert new_stream(tmp_path / "shards").drop_damaged() == [2], name
        write_one(stream, 2)
        assert shard.read_bytes() == good
    assert stream.drop_damaged() == []
    stream.join(tmp_path / "submission.csv", {})
    assert (tmp_path / "submission.csv").read_bytes() == before


def flipped(data: bytes, bit: int) -> bytes:
    """A copy with one bit the other way round."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_damaged_list_of_names_is_written_again(tmp_path: Path) -> None:
    stream = new_stream(tmp_path / "shards")
    names = tmp_path / "shards" / "names.txt"
    good = names.read_bytes()
    names.write_bytes(flipped(good, 77))
    assert pickle.loads(pickle.dumps(new_stream(tmp_path / "shards"))).names == stream.names
    assert names.read_bytes() == good


def test_resumed_it_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    first = new_stream(tmp_path / "shards")
    for shard in (1, 5):
        write_one(first, shard)
    stamp = first.shard_path(1).stat().st_mtime_ns
    again = new_stream(tmp_path / "shards")
    assert again.missing() == [0, 2, 3, 4]
    with pytest.raises(UserError, match="4 of 6 shards are missing"):
        again.join(tmp_path / "submission.csv", {})
    lacking = [name for shard in again.missing() for name in again.shard_names(shard)]
    # rows of finished shards are not even encoded: these would be refused
    finished = [(name, np.zeros((1, 1), bool)) for name in again.shard_names(1)]
    write_all(again, [*finished, *rows(lacking)])
    assert again.shard_path(1).stat().st_mtime_ns == stamp
    again.join(tmp_path / "submission.csv", {})
    assert (tmp_path / "submission.csv").read_bytes() == expected_bytes()


def test_another_submission_is_refused_unless_restarted(tmp_path: Path) -> None:
    write_one(new_stream(tmp_path / "shards"), 0)
    for change in (
        {"fingerprint": {"blend": "median"}},
        {"names": NAMES[:-1]},
        {"names": NAMES[::-1]},
        {"shard_rows": 11},
        {"size": (37, 24)},
        {"order": "column"},
        {"header": ("image", "mask")},
    ):
        with pytest.raises(UserError, match="another submission"):
            new_stream(tmp_path / "shards", **change)
    assert new_stream(tmp_path / "shards").missing() == [1, 2, 3, 4, 5], "a refusal must not touch the shards"
    changed = new_stream(tmp_path / "shards", fingerprint={"blend": "median"}, restart=True)
    assert changed.missing() == list(range(6))


def test_bad_rows_are_refused_by_name(tmp_path: Path) -> None:
    stream = new_stream(tmp_path / "shards")
    names = stream.shard_names(0)
    with pytest.raises(UserError, match=rf"lacks 1 images \({names[3]}"):
        stream.write_shard(0, rows(names[:3] + names[4:]))
    with pytest.raises(UserError, match=f"{names[2]} came twice"):
        stream.write_shard(0, rows([*names, names[2]]))
    with pytest.raises(UserError, match=f"{NAMES[10]} does not belong to shard 0"):
        stream.write_shard(0, rows([*names, NAMES[10]]))
    with pytest.raises(UserError, match=r"stranger\.jpg is not an image"):
        write_all(stream, [("stranger.jpg", b"1 1")])
    with pytest.raises(UserError, match="came twice"):
        write_all(stream, rows([*names[:9], names[0]]))
    with pytest.raises(ValueError, match="shape"):
        write_all(stream, [(names[0], np.zeros((3, 3), bool))])
    assert stream.missing() == list(range(6))
    with pytest.raises(UserError, match="twice"):
        new_stream(tmp_path / "other", names=["a.jpg", "a.jpg"])
    with pytest.raises(UserError, match="empty"):
        new_stream(tmp_path / "other", names=[])
    write_all(stream, rows(NAMES))
    with pytest.raises(UserError, match=r"must end in \.csv"):
        stream.join(tmp_path / "submission.txt", {})


def test_two_processes_do_not_share_a_spool(tmp_path: Path) -> None:
    stream = new_stream(tmp_path / "shards")

    def within() -> Iterator[Row]:
        with pytest.raises(UserError, match="another process"):
            write_all(stream, rows(NAMES))
        yield from rows(NAMES)

    write_all(stream, within())
    assert stream.missing() == []


def test_what_a_row_may_be() -> None:
    mask = mask_of(NAMES[1])
    text = text_of(mask)
    logits = np.where(mask, 2.5, -1.0)
    arrays = [mask, mask.astype(np.uint8), *(logits.astype(t) for t in (np.float16, np.float32, np.int16))]
    values: list[bytes | np.ndarray] = [text, *arrays]
    for value in values:
        assert row_text(value, size=SIZE, order="row") == text
    assert row_text(mask, size=SIZE, order="column") == text_of(mask, "column")


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
import os, resource, sys
from pathlib import Path
from command_line import program
from submit.spool import write_all
from tests.test_submit_stream import NAMES, new_stream, rows

@program
def main():
    folder = Path(sys.argv[1])
    stream = new_stream(folder)
    # rows that take too much room are those of the last shards
    heavy = [(name, b" ".join([b"1 1"] * (4000 if k >= 30 else 1))) for k, name in enumerate(NAMES)]
    if sys.argv[2] == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
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
from tests.test_submit_stream import new_stream, rows, shuffled

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


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-4], lambda b: b[:40] + b"xx" + b[42:]])
def test_a_damaged_gzip_is_told(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    stream = new_stream(tmp_path / "shards")
    write_all(stream, rows(NAMES))
    path = tmp_path / "submission.csv.gz"
    stream.join(path, {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="damaged or cut off"), open_rows(path) as lines:
        list(lines)
