"""What is reused is keyed by what an image holds: an image that has changed is predicted again, and no other."""

from __future__ import annotations

import csv
import gzip
import os
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from competition import COMPETITIONS
from ensemble.photographs import main as mask_photographs
from folds import contents
from folds.contents import CONTENTS_FILE, changed, read_contents, renew
from folds.images import image_digest
from predict import blocks
from report.disagreement import main as compare_networks
from submit import make
from tests.synthetic_runs import AVERAGE, UNET, save_blend, save_member, write_photograph

SMALL = replace(COMPETITIONS["studio"], name="small", size=(259, 391))
NAMES = [f"0000000000{car:02}_0{view}.jpg" for car in range(2) for view in range(1, 5)]
# bytes that every image of the test has
LENGTH = 1 << 16


def put(path: Path, seed: int) -> None:
    """Write an image over another one, of as many bytes, and with the other's time."""
    times = path.stat() if path.exists() else None
    write_photograph(path, *SMALL.size, seed=seed)
    data = path.read_bytes()
    path.write_bytes(data + bytes(LENGTH - len(data)))
    if times is not None:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A test set of eight images in shards of three."""
    monkeypatch.setitem(COMPETITIONS, SMALL.name, SMALL)
    monkeypatch.setattr(blocks, "PART_IMAGES", 3)
    for k, name in enumerate(NAMES):
        put(tmp_path / "data" / "test" / name, seed=k)
    rows = "".join(f"{name},1 1\n" for name in NAMES)
    (tmp_path / "data" / "sample_submission.csv").write_text(",".join(SMALL.header) + "\n" + rows)
    return tmp_path / "data"


def submit(data: Path, runs: Path, *, stream: bool) -> dict[str, str]:
    root = runs / SMALL.name
    if not root.exists():
        save_blend(root, [save_member(root, AVERAGE), save_member(root, UNET)], [0.2, 0.8], threshold=0.05)
    make.main(competition=SMALL.name, data=data, runs=runs, jobs=1, stream=stream)
    with gzip.open(root / "blend" / "submission.csv.gz", "rt", newline="") as file:
        return dict(list(csv.reader(file))[1:])


def made(runs: Path) -> dict[str, int]:
    """When each chunk of logits and each shard was made."""
    root = runs / SMALL.name
    paths = [*root.glob("*/test.zarr/c.*"), *root.glob("blend/shards/shard-*")]
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in paths}


@pytest.mark.parametrize("stream", [False, True])
def test_a_test_image_that_changed_is_predicted_again_and_no_other(
    data: Path, tmp_path: Path, stream: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    first, before = submit(data, runs, stream=stream), made(runs)
    # touched and copied: of other times, and the same content
    os.utime(data / "test" / NAMES[2])
    shutil.copytree(data, tmp_path / "moved")
    assert submit(tmp_path / "moved", runs, stream=stream) == first
    assert made(runs) == before
    put(data / "test" / NAMES[4], seed=99)
    capsys.readouterr()
    rows, after = submit(data, runs, stream=stream), made(runs)
    assert "1 shards in" in capsys.readouterr().out
    assert rows == submit(data, tmp_path / "anew", stream=stream)
    assert {name for name in NAMES if rows[name] != first[name]} == {NAMES[4]}
    again = {name for name in after if after[name] != before[name]}
    chunks = {f"{member.name}/test.zarr/c.4.0.0.0" for member in (AVERAGE, UNET)}
    assert again == {"blend/shards/shard-00001.csv", *(() if stream else chunks)}
    # images that are gone say nothing: what was predicted of them is not lost
    record = runs / SMALL.name / "blend" / "shards" / CONTENTS_FILE
    assert changed(record, read_contents(tmp_path / "none", NAMES)) == []
    if not stream:
        put(data / "test" / NAMES[7], seed=100)
        where = {"competition": SMALL.name, "data": data, "runs": runs, "jobs": 1}
        with pytest.raises(SystemExit, match=rf"1 of the test images are not what they were .*{NAMES[7]} first"):
            compare_networks(**where, members=f"{AVERAGE.name},{UNET.name}")  # type: ignore[arg-type]


def test_another_photograph_of_the_same_name_gets_a_mask_of_its_own(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs" / "studio"
    save_blend(root, [save_member(root, UNET)], [1.0])

    def masks(images: Path, out: Path) -> dict[str, bytes]:
        mask_photographs(images=images, out=out, competition="studio", runs=root.parent)
        return {path.name: path.read_bytes() for path in out.glob("*.png")}

    out = tmp_path / "out"
    first = masks(data / "test", out)
    put(data / "test" / NAMES[1], seed=98)
    capsys.readouterr()
    second = masks(data / "test", out)
    assert "1 photographs are not those" in capsys.readouterr().out
    assert second == masks(data / "test", tmp_path / "anew")
    assert {name for name in second if second[name] != first[name]} == {NAMES[1].replace(".jpg", "_mask.png")}


def test_what_is_stale_is_dropped_before_the_record_says_so(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg"]
    for k, name in enumerate(names):
        put(tmp_path / name, seed=k)
    record = tmp_path / "record" / CONTENTS_FILE
    dropped: list[str] = []

    def drop(stale: Collection[str]) -> int:
        dropped.extend(stale)
        return len(stale)

    # of what nothing is recorded, nothing is known
    assert renew(record, read_contents(tmp_path, names), drop) == 2
    assert renew(record, read_contents(tmp_path, names, record), drop) == 0
    put(tmp_path / "a.jpg", seed=7)

    def killed(stale: Collection[str]) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        renew(record, read_contents(tmp_path, names, record), killed)
    assert renew(record, read_contents(tmp_path, names, record), drop) == 1
    assert dropped == [*names, "a.jpg"]
    # a record that is damaged is none
    record.write_text("[")
    assert renew(record, read_contents(tmp_path, names, record), drop) == 2
    assert changed(record, read_contents(tmp_path, names)) == []


def test_a_byte_anywhere_counts_and_an_unchanged_file_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, record = tmp_path / "a.jpg", tmp_path / CONTENTS_FILE
    put(path, seed=1)
    path.write_bytes(path.read_bytes() + bytes(90_000))
    first = read_contents(tmp_path, ["a.jpg"])["a.jpg"]
    assert first.image_digest == image_digest(path.read_bytes())
    data = bytearray(path.read_bytes())
    # where `image_digest` does not look
    data[20_000] ^= 1
    path.write_bytes(data)
    second = read_contents(tmp_path, ["a.jpg"])["a.jpg"]
    assert second.image_digest == first.image_digest and second.digest != first.digest
    # written a moment ago, it may be written again at what counts as the same time
    contents.write_record(record, {"a.jpg": second})
    reads: list[Path] = []
    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda own: reads.append(own) or whole(own))  # type: ignore[func-returns-value]
    assert read_contents(tmp_path, ["a.jpg"], record) == {"a.jpg": second}
    assert path in reads
    monkeypatch.setattr(contents, "_SETTLED_NS", -1)
    now = read_contents(tmp_path, ["a.jpg"], record)
    contents.write_record(record, now)
    reads.clear()
    assert read_contents(tmp_path, ["a.jpg"], record) == now
    assert path not in reads


def test_a_picture_of_other_pixels_has_another_content(tmp_path: Path) -> None:
    for name, level in (("a.png", 3), ("b.png", 4)):
        cv2.imwrite(str(tmp_path / name), np.full((33, 45), level, np.uint8))
    found = read_contents(tmp_path, ["a.png", "b.png", "none.png"])
    assert set(found) == {"a.png", "b.png"} and found["a.png"].digest != found["b.png"].digest
