"""`python -m submit.plan`: what a test set will take, in time, disk and memory, from a few of its images.

The images go the whole way, from the file to stored logits and run-length text, into a folder that is removed again.
"""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import tyro

import atomic
from command_line import UserError, program
from competition import Competition, Size
from cores import core_count
from ensemble.blend import Blend, find_blend
from folds.images import list_images
from folds.store import LogitStore
from models.frame import load_for
from models.runtimes import Backend, choose_runtime
from models.tta import find_transforms
from predict.members import Member
from predict.predictor import predict
from predict.presence import said_of
from predict.replicas import ReplicaPool
from program_flags import (
    CompetitionName,
    DataFolder,
    DeviceCounts,
    FoldCount,
    NonNegative,
    Positive,
    RunsFolder,
    places,
)
from submit.cost import MemberCost, Plan, plan_lines


def measure_member(
    member: Member, names: Sequence[str], folder: Path, size: Size, scratch: Path, folds: int, tta: Sequence[str] | None
) -> tuple[MemberCost, LogitStore]:
    """Take some images the whole way with one member; returns what one costs, and the store under `scratch`."""
    pool = ReplicaPool([member], folds=folds, tta=tta)
    batch = pool.batch(member.variant)
    start = time.perf_counter()
    images = [member.frame.load(folder / name, size)[0] for name in names[:batch]]
    decode_s = (time.perf_counter() - start) / len(images)
    # kernels are chosen and memory is fetched in the first passes
    predict(member, names[: batch * pool.count], folder, size, pool=pool, store=scratch / f"{member.name}-first")
    block = np.stack(images)
    with pool.running(), pool.take() as (replica,):
        start = time.perf_counter()
        replica.logits(block)
        forward_s = (time.perf_counter() - start) / len(block) / pool.count
    start = time.perf_counter()
    store = predict(member, names, folder, size, pool=pool, store=scratch / member.name)
    end_to_end_s = (time.perf_counter() - start) / len(names)
    disk_bytes = sum(entry.stat().st_size for entry in store.path.glob("c.*")) / len(names)
    transforms = find_transforms(member.variant.tta if tta is None else tta)
    passes = (folds or len(member.folds)) * sum(t.cost(member.variant.size) for t in transforms)
    return MemberCost(member.name, passes, decode_s, forward_s, end_to_end_s, disk_bytes), store


def measure(
    blend: Blend,
    names: Sequence[str],
    folder: Path,
    competition: Competition,
    images: int,
    scratch: Path,
    folds: int = 0,
    tta: Sequence[str] | None = None,
) -> Plan:
    """Measure with the images `names` of `folder` what `images` images will take; writes under `scratch` only."""
    costs, stores = [], []
    for member in blend.members:
        cost, store = measure_member(member, names, folder, competition.size, scratch, folds, tta)
        costs.append(cost)
        stores.append(store)
    text_bytes = 0
    seconds = []
    for name in names:
        start = time.perf_counter()
        frames = blend.image_frames(competition.size)
        images_of = load_for(frames, folder / name, competition.size)[0] if frames else {}
        planes = [store.head(name) for store in stores]
        said = said_of(stores, name) if blend.gate is not None else []
        text_bytes += len(blend.row(planes, competition.size, competition.order, images_of, said))
        seconds.append(time.perf_counter() - start)
    return Plan(
        images,
        tuple(costs),
        # the first call loads the compiled loop
        float(np.median(seconds)) / core_count(),
        text_bytes / len(names),
        torch.cuda.device_count(),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


@program
def main(
    competition: CompetitionName = "carvana",
    blend: str = "blend",
    variants: str = "",
    folds: FoldCount = 0,
    tta: str = "",
    images: Path | None = None,
    images_count: NonNegative = 0,
    sample: Positive = 24,
    gpus: DeviceCounts = (2, 4, 8),
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
    backend: Backend = "auto",
) -> None:
    """Say what predicting a test set will take, from a few of its images; nothing is kept.

    Args:
        blend: the fitted blend to plan for.
        variants: trained variants instead of the blend, a comma list.
        folds: networks of each variant; 0 takes all its folds.
        tta: test-time augmentations instead of the variants' own, a comma list; none for no augmentation.
        images: a folder of images instead of the competition's test set.
        images_count: how many images to plan for; 0 takes as many as there are in the folder.
        sample: images that are timed.
        gpus: numbers of GPUs to reckon with; on a machine without one, of such machines.
        backend: what computes the networks on a CPU, as `make submission` takes it.
    """
    facts, data, root = places(competition, data, runs)
    if sample < 1 or min(gpus, default=1) < 1 or folds < 0 or images_count < 0:
        raise UserError("--sample and --gpus must be at least 1, --folds and --images-count at least 0.")
    chosen = None if not tta else [] if tta == "none" else [name.strip() for name in tta.split(",")]
    find_transforms(chosen or [])
    if variants:
        alone = [find_blend(root, blend, name.strip()) for name in variants.split(",")]
        members = tuple(each.members[0] for each in alone)
        planned = Blend(members, (1 / len(members),) * len(members))
    else:
        planned = find_blend(root, blend)
    folder = images or data / facts.test_dir
    names = list_images(folder, facts)
    some = [names[k] for k in np.unique(np.linspace(0, len(names) - 1, min(sample, len(names))).astype(int))]
    planned = planned.on(choose_runtime(backend, images_count or len(names)))
    scratch = atomic.temporary_beside(root / "plan")
    scratch.mkdir()
    try:
        plan = measure(planned, some, folder, facts, images_count or len(names), scratch, folds, chosen)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for line in plan_lines(plan, shutil.disk_usage(root).free, gpus):
        print(line)


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
