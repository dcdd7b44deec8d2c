"""`python -m benchmarks.compose`: composites a second on one core, with mask and depth, against Pillow's paste; and how
many a second become files.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro
from joblib.externals.loky import get_reusable_executor
from PIL import Image, ImageChops

from command_line import program
from competition import find_competition
from folds.composites import find_composites
from folds.export_composites import export
from kernels.composite_grid import Grid, place
from kernels.composition import Parts
from kernels.paste import OPAQUE
from program_flags import Positive, Processes

SIDE_PX, FOREGROUND_PX, PARTS, BATCH = 192, 96, 100, 8
Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


def smooth(rng: np.random.Generator, count: int, side: int, channels: int) -> np.ndarray:
    """(count, side, side, channels) uint8 pictures without a pixel's noise."""
    coarse = rng.integers(0, 256, (count, 6, 6, channels), np.uint8)
    shrunk = [np.asarray(Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC)) for c in coarse]
    return np.stack(shrunk).reshape(count, side, side, channels)


def parts_of(rng: np.random.Generator) -> Parts:
    """As many parts, of the same sizes, as the published data set has: round foregrounds with a soft edge."""
    y, x = np.mgrid[:FOREGROUND_PX, :FOREGROUND_PX] - (FOREGROUND_PX - 1) / 2
    alpha = np.clip((0.45 * FOREGROUND_PX - np.hypot(x, y)) * 64, 0, 255).astype(np.uint8)
    foregrounds = smooth(rng, PARTS, FOREGROUND_PX, 4)
    foregrounds[..., 3] = alpha
    near = smooth(rng, PARTS, FOREGROUND_PX, 3)[..., 0]
    backgrounds = smooth(rng, PARTS, SIDE_PX, 3)
    return Parts(backgrounds, list(foregrounds), np.ascontiguousarray(backgrounds[..., 1]), list(near))


class Pillow:
    """The same composites by Pillow, its pictures made beforehand, mirrored ones too."""

    def __init__(self, parts: Parts, grid: Grid) -> None:
        self._grid = grid
        self._backgrounds = [Image.fromarray(picture) for picture in parts.backgrounds]
        assert parts.background_near is not None and parts.foreground_near is not None
        self._near = [Image.fromarray(picture) for picture in parts.background_near]
        self._foregrounds = []
        for picture, own in zip(parts.foregrounds, parts.foreground_near, strict=True):
            for step in (1, -1):
                alpha = Image.fromarray(np.ascontiguousarray(picture[:, ::step, 3]))
                opaque = alpha.point([255 * (level >= OPAQUE) for level in range(256)])
                colour = Image.fromarray(np.ascontiguousarray(picture[:, ::step, :3]))
                self._foregrounds.append((colour, alpha, Image.fromarray(np.ascontiguousarray(own[:, ::step])), opaque))

    def __call__(self, index: int) -> Triple:
        """Image, alpha and nearness of one composite, as arrays."""
        item = self._grid.item(index)
        colour, alpha, near, opaque = self._foregrounds[2 * item.foreground + item.mirrored]
        width, height = colour.size
        top, left = place(0, index, (SIDE_PX - height, SIDE_PX - width))
        image = self._backgrounds[item.background].copy()
        image.paste(colour, (left, top), alpha)
        mask = Image.new("L", image.size)
        mask.paste(alpha, (left, top))
        depth = self._near[item.background].copy()
        below = depth.crop((left, top, left + width, top + height))
        gaps = ImageChops.multiply(ImageChops.subtract(below, near), opaque)
        lift = int(gaps.getextrema()[1])  # type: ignore[arg-type]
        depth.paste(near.point([min(level + lift, 255) for level in range(256)]) if lift else near, (left, top), alpha)
        return np.asarray(image), np.asarray(mask), np.asarray(depth)


def measure(title: str, parts: Parts, grid: Grid, peer: Pillow, indices: np.ndarray, rounds: int) -> None:
    """Compare the first items byte for byte, then clock both ways, in turns."""
    first = parts.compose(grid, 0, indices[:200])
    assert first.nears is not None
    for index, *ours in zip(indices[:200].tolist(), first.images, first.alphas, first.nears, strict=True):
        if not all(np.array_equal(a, b) for a, b in zip(ours, peer(index), strict=True)):
            raise AssertionError(f"composite {index} differs")
    batch = parts.compose(grid, 0, indices[:BATCH])

    def by_batch() -> None:
        for start in range(0, len(indices) - BATCH + 1, BATCH):
            parts.compose(grid, 0, indices[start : start + BATCH], out=batch)

    def one_by_one() -> None:
        for index in indices:
            parts.compose(grid, 0, [index])

    def pillow() -> None:
        for index in indices.tolist():
            peer(index)

    ways = {f"ours, {BATCH} a call": by_batch, "ours, one a call": one_by_one, "Pillow": pillow}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, compose in ways.items():
            # what other programs do on the machine counts for neither
            start = time.process_time()
            compose()
            rates[name].append(len(indices) / (time.process_time() - start))
    print(f"{title}:")
    for name, each in rates.items():
        # of each round's own: the machine was as busy for both
        ratio = statistics.median(ours / theirs for ours, theirs in zip(each, rates["Pillow"], strict=True))
        print(f"  {name:20} {statistics.median(each):8,.0f} composites/s  {ratio:5.1f}")


def _processor_s() -> float:
    """Seconds of the processor that this process and those it started have taken."""
    # only those that have ended are counted
    get_reusable_executor().shutdown(wait=True)
    each = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in each)


def measure_export(data: Path, count: int, jobs: int) -> None:
    """Write the first composites of a folder of parts as files, from the start of the processes on."""
    training = find_composites(find_competition("composites"), data)
    height, width = training.competition.size
    depth = "mask and depth" if training.parts.has_depth else "mask"
    print(f"{count} composites of {height}x{width} with {depth} as files, {jobs} processes:")
    for image_format in ("jpg", "png"):
        with tempfile.TemporaryDirectory() as folder:
            start, processor = time.perf_counter(), _processor_s()
            export(training, Path(folder) / "out", count=count, image_format=image_format, jobs=jobs)
            wall = time.perf_counter() - start
            taken = _processor_s() - processor
        print(f"  {image_format}  {count / wall:6,.0f} composites/s; {count / taken:6,.0f} a second of one core")


@program
def main(
    composites: Positive = 1920,
    rounds: Positive = 5,
    data: Path | None = None,
    count: Positive = 8000,
    jobs: Processes = 2,
) -> None:
    """Compose the same items both ways, in turns; first they are compared, byte for byte.

    Args:
        composites: a round; a multiple of 8.
        rounds: measurements of each, in seconds of the processor; medians are printed.
        data: a folder of parts, of which composites are also written as files.
        count: of those files, composites; they come in shards of 1,000.
        jobs: processes that write them.
    """
    if data is not None:
        measure_export(data, count, jobs)
    rng = np.random.default_rng(0)
    parts = parts_of(rng)
    grid = parts.grid()
    peer = Pillow(parts, grid)
    print(f"{SIDE_PX}x{SIDE_PX} composites with mask and depth, one core, median of {rounds}, bytes alike")
    measure("in the data set's order", parts, grid, peer, np.arange(composites), rounds)
    measure("in a random order", parts, grid, peer, rng.integers(0, len(grid), composites), rounds)


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
