"""The submission as shards: the same bytes in whichever order rows come, and whatever was there before."""

import gzip
import hashlib
import json
import os
import pickle
import re
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from command_line import UserError
from submit import spool
from submit.spool import write_all
from submit.stream import Row, SubmissionStream, row_text
from submit.writer import open_rows
from tests.small_stream import NAMES, SIZE, expected_bytes, mask_of, new_stream, rows, shuffled, text_of


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
        with pytest.raises(UserError, match="is being written by process"):
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


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-4], lambda b: b[:40] + b"xx" + b[42:]])
def test_a_damaged_gzip_is_told(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    stream = new_stream(tmp_path / "shards")
    write_all(stream, rows(NAMES))
    path = tmp_path / "submission.csv.gz"
    stream.join(path, {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="damaged or cut off"), open_rows(path) as lines:
        list(lines)
