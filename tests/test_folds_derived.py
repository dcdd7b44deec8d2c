"""Caches of the training images: whatever is damaged is made again, and a full disk is a sentence and no signal."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import atomic
from command_line import UserError
from competition import COMPETITIONS
from folds.images import TrainingSet, find_training_set
from folds.inputs import CachedInputs, checked, load_inputs
from folds.truth import Truth, load_truth
from models.frame import Frame
from tests.no_room import no_room

FRAME = Frame((160, 240))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


FAULTS: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "a flipped bit": flip,
    "no header": lambda path: path.write_bytes(b"{" * 8 + path.read_bytes()[8:]),
}
PLACES = [
    *(f"truth/{name}" for name in ("runs.npy", "offsets.npy", "areas_px.npy", "checksums.json")),
    *(f"resize-160x240-v2/{name}" for name in ("images.npy", "masks.npy", "checksums.json")),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingSet, Path]:
    """A training set and its whole cache."""
    from tests.conftest import write_ellipses

    root = tmp_path_factory.mktemp("derived")
    training = find_training_set(COMPETITIONS["carvana"], write_ellipses(root / "data"))
    load(training, root / "cache")
    return training, root / "cache"


def load(training: TrainingSet, cache: Path) -> tuple[Truth, CachedInputs]:
    truth = load_truth(training, cache, jobs=1)
    inputs = checked(load_inputs(training, FRAME, {"mask": truth}, cache, jobs=1), jobs=1)
    assert isinstance(inputs, CachedInputs)
    return truth, inputs


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_is_damaged_is_made_again_alone(
    fault: Callable[[Path], object], place: str, made: tuple[TrainingSet, Path], tmp_path: Path
) -> None:
    training, cache = made
    shutil.copytree(cache, tmp_path / "cache")
    folder = tmp_path / "cache" / training.digest
    whole = contents(folder)
    inodes = {path: path.stat().st_ino for path in folder.rglob("*.npy")}
    fault(folder / place)
    truth, inputs = load(training, tmp_path / "cache")
    assert contents(folder) == whole
    other = place.partition("/")[0]
    assert all(path.stat().st_ino == inode for path, inode in inodes.items() if path.parent.name != other)
    assert truth.areas_px.shape == (12,)
    assert inputs.image(11).shape == (160, 240, 3)


def test_a_cache_from_before_there_were_checksums_is_made_again(made: tuple[TrainingSet, Path], tmp_path: Path) -> None:
    training, cache = made
    shutil.copytree(cache, tmp_path / "cache")
    whole = contents(tmp_path / "cache")
    for path in (tmp_path / "cache").rglob("checksums.json"):
        path.unlink()
    load(training, tmp_path / "cache")
    assert contents(tmp_path / "cache") == whole


def test_the_room_is_taken_before_a_frame_is_read(
    made: tuple[TrainingSet, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, cache = made
    truth = load_truth(training, cache, jobs=1)
    # really refused by the system, and told by its figures
    with no_room(), pytest.raises(UserError, match=r"the disk is full: .*resize-160x240-v2 could not be written"):
        load_inputs(training, FRAME, {"mask": truth}, tmp_path / "cache", jobs=1)
    monkeypatch.setattr(atomic, "free_bytes", lambda folder: 1_000_000)
    needed = 12 * 160 * 240 * 4 + 2 * 128
    with pytest.raises(UserError, match=re.escape(f"(it needs {needed:,} bytes, and 1,000,000 are free)")):
        load_inputs(training, FRAME, {"mask": truth}, tmp_path / "cache", jobs=1)
    assert not list(tmp_path.rglob("*.npy"))
    assert not list(tmp_path.rglob(".tmp-*"))


def test_an_allocated_array_has_all_its_room(tmp_path: Path) -> None:
    from folds.derived import new_array

    new_array(tmp_path / "a.npy", (100, 1000))
    status = (tmp_path / "a.npy").stat()
    assert status.st_blocks * 512 >= status.st_size > 100_000
    assert not np.load(tmp_path / "a.npy").any()
