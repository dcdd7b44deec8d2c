"""`submit.make --stream`: from images to rows without stored logits."""

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from competition import COMPETITIONS
from ensemble.blend import find_blend
from ensemble.photographs import main as mask_photographs
from ensemble.stored_masks import StoredMasks
from ensemble.voting import LINEAR
from folds.store import LogitStore
from kernels.rle import decode, encode_logits_text, parse
from models import checkpoint, precision
from models.frame import Frame
from models.image_file import ImageFile
from predict import blocks, replicas
from predict.members import Member, find_members
from predict.replicas import Replica
from submit import make
from tests.synthetic_runs import AVERAGE, UNET, save_blend, save_member, save_pixels, write_photograph

ROOT = Path(__file__).parent.parent
STUDIO = COMPETITIONS["studio"]
NAMES = [f"0000000000{car:02}_0{view}.jpg" for car in range(2) for view in range(1, 5)]
SHARD_ROWS = 3
# a network of another size, whose blocks are smaller
LARGER = replace(UNET, name="tiny-larger", size=(128, 192))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "PART_IMAGES", SHARD_ROWS)


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


def call(case: tuple[Path, Path], **options: Any) -> dict[str, str]:
    make.main(competition="studio", data=case[0], runs=case[1], **{"jobs": 1, "stream": True, **options})
    with gzip.open(case[1] / "studio" / "blend" / "submission.csv.gz", "rt", newline="") as file:
        return dict(list(csv.reader(file))[1:])


def blends_of_rounded(case: tuple[Path, Path]) -> dict[str, np.ndarray]:
    """Full-size logits of every image, of the blocks that the shards are cut into; rounded by the formula."""
    blend = find_blend(case[1] / "studio", "blend")
    predictors = [Replica(member) for member in blend.members]
    blends = {}
    for start in range(0, len(NAMES), SHARD_ROWS):
        names = NAMES[start : start + SHARD_ROWS]
        planes = [p.logits(np.stack([p.frame.load(case[0] / "test" / name)[0] for name in names])) for p in predictors]
        for k, name in enumerate(names):
            images = {frame: frame.load(case[0] / "test" / name)[0] for frame in blend.image_frames(STUDIO.size)}
            codes = [np.rint(512 * np.arcsinh(np.clip(plane[k, 0], -16, 16).astype(float))) for plane in planes]
            logits = [np.sinh(code / 512).astype(np.float32) for code in codes]
            full = blend.combined(logits, STUDIO.size, images)
            blends[name] = full - np.float32(blend.threshold)
    return blends


def mask(text: str) -> np.ndarray:
    return decode(parse(text), STUDIO.size)


def decisive(member: Member) -> None:
    """Make a member's logits so large that a store clips them."""
    for folder in member.folds:
        path = folder / checkpoint.WEIGHTS_FILE
        state = safetensors.torch.load_file(path)
        safetensors.torch.save_file({k: 200 * v if "segmentation_head" in k else v for k, v in state.items()}, path)


@pytest.mark.parametrize("bf16", [True, False])
def test_without_stores_the_submission_is_the_same_to_the_byte(
    case: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    root, folder = case[1] / "studio", case[1] / "studio" / "blend"
    if not bf16:
        # in float32, a block of another length has other last bits
        monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    # blocks of 2, 8 and 16 images, in shards of 7
    for device in replicas._BATCH_PX:
        monkeypatch.setitem(replicas._BATCH_PX, device, 2 * LARGER.size[0] * LARGER.size[1])
    monkeypatch.setattr(blocks, "PART_IMAGES", 7)
    passes: list[tuple[str, tuple[str, ...]]] = []
    logits = Replica.logits

    def told(self: Replica, images: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
        passes.append((self.variant.name, tuple(names)))
        return logits(self, images, names)

    monkeypatch.setattr(Replica, "logits", told)
    decisive(save_member(root, LARGER))
    members = [save_member(root, AVERAGE), save_member(root, UNET), find_members(root, [LARGER.name], 2)[0]]
    save_blend(root, members, [0.4, 0.3, 0.3], threshold=0.05)
    rows = call(case)
    assert list(rows) == NAMES
    assert all(0 < mask(text).mean() < 1 for text in rows.values())
    assert not list(root.glob("*/test.zarr"))
    direct = (folder / "submission.csv.gz").read_bytes()
    passes_of_direct = sorted(passes)
    passes.clear()
    # shards of either way go on with the other
    (folder / "shards" / "shard-00000.csv").unlink()
    call(case, stream=False)
    assert (folder / "submission.csv.gz").read_bytes() == direct
    assert sorted(passes) == passes_of_direct
    assert {len(names) for _, names in passes} == {1, 2, 7}
    for path in (folder / "shards").glob("shard-*"):
        path.unlink()
    call(case, stream=False)
    assert (folder / "submission.csv.gz").read_bytes() == direct
    assert np.abs(LogitStore.open(members[2].folder / "test.zarr").read(NAMES[0])).max() > 16


def test_rows_are_the_blend_of_the_networks_logits_as_a_store_rounds_them(case: tuple[Path, Path]) -> None:
    root = case[1] / "studio"
    decisive(save_member(root, UNET))
    save_blend(root, find_members(root, [AVERAGE.name, UNET.name], 2), [0.5, 0.5])
    rows, blends = call(case), blends_of_rounded(case)
    for name, blend in blends.items():
        differs = mask(rows[name]) != (blend > 0)
        # float64 here and float32 there may fall on two sides of a half: at most one step, on few pixels
        assert differs.mean() < 1e-5
        assert np.abs(blend[differs]).max(initial=0) <= np.hypot(1, 16) / 512


def test_photographs_have_the_masks_that_the_submission_has(
    case: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = case[1] / "studio"
    monkeypatch.setattr(blocks, "PART_IMAGES", len(NAMES))
    decisive(save_member(root, UNET))
    save_blend(root, [save_member(root, AVERAGE), find_members(root, [UNET.name], 2)[0]], [0.5, 0.5])
    rows = call(case)
    mask_photographs(images=case[0] / "test", out=case[1] / "masks", competition="studio", runs=case[1])
    for name in NAMES:
        with Image.open(case[1] / "masks" / f"{Path(name).stem}_mask.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture) > 0, mask(rows[name]))


def test_boosted_pixels_are_given_the_whole_picture_on_both_ways(case: tuple[Path, Path]) -> None:
    root = case[1] / "studio"
    boosted = save_pixels(root, [save_member(root, AVERAGE), save_member(root, UNET)], STUDIO.size)
    direct = call(case)
    for path in (root / "blend" / "shards").glob("shard-*"):
        path.unlink()
    stored = call(case, stream=False)
    assert direct == stored
    blend = find_blend(root, "blend")
    assert blend.image_frames(STUDIO.size) == (Frame(STUDIO.size, "pad"),)
    frames = [member.frame for member in blend.members]
    stores = [LogitStore.open(member.folder / "test.zarr") for member in blend.members]
    masks = StoredMasks(blend, stores, STUDIO.size, case[0] / "test")
    plain = [LINEAR([store.read(name)[0] for store in stores], frames, [0.5, 0.5], STUDIO.size) for name in NAMES]
    for name in NAMES:
        image = ImageFile(case[0] / "test" / name).image()
        full = boosted([store.read(name)[0] for store in stores], frames, [], STUDIO.size, image)
        assert stored[name] == encode_logits_text(full).decode()
        np.testing.assert_array_equal(masks.mask(name, masks.planes(name)), full > 0)
    assert any(stored[name] != encode_logits_text(each).decode() for name, each in zip(NAMES, plain, strict=True))


PROGRAM = """
import sys
from pathlib import Path
from predict import blocks
from submit import make
blocks.PART_IMAGES = 3
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


def test_an_empty_row_is_filled_where_stores_go_on_with_shards_of_the_straight_way(case: tuple[Path, Path]) -> None:
    bad = case[0] / "test" / NAMES[4]
    content = bad.read_bytes()
    bad.write_bytes(content[:-500])
    assert not call(case, on_missing="empty")[NAMES[4]]
    bad.write_bytes(content)
    stored = call(case, stream=False)
    assert stored[NAMES[4]]
    assert stored == call(case, restart=True)
