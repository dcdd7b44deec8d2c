import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from command_line import UserError
from folds.store import LogitStore
from models import checkpoint
from predict.blocks import UnreadableImagesError, places
from predict.pipeline import overlapped
from predict.predictor import predict
from predict.replicas import Replica, ReplicaPool
from tests.synthetic_runs import UNET, save_member, write_photograph

ROOT = Path(__file__).parent.parent
SIZE = (80, 120)
NAMES = [f"{k:02}.jpg" for k in range(22)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for k, name in enumerate(NAMES):
        write_photograph(folder / name, *SIZE, seed=k)
    return folder


def chunks(store: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in store.glob("c.*.0")}


@pytest.fixture(scope="module")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one replica and one decoder write in one go."""
    member = save_member(tmp_path_factory.mktemp("reference"), UNET)
    store = predict(member, NAMES, images, SIZE, batch=4, pool=ReplicaPool([member], 1), decoders=1)
    assert store.missing() == []
    return chunks(store.path)


def test_what_is_stored_is_the_mean_over_folds_and_flips(
    images: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    member = save_member(tmp_path, UNET)
    store = predict(member, NAMES, images, SIZE, batch=4)
    image = member.frame.load(images / "05.jpg", SIZE)[0]
    planes = []
    for folder in member.folds:
        network = checkpoint.load(folder)[0]
        for flip in (False, True):
            seen = image[:, ::-1].copy() if flip else image
            tensor = (seen / 255.0 - UNET.mean) / UNET.std
            logits = network(torch.tensor(tensor, dtype=torch.float32).permute(2, 0, 1)[None])
            plane = logits[0, 0].detach().numpy()
            planes.append(plane[:, ::-1] if flip else plane)
    mean = np.mean(planes, 0)
    # as near as bfloat16 is, and nearer than the mean of all planes but one
    stored = store.read("05.jpg")[0]
    np.testing.assert_allclose(stored, mean, rtol=0.03, atol=0.03)
    assert np.abs(stored - mean).mean() < 0.2 * min(
        np.abs(stored - np.mean(np.delete(planes, left_out, axis=0), 0)).mean() for left_out in range(len(planes))
    )
    assert chunks(store.path) == expected


@pytest.mark.parametrize(("count", "decoders"), [(2, 2), (3, 1)])
def test_threads_do_not_change_a_byte(
    images: Path, expected: dict[str, bytes], tmp_path: Path, count: int, decoders: int
) -> None:
    member = save_member(tmp_path, UNET)
    store = predict(member, NAMES, images, SIZE, batch=4, pool=ReplicaPool([member], count), decoders=decoders)
    assert chunks(store.path) == expected


PROGRAM = """
import sys
from pathlib import Path
from predict.members import find_members
from predict.predictor import predict
member = find_members(Path(sys.argv[1]), ["tiny-unet"], 2)[0]
print("ready", flush=True)
predict(member, [f"{k:02}.jpg" for k in range(22)], Path(sys.argv[2]), (80, 120), batch=4)
"""


def test_killed_at_random_moments_and_resumed_the_bytes_are_the_same(
    images: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    save_member(tmp_path, UNET)
    store = tmp_path / "tiny-unet" / "test.zarr"
    rng = random.Random(0)
    counts: list[int] = []
    for _ in range(2):
        worker = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path), str(images)],
            cwd=ROOT,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        # wait for a few new chunks and then no time that anybody chose
        goal = (counts or [0])[-1] + rng.randint(1, 6)
        deadline = time.monotonic() + 60
        while worker.poll() is None and len(chunks(store)) < goal and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.005)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        counts.append(len(chunks(store)))
        if counts[-1] == len(NAMES):
            break
    assert counts[0] < len(NAMES)
    member = save_member(tmp_path, UNET)
    predict(member, NAMES, images, SIZE, batch=4)
    assert chunks(store) == expected


def test_a_damaged_chunk_is_predicted_again(
    images: Path, expected: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    member = save_member(tmp_path, UNET)
    store = predict(member, NAMES, images, SIZE, batch=4)
    chunk = store.path / "c.3.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    predict(member, NAMES, images, SIZE, batch=4)
    assert "the logits of 1 images are damaged (03.jpg first)" in capsys.readouterr().out
    assert chunks(store.path) == expected


def test_unreadable_images_are_named_at_the_end_and_the_rest_is_stored(
    images: Path, expected: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in NAMES:
        (folder / name).symlink_to(images / name)
    for name, content in (("02.jpg", (images / "02.jpg").read_bytes()[:-99]), ("07.jpg", b"text")):
        (folder / name).unlink()
        (folder / name).write_bytes(content)
    (folder / "11.jpg").unlink()
    member = save_member(tmp_path / "runs", UNET)
    with pytest.raises(UnreadableImagesError, match="3 of 22 images could not be read") as caught:
        predict(member, NAMES, folder, SIZE, batch=4)
    assert caught.value.names == ["02.jpg", "07.jpg", "11.jpg"]
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("02.jpg is cut off", "07.jpg is not an image", "11.jpg does not exist"))
    store = LogitStore.open(member.folder / "test.zarr")
    assert store.missing() == caught.value.names
    # mended, the bytes are those of a run that never failed
    for name in caught.value.names:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(images / name)
    predict(member, NAMES, folder, SIZE, batch=4)
    assert chunks(store.path) == expected


def test_nan_names_the_image_and_the_network(images: Path, tmp_path: Path) -> None:
    member = save_member(tmp_path, UNET)
    weights = member.folds[1] / checkpoint.WEIGHTS_FILE
    state = safetensors.torch.load_file(weights)
    state["segmentation_head.0.bias"][0] = float("nan")
    safetensors.torch.save_file(state, weights)
    with pytest.raises(UserError, match=r"tiny-unet/fold1 gives NaN or infinity for 00\.jpg"):
        predict(member, NAMES, images, SIZE, batch=4)
    assert LogitStore.open(member.folder / "test.zarr").missing() == NAMES


def test_fewer_folds_and_other_transforms_may_be_asked_for(tmp_path: Path) -> None:
    member = save_member(tmp_path, UNET)
    image = np.random.default_rng(0).integers(0, 255, (1, *UNET.size, 3), np.uint8)
    both = Replica(member, tta=())
    first = Replica(member, folds=1, tta=())
    assert not np.allclose(first.logits(image), both.logits(image))
    assert not np.allclose(first.logits(image), Replica(member, folds=1).logits(image))


def test_blocks_keep_their_shape_whatever_is_missing() -> None:
    blocks = list(places(list("abcdefg"), ["c", "g", "a"], 3))
    assert [[(p.name, p.slot, p.length) for p in block] for block in blocks] == [
        [("a", 0, 3), ("c", 2, 3)],
        [("g", 0, 1)],
    ]


def test_no_more_than_a_few_blocks_are_under_way() -> None:
    lock, under_way, most = threading.Lock(), 0, 0
    kept: list[int] = []

    def load(item: int) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        if item % 10 == 3:
            raise UserError(f"{item} is bad")
        return item * 2

    def keep(value: int) -> None:
        nonlocal under_way
        time.sleep(0.001)
        kept.append(value)
        with lock:
            under_way -= 1

    done: list[int] = []
    faults = overlapped(
        [range(k, k + 4) for k in range(0, 200, 4)],
        load=load,
        forward=lambda block: [value + 1 for _, value in block],
        keep=keep,
        advance=done.append,
        replicas=2,
    )
    assert sorted(kept) == [2 * k + 1 for k in range(200) if k % 10 != 3]
    assert [item for item, _ in faults] == list(range(3, 200, 10))
    assert sum(done) == 200
    # 20 bad items never leave; 7 blocks of 4 may be on their way
    assert most <= 20 + 4 * (2 * 2 + 3)


def test_an_error_in_a_late_stage_ends_the_run() -> None:
    def keep(_: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        overlapped(
            [[k] for k in range(50)], load=int, forward=lambda b: [1], keep=keep, advance=lambda _: None, replicas=2
        )
