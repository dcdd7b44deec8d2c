"""`python -m ensemble.plan`: what a test set will take, in time, disk and memory, from a few of its images.

The images go the whole way, from the file to stored logits and run-length text, into a folder that is removed again.
"""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from command_line import UserError, program
from competition import Size, find_competition
from ensemble.lanes import Lanes
from ensemble.members import Member
from ensemble.mixture import Mixture, find_mixture
from ensemble.predictor import DECODERS, predict
from folds.images import list_images
from folds.store import LogitStore
from kernels.rle import encode_logits_text
from models.tta import find_transforms


@dataclass(frozen=True)
class MemberCost:
    """What one image costs with one member, measured.

    Attributes:
        name: the member's.
        passes: forward passes an image: folds times transforms, by their pixels.
        decode_s: of one thread.
        forward_s: all passes, on all lanes of this machine together.
        end_to_end_s: from the file to the store, everything beside each other.
        disk_bytes: stored.
    """

    name: str
    passes: float
    decode_s: float
    forward_s: float
    end_to_end_s: float
    disk_bytes: float

    def seconds(self, images: int, share: float = 1.0) -> float:
        """Time for `images` when the forward pass has `1 / share` of this machine's devices.

        Never less than decoding takes, which does not gain from more GPUs.
        """
        if share == 1:
            return images * self.end_to_end_s
        beside = self.end_to_end_s - self.forward_s
        return images * max(self.forward_s * share + max(beside, 0.0), self.decode_s / DECODERS)


@dataclass(frozen=True)
class Plan:
    """What `images` will take.

    Attributes:
        members: one entry a member.
        encode_s: blending one image at full size and encoding it, on all cores together.
        text_bytes: run-length text of one image.
        devices: GPUs the members were measured on; 0 for the CPU.
        peak_bytes: most memory this process had.
    """

    images: int
    members: tuple[MemberCost, ...]
    encode_s: float
    text_bytes: float
    devices: int
    peak_bytes: int

    @property
    def disk_bytes(self) -> float:
        """Stored logits, the submission's shards, and the submission, which is no larger than they are."""
        return self.images * (sum(member.disk_bytes for member in self.members) + 2 * self.text_bytes)

    def seconds(self, count: int = 0) -> float:
        """Time on this machine (0), on `count` GPUs in it, or, where there is none, on `count` such machines."""
        if not count:
            return sum(member.seconds(self.images) for member in self.members) + self.images * self.encode_s
        if not self.devices:
            return self.seconds() / count
        share = self.devices / count
        return sum(member.seconds(self.images, share) for member in self.members) + self.images * self.encode_s


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(45), duration(90), duration(7300), duration(200000)
    ('45 s', '2 min', '2 h 02 min', '2 d 7 h')
    """
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def amount(size_bytes: float) -> str:
    """A number of bytes for people, in decimal units.

    >>> amount(850), amount(29_000), amount(2_784_000), amount(74e9)
    ('850 B', '29.0 kB', '2.8 MB', '74.0 GB')
    """
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= step:
            return f"{size_bytes / step:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def count_of(count: int, what: str) -> str:
    """A number of things.

    >>> count_of(1, "core"), count_of(2, "GPU")
    ('1 core', '2 GPUs')
    """
    return f"{count} {what}{'' if count == 1 else 's'}"


def measure_member(
    member: Member, names: Sequence[str], folder: Path, size: Size, scratch: Path, folds: int, tta: Sequence[str] | None
) -> tuple[MemberCost, LogitStore]:
    """Take some images the whole way with one member; returns what one costs, and the store under `scratch`."""
    lanes = Lanes([member], folds=folds, tta=tta)
    batch = lanes.batch(member.variant)
    start = time.perf_counter()
    images = [member.frame.load(folder / name, size)[0] for name in names[:batch]]
    decode_s = (time.perf_counter() - start) / len(images)
    # kernels are chosen and memory is fetched in the first passes
    predict(member, names[: batch * lanes.count], folder, size, lanes=lanes, store=scratch / f"{member.name}-first")
    block = np.stack(images)
    with lanes.running(), lanes.take() as (predictor,):
        start = time.perf_counter()
        predictor.logits(block)
        forward_s = (time.perf_counter() - start) / len(block) / lanes.count
    start = time.perf_counter()
    store = predict(member, names, folder, size, lanes=lanes, store=scratch / member.name)
    end_to_end_s = (time.perf_counter() - start) / len(names)
    disk_bytes = sum(entry.stat().st_size for entry in store.path.glob("c.*")) / len(names)
    transforms = find_transforms(member.variant.tta if tta is None else tta)
    passes = (folds or len(member.folds)) * sum(t.cost(member.variant.size) for t in transforms)
    return MemberCost(member.name, passes, decode_s, forward_s, end_to_end_s, disk_bytes), store


def measure(
    mixture: Mixture,
    names: Sequence[str],
    folder: Path,
    size: Size,
    images: int,
    scratch: Path,
    folds: int = 0,
    tta: Sequence[str] | None = None,
) -> Plan:
    """Measure with the images `names` of `folder` what `images` images will take; writes under `scratch` only."""
    costs, stores = [], []
    for member in mixture.members:
        cost, store = measure_member(member, names, folder, size, scratch, folds, tta)
        costs.append(cost)
        stores.append(store)
    frames = [member.frame for member in mixture.members]
    text_bytes = 0
    seconds = []
    for name in names:
        start = time.perf_counter()
        frame = mixture.image_frame
        image = None if frame is None else frame.load(folder / name, size)[0]
        full = mixture.combine([store.read(name)[0] for store in stores], frames, mixture.weights, size, image)
        text_bytes += len(encode_logits_text(full, threshold=mixture.threshold))
        seconds.append(time.perf_counter() - start)
    return Plan(
        images,
        tuple(costs),
        # the first call loads the compiled loop
        float(np.median(seconds)) / len(os.sched_getaffinity(0)),
        text_bytes / len(names),
        torch.cuda.device_count(),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def plan_lines(plan: Plan, free_bytes: int, counts: Sequence[int]) -> list[str]:
    """A plan as lines of text.

    Args:
        plan: from `measure`.
        free_bytes: room on the disk of the runs folder.
        counts: numbers of GPUs (or machines) to reckon with.
    """
    lines = [f"{plan.images} images; what one takes, measured on a few of them, and what all take:"]
    for m in plan.members:
        passes = f"{m.passes:g} forward {'pass' if m.passes == 1 else 'passes'} an image (folds times augmentations)"
        lines += [
            f"  {m.name}: {passes}",
            f"    one image: reading {m.decode_s * 1e3:.1f} ms, forward {m.forward_s * 1e3:.1f} ms, from file "
            f"to store, stages beside each other, {m.end_to_end_s * 1e3:.1f} ms; {amount(m.disk_bytes)} stored",
            f"    all images: {duration(m.seconds(plan.images))}, {amount(plan.images * m.disk_bytes)} stored",
        ]
    lines += [
        "  blending at full size and writing run lengths",
        f"    one image: {plan.encode_s * 1e3:.1f} ms; {amount(plan.text_bytes)} of text",
        f"    all images: {duration(plan.images * plan.encode_s)}",
    ]
    cores = len(os.sched_getaffinity(0))
    where = count_of(plan.devices, "GPU") if plan.devices else f"{count_of(cores, 'core')}, no GPU"
    lines.append(
        f"in all, on this machine ({where}): {duration(plan.seconds())}, {amount(plan.disk_bytes)} of disk "
        f"({amount(free_bytes)} free), {amount(plan.peak_bytes)} of memory"
    )
    lines.append(
        f"with submit.make --stream, which keeps no logits: {amount(plan.images * 2 * plan.text_bytes)} of disk"
    )
    what = "in this machine" if plan.devices else "like this one"
    unit = "GPU" if plan.devices else "machine"
    lines += [f"by arithmetic, {count_of(n, unit)} {what}: {duration(plan.seconds(n))}" for n in counts]
    if plan.disk_bytes > free_bytes:
        lines.append("the disk is too small: choose fewer or smaller variants, or another --runs folder")
    return lines


@program
def main(
    competition: str = "carvana",
    blend: str = "blend",
    variants: str = "",
    folds: int = 0,
    tta: str = "",
    images: Path | None = None,
    images_count: int = 0,
    sample: int = 24,
    gpus: tuple[int, ...] = (2, 4, 8),
    data: Path | None = None,
    runs: Path = Path("runs"),
) -> None:
    """Say what predicting a test set will take, from a few of its images; nothing is kept.

    Args:
        competition: a name from competition.py.
        blend: the fitted blend to plan for.
        variants: trained variants instead of the blend, a comma list.
        folds: networks of each variant; 0 takes all its folds.
        tta: test-time augmentations instead of the variants' own, a comma list; none for no augmentation.
        images: a folder of images instead of the competition's test set.
        images_count: how many images to plan for; 0 takes as many as there are in the folder.
        sample: images that are timed.
        gpus: numbers of GPUs to reckon with; on a machine without one, of such machines.
        data: the competition's files; data/<competition> by default.
        runs: where trained variants and the blend are.
    """
    facts = find_competition(competition)
    root = runs / facts.name
    if sample < 1 or min(gpus, default=1) < 1 or folds < 0 or images_count < 0:
        raise UserError("--sample and --gpus must be at least 1, --folds and --images-count at least 0.")
    chosen = None if not tta else [] if tta == "none" else [name.strip() for name in tta.split(",")]
    find_transforms(chosen or [])
    if variants:
        alone = [find_mixture(root, blend, name.strip()) for name in variants.split(",")]
        members = tuple(mixture.members[0] for mixture in alone)
        mixture = Mixture(members, (1 / len(members),) * len(members), 0.0)
    else:
        mixture = find_mixture(root, blend)
    folder = images or (data or facts.default_data()) / facts.test_dir
    names = list_images(folder, facts)
    some = [names[k] for k in np.unique(np.linspace(0, len(names) - 1, min(sample, len(names))).astype(int))]
    scratch = Path(tempfile.mkdtemp(prefix=".tmp-plan-", dir=root))
    try:
        plan = measure(mixture, some, folder, facts.size, images_count or len(names), scratch, folds, chosen)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for line in plan_lines(plan, shutil.disk_usage(root).free, gpus):
        print(line)


if __name__ == "__main__":
    tyro.cli(main)
