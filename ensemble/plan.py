"""`python -m ensemble.plan`: what a test set will take, in time, disk and memory, from a few of its images.

The images go the whole way, from the file to stored logits and run-length text, into a folder that is removed again.
"""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from command_line import UserError, program
from competition import find_competition
from ensemble.cost import Plan, measure
from ensemble.mixture import Mixture, find_mixture
from folds.images import list_images
from models.tta import find_transforms


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
