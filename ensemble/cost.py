"""What predicting takes, in time, disk and memory, measured with a few images, and the arithmetic to many."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from competition import Size
from ensemble.lanes import Lanes
from ensemble.members import Member
from ensemble.mixture import Mixture
from ensemble.predictor import DECODERS, predict
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
        full = mixture.combine([store.read(name)[0] for store in stores], frames, mixture.weights, size)
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
