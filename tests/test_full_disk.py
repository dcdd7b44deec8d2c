"""A full disk, met by whatever ends in a file of a blend: one sentence, nothing half-written, and the remedy works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from command_line import UserError
from ensemble import pixels_file
from ensemble.photograph_files import write_png
from ensemble.pixels import BoostedPixels, names_of_features
from ensemble.trees import Growth, grow
from folds.csv_table import write_table
from report import page
from report.composites import draw as draw_composites
from report.pictures import Album, contact_sheet
from submit import spool
from submit.spool import write_all
from submit.stream import SubmissionStream
from submit.submission_file import compressed
from tests.no_room import LIMIT_BYTES, no_room

ROOT = Path(__file__).parent.parent
NOISE = np.random.default_rng(0).integers(0, 256, (100, 111, 3)).astype(np.uint8)
NAMES = [f"{k}.jpg" for k in range(40)]
TEXT = b"1 1 " * 400 + b"2 1"


def stream_in(folder: Path) -> SubmissionStream:
    header = ("img", "rle_mask")
    return SubmissionStream(folder / "shards", NAMES, header=header, size=(1, 1), shard_rows=20, fingerprint={})


def write_shards(folder: Path) -> None:
    write_all(stream_in(folder), ((name, TEXT) for name in NAMES))


def write_spooled(folder: Path) -> None:
    # the last row of each shard comes last, so that all others are put down
    write_all(stream_in(folder), ((name, TEXT) for name in sorted(NAMES, key=lambda name: int(name[:-4]) % 20)))


def join_shards(folder: Path) -> None:
    stream = stream_in(folder)
    for shard in stream.missing():
        # shards of other submissions would do too: only the file is too long
        stream.write_shard(shard, [(name, b"1 1 " * 150 + b"2 1") for name in stream.shard_names(shard)])
    stream.join(folder / "submission.csv", {})


def compress(folder: Path) -> None:
    path = folder / "shards" / "plain.csv"
    if not path.exists():
        pytest.fail("made by the test")
    compressed(path)


def save_pixels(folder: Path) -> None:
    features = np.random.default_rng(0).normal(size=(4000, len(names_of_features(1)))).astype(np.float32)
    trees = grow(features, features[:, 0] > features[:, 1], Growth(trees=40, leaves=31))
    pixels_file.save(folder, BoostedPixels(trees, (1.0,), 2.5, (64, 96)), ["a"])


class NoisyReader:
    """Stored masks of one image, as far as the contact sheet reads them."""

    def planes(self, image: str) -> list[np.ndarray]:
        return []

    def mask(self, image: str, planes: list[np.ndarray]) -> np.ndarray:
        return NOISE[..., 0] > 127


def draw_sheet(folder: Path) -> None:
    photograph = folder / "photograph.png"
    if not photograph.exists():
        pytest.fail("made by the test")
    reader: Any = NoisyReader()
    contact_sheet(folder / "contact_sheet.png", reader, [("a.jpg", 0.5, photograph, NOISE[..., 1] > 127)])


def write_disagreement(folder: Path) -> None:
    rows = 2_000
    write_table(folder / "disagreement.csv", pd.DataFrame({"image": ["a_01.jpg"] * rows, "disagreement": [0.5] * rows}))


WRITERS: dict[str, Callable[[Path], object]] = {
    "shards": write_shards,
    "spooled rows": write_spooled,
    "submission": join_shards,
    "compressed submission": compress,
    "boosted pixels": save_pixels,
    "page": lambda folder: page.write(folder / "report.html", "page.html.j2", title="x" * 20_000),
    "picture": lambda folder: Album(folder / "report", "report").pane("a.jpg", "truth", NOISE),
    "contact sheet": draw_sheet,
    "disagreement table": write_disagreement,
    "photograph": lambda folder: Album(folder / "a", "a").pane("a.jpg", "", np.tile(NOISE, (3, 3, 1)), photograph=True),
    "composites": lambda folder: draw_composites(folder / "both_heads.png", [{"mask": NOISE[..., 0], "error": NOISE}]),
    "mask": lambda folder: write_png(folder / "a_mask.png", NOISE),
}  # fmt: skip


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_one_sentence_and_after_room_is_made_the_same_call_works(
    write: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_BUFFER_BYTES", 18_000)
    (tmp_path / "shards").mkdir()
    noise = b"".join(b"%d %d\n" % tuple(pair) for pair in NOISE[..., :2].reshape(-1, 2))
    (tmp_path / "shards" / "plain.csv").write_bytes(noise * 2)
    cv2.imwrite(str(tmp_path / "photograph.png"), NOISE)
    with no_room(), pytest.raises(UserError) as caught:
        write(tmp_path)
    assert re.fullmatch(
        r"the disk is full: \S+ could not be written \(it needs (more than )?([\d,]+ bytes|more), and [\d,]+ are "
        r"free( in all, but a quota or another limit is reached)?\); free some space in \S+ and run the same command "
        r"again, what is finished is kept\.",
        str(caught.value),
    ), caught.value
    assert not [path for path in tmp_path.rglob(".tmp-*") if path.is_file()]
    if write is join_shards:
        assert not (tmp_path / "submission.csv").exists() and not (tmp_path / "manifest.json").exists()
    write(tmp_path)
    if write in (write_shards, write_spooled):
        stream = stream_in(tmp_path)
        stream.join(tmp_path / "submission.csv", {})
        assert (tmp_path / "submission.csv").read_bytes().count(TEXT + b"\n") == len(NAMES)


def test_what_is_imported_meanwhile_is_whole_in_the_next_process(tmp_path: Path) -> None:
    """Or the tests of a full disk would leave an environment behind in which nothing can be imported any more."""
    (tmp_path / "imported_meanwhile.py").write_text(f"WORDS = {'x' * 2 * LIMIT_BYTES!r}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT)])
    code = "import imported_meanwhile"
    limited = f"from tests.no_room import no_room\nwith no_room():\n    {code}"
    for source, keeps_bytecode in ((limited, False), (code, True), (code, True)):
        done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "__pycache__").exists() == keeps_bytecode
