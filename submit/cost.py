"""What a test set will take: the arithmetic from one image's measured costs to all images, and its text for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cores import core_count
from predict.predictor import DECODERS


@dataclass(frozen=True)
class MemberCost:
    """What one image costs with one member, measured.

    Attributes:
        name: the member's.
        passes: forward passes an image: folds times transforms, by their pixels.
        decode_s: of one thread.
        forward_s: all passes, by all replicas on this machine together.
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
    where = count_of(plan.devices, "GPU") if plan.devices else f"{count_of(core_count(), 'core')}, no GPU"
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
