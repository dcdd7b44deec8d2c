"""`submit.make --stream`: from images to rows without stored logits."""

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from competition import COMPETITIONS
from ensemble.blend import find_blend
from folds.logit_code import KNEE, SCALE
from folds.store import LogitStore
from kernels.rle import decode, encode_logits_text, parse
from models.frame import Frame
from predict.replicas import Replica
from submit import make
from tests.synthetic_runs import AVERAGE, UNET, save_blend, save_member, save_stacker, write_photograph

ROOT = Path(__file__).parent.parent
STUDIO = COMPETITIONS["studio"]
NAMES = [f"0000000000{car:02}_0{view}.jpg" for car in range(2) for view in range(1, 5)]
SHARD_ROWS = 3


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "SHARD_ROWS", SHARD_ROWS)


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path]:
    """A test set, and a blend of two members whose random network decides some pixels."""
    data, root = tmp_path / "data", tmp_path / "runs" / "studio"
    for k, name in enumerate(NAMES):
        write_photograph(data / "test" / name, *STUDIO.size, seed=k)
    rows = "".join(f"{name},1 1\n" for name in NAMES)
    (data / "sample_submission.csv").write_text(",".join(STUDIO.header) + "\n" + rows)
    save_blend(root, [save_member(root, AVERAGE), save_member(root, UNET)], [0.2, 0.8], threshold=0.05)
    return data, root.parent


def call(case: tuple[Path, Path], **options: object) -> dict[str, str]:
    make.main(competition="studio", data=case[0], runs=case[1], **{"jobs": 1, "stream": True, **options})
    with gzip.open(case[1] / "studio" / "blend" / "submission.csv.gz", "rt", newline="") as file:
        return dict(list(csv.reader(file))[1:])


def exact_blends(case: tuple[Path, Path]) -> dict[str, np.ndarray]:
    """Full-size logits of every image, never rounded, of the blocks that the shards are cut into."""
    blend = find_blend(case[1] / "studio", "blend")
    predictors = [Replica(member) for member in blend.members]
    blends = {}
    for start in range(0, len(NAMES), SHARD_ROWS):
        names = NAMES[start : start + SHARD_ROWS]
        planes = [p.logits(np.stack([p.frame.load(case[0] / "test" / name)[0] for name in names])) for p in predictors]
        for k, name in enumerate(names):
            images = {frame: frame.load(case[0] / "test" / name)[0] for frame in blend.image_frames(STUDIO.size)}
            full = blend.combined([plane[k, 0] for plane in planes], STUDIO.size, images)
            blends[name] = full - np.float32(blend.threshold)
    return blends


def mask(text: str) -> np.ndarray:
    return decode(parse(text), STUDIO.size)


def test_rows_are_the_blend_of_what_the_networks_gave_and_the_stores_differ_by_their_rounding(
    case: tuple[Path, Path],
) -> None:
    direct = call(case)
    assert list(direct) == NAMES
    assert not list(case[1].glob("studio/*/test.zarr"))
    blends = exact_blends(case)
    stored = call(case, stream=False, restart=True)
    for name in NAMES:
        assert direct[name] == encode_logits_text(blends[name]).decode()
        differs = mask(direct[name]) != mask(stored[name])
        # half a step of the code, at the largest logit that a member's pixel has here
        bound = 0.51 * np.hypot(KNEE, 16) / SCALE
        assert np.abs(blends[name][differs]).max(initial=0) <= bound
        # where a pixel near the edge could differ at all
        assert differs.mean() < 0.01
    assert all(0 < mask(text).mean() < 1 for text in direct.values())


def test_a_stacker_that_sees_the_image_is_given_it_on_both_ways(case: tuple[Path, Path]) -> None:
    root = case[1] / "studio"
    stacker = save_stacker(root, [save_member(root, AVERAGE), save_member(root, UNET)], image=True)
    direct, blends = call(case), exact_blends(case)
    stored = call(case, stream=False, restart=True)
    blend = find_blend(root, "blend")
    assert blend.image_frames(STUDIO.size) == (Frame(UNET.size),)
    frames = [member.frame for member in blend.members]
    stores = [LogitStore.open(member.folder / "test.zarr") for member in blend.members]
    for name in NAMES:
        image = Frame(UNET.size).load(case[0] / "test" / name)[0]
        full = stacker([store.read(name)[0] for store in stores], frames, [], STUDIO.size, image)
        assert stored[name] == encode_logits_text(full).decode()
        other = stacker([store.read(name)[0] for store in stores], frames, [], STUDIO.size, image[:, :, ::-1])
        assert stored[name] != encode_logits_text(other).decode()
        assert direct[name] == encode_logits_text(blends[name]).decode()


PROGRAM = """
import sys
from pathlib import Path
from submit import make
make.SHARD_ROWS = 3
print("ready", flush=True)
make.main(competition="studio", data=Path(sys.argv[1]), runs=Path(sys.argv[2]), jobs=1, stream=True)
"""


def test_killed_and_resumed_and_by_two_processes_the_bytes_are_the_same(case: tuple[Path, Path]) -> None:
    folder = case[1] / "studio" / "blend"
    worker = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(case[0]), str(case[1])],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.DEVNULL,
    )
    first = folder / "shards" / "shard-00000.csv"
    deadline = time.monotonic() + 120
    while worker.poll() is None and not first.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert first.exists()
    assert not (folder / "submission.csv.gz").exists()
    written = first.stat().st_mtime_ns
    call(case)
    assert first.stat().st_mtime_ns == written
    resumed = (folder / "submission.csv.gz").read_bytes()
    for path in (folder / "shards").iterdir():
        path.unlink()
    call(case)
    assert (folder / "submission.csv.gz").read_bytes() == resumed
    for path in (folder / "shards").iterdir():
        path.unlink()
    call(case, jobs=2)
    assert (folder / "submission.csv.gz").read_bytes() == resumed


def test_an_unreadable_image_is_refused_or_empty_until_it_is_mended(
    case: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = case[0] / "test" / NAMES[4]
    content = bad.read_bytes()
    bad.write_bytes(content[:-500])
    with pytest.raises(SystemExit, match=r"1 of 8 images could not be read.*--on-missing empty"):
        call(case)
    shards = case[1] / "studio" / "blend" / "shards"
    assert sorted(path.name for path in shards.glob("shard-*")) == ["shard-00000.csv", "shard-00002.csv"]
    found = call(case, on_missing="empty")
    assert [name for name, text in found.items() if not text] == [NAMES[4]]
    manifest = json.loads((case[1] / "studio" / "blend" / "manifest.json").read_text())
    assert manifest["empty_rows"] == [NAMES[4]]
    # asked again while it is still bad: the same; and refused without the leave
    assert call(case, on_missing="empty") == found
    assert "1 of them are empty" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="could not be read"):
        call(case)
    call(case, on_missing="empty")
    bad.write_bytes(content)
    mended = call(case, on_missing="empty")
    assert mended[NAMES[4]]
    assert {k: v for k, v in mended.items() if k != NAMES[4]} == {k: v for k, v in found.items() if v}
    assert "empty_rows" not in json.loads((case[1] / "studio" / "blend" / "manifest.json").read_text())


def test_shards_of_stored_and_of_direct_logits_are_not_mixed(case: tuple[Path, Path]) -> None:
    call(case)
    with pytest.raises(SystemExit, match="another submission"):
        call(case, stream=False)
