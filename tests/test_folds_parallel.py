"""The same training whatever reads or computes it: loading processes, several devices."""

from __future__ import annotations

import hashlib
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from command_line import UserError
from folds import fit
from folds.augment import Augmentation
from folds.boundary_crop import BoundaryCrop
from folds.fold import run_fold
from folds.plan import check_devices
from folds.samples import EpochSampler, Samples, loader
from folds.spent import Spent
from folds.states import load_state
from folds.store import LogitStore
from models.variant import Variant
from models.variants import VARIANTS
from tests.test_folds_fold import curve
from tests.tiny_folds import QUICK, TINY, Make, SlowInputs, maker

ROOT = Path(__file__).parent.parent
# without batch norm; TINY has it
PLAIN = replace(VARIANTS["dilated-unet-1024x1536"], name="plain", size=(32, 48), options={"widths": (4, 8, 8, 8)})


@pytest.fixture
def task(ellipses: Path, tmp_path: Path) -> Make:
    return maker(ellipses, tmp_path)


@pytest.fixture(autouse=True)
def preloaded() -> None:
    multiprocessing.set_forkserver_preload(["folds.fit"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_loading_processes_change_no_sample(task) -> None:
    inputs = task(TINY, QUICK).inputs

    def epochs(workers: int) -> list[torch.Tensor]:
        samples = Samples(inputs, Augmentation("flip-affine-hsv", 3), crop=BoundaryCrop((16, 24), 3))
        sampler = EpochSampler(np.arange(9), seed=3, shuffle=True, batch=2)
        batches = loader(samples, sampler, 2, workers=workers, pin=False)
        seen = []
        # workers outlive the epoch
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            seen += [part for batch in batches for part in batch]
        return seen

    alone, read_ahead = epochs(0), epochs(2)
    # four whole batches an epoch, of image, mask and position
    assert len(alone) == len(read_ahead) == 2 * 4 * 3
    assert all(torch.equal(a, b) for a, b in zip(alone, read_ahead, strict=True))
    assert not torch.equal(alone[2], alone[14])


@pytest.mark.parametrize(("count", "shuffle"), [(8, True), (11, True), (11, False), (3, True)])
def test_ranks_share_the_batches_that_one_process_would_see(count: int, shuffle: bool) -> None:
    positions = np.arange(100, 100 + count)

    def order(rank: int, world: int) -> list[tuple[int, int]]:
        sampler = EpochSampler(positions, seed=5, shuffle=shuffle, batch=4, rank=rank, world=world)
        sampler.set_epoch(7)
        assert len(sampler) == len(list(sampler))
        return list(sampler)

    whole, (first, second) = order(0, 1), (order(0, 2), order(1, 2))
    assert len(whole) == (count // 4 * 4 if shuffle and count > 4 else count)
    for start in range(0, len(whole), 4):
        half = start // 2
        assert sorted(whole[start : start + 4]) == sorted(first[half : half + 2] + second[half : half + 2])
    if shuffle and count > 4:
        assert len(first) == len(second)


@pytest.mark.parametrize("variant", [PLAIN, TINY], ids=lambda variant: variant.name)
def test_two_devices_train_as_one_does(variant: Variant, task) -> None:
    recipe = replace(QUICK, batch=4, epochs=3, optimiser="sgd", learning_rate=0.005, ema=0.5, precision="float32")
    source = task(variant, replace(recipe, epochs=1), "source")
    run_fold(source)
    # from another run's weights, which every device must read
    digest = hashlib.blake2b((source.folder / "weights.safetensors").read_bytes(), digest_size=8).hexdigest()
    recipe = replace(recipe, init_from=f"{variant.name} fold 0 {digest}")
    # one device sees two of the three held-out images, the other one
    alone = replace(task(variant, recipe, "alone"), start=source.folder, held_out=np.arange(8, 11))
    shared = replace(alone, folder=alone.folder.with_name("fold1"), devices=2)
    one, two = run_fold(alone), run_fold(shared)
    assert one["steps"] == two["steps"] == 6
    for column in ("train_loss", "val_loss", "val_dice"):
        both = list(zip(curve(shared.folder, column), curve(alone.folder, column), strict=True))
        # statistics of half a batch would differ by 5e-4 at once; later epochs magnify how ties in flat pictures fall
        for epoch, (found, expected) in enumerate(both):
            rel = 1e-5 if epoch == 0 or variant is PLAIN else 1e-3
            assert found == pytest.approx(expected, rel=rel), (column, epoch)
    assert two["dice"] == pytest.approx(one["dice"], rel=1e-4)
    assert LogitStore.open(shared.store).missing() == [*shared.training.names[:8], shared.training.names[11]]
    # more epochs of a finished training: none
    assert len(curve(shared.folder, "val_dice")) == 3


@pytest.mark.parametrize(
    ("devices", "workers", "last"),
    [
        # eight images and four to validate, shared by the devices
        (2, 0, 6),
        # a process that loads is one of training or of validation
        (1, 1, 8),
        (2, 1, 4),
    ],
    ids=["devices", "loaders", "devices with loaders"],
)
def test_the_time_of_all_processes_outlives_a_failure(devices: int, workers: int, last: int, task) -> None:
    stopped = task(TINY, replace(QUICK, batch=4))
    inputs = SlowInputs(stopped.inputs, 0.25, last)
    with pytest.raises(Exception, match=r"one too many|go on from the last completed epoch"):
        run_fold(replace(stopped, inputs=inputs, devices=devices, workers=workers))
    spent = next(own["spent"] for own in load_state(stopped.last_state)["callbacks"].values() if "spent" in own)
    assert Spent(*spent).cpu_seconds > 12 * 0.25


def test_a_failure_on_one_device_is_said(task) -> None:
    wild = task(PLAIN, replace(QUICK, batch=4, optimiser="sgd", learning_rate=1e25))
    with pytest.raises(UserError, match=r"diverged\.json"):
        run_fold(replace(wild, devices=2))


@pytest.mark.parametrize(
    "code",
    [
        "from folds.ranks import *; from tests.dying import tell_and_sleep; run_ranks(tell_and_sleep, count=2)",
        "from tests.dying import load_and_sleep; load_and_sleep()",
    ],
    ids=["ranks", "loaders"],
)
def test_processes_end_with_the_one_that_started_them(code: str) -> None:
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        others = {parent.stdout.readline() for _ in range(2)}
        parent.kill()
        # the pipe is closed when the last of them has ended
        assert parent.communicate(timeout=60)[0] == ""
    assert len(others) == 2


def test_devices_must_share_batches_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    check_devices(QUICK, 2)
    with pytest.raises(UserError, match="--batch 3 works"):
        check_devices(QUICK, 3)
    with pytest.raises(UserError, match="--devices 1 does"):
        check_devices(QUICK, 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UserError, match="with 1 GPUs: --devices 1 does"):
        check_devices(QUICK, 2)


def test_workers_are_chosen_by_what_there_is_to_do(task, monkeypatch: pytest.MonkeyPatch) -> None:
    made = replace(task(TINY, QUICK), threads=16)
    assert fit.worker_count(made) == 0
    assert fit.worker_count(replace(made, workers=3)) == 3
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert fit.worker_count(made) == 8
    assert fit.worker_count(replace(made, devices=4)) == 3
    assert fit.worker_count(replace(made, threads=1)) == 1


def test_curves_and_a_few_masks_are_kept_to_look_at(task) -> None:
    made = task(TINY, QUICK)
    run_fold(made)
    assert (made.folder / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    (events,) = (made.folder / "tensorboard").glob("events*")
    board = EventAccumulator(str(events), size_guidance={"images": 0}).Reload()
    tags = board.Tags()["images"]
    assert len(tags) == 2
    shown = board.Images(tags[0])
    assert len(shown) == 2
    assert (shown[0].width, shown[0].height) == (3 * 48, 32)
