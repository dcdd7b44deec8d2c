"""`python -m benchmarks.many_small`: 250 small images through one small network, from files to masks on disk.

Each measurement is a process of its own that runs what `make predict` runs, on one core or more, and says what it spent
on its start, its network, decoding, forward passes and writing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import tyro

import atomic
from command_line import UserError, program
from competition import Size
from cores import core_count, keep_to
from program_flags import DeviceCounts, Positive, SizePx

# what is said of another system, on other hardware: shown beside the rows, and never set into a ratio with them
LITERATURE = (
    "from the literature, not measured here: nnU-Net takes over 100 s for 250 images of at most 500x500 on an A100 "
    "(its issue 2655, without mirroring)"
)
_WEIGHTS = Path(__file__).parent.parent / "trained/fast/carvana/unet-mobilenetv3-320x512/fold0"
_NAME = "small"
STAGES = ("imports", "network", "decode", "forward", "write")


@dataclass(frozen=True)
class Seen:
    """What one process took.

    Attributes:
        wall_s: from before it was started until it had ended.
        cpu_s: of all its threads.
        stages_s: wall seconds by stage (`STAGES`), of decode, forward and write added up over threads, so that they
            may exceed the whole where several cores are at work.
        stages_cpu_s: CPU seconds by stage; what is not of another is the forward passes'.
    """

    wall_s: float
    cpu_s: float
    stages_s: dict[str, float]
    stages_cpu_s: dict[str, float]


class _Clock:
    """Wall and CPU seconds of a stage, over all threads; CPU seconds are those of the calling thread alone."""

    def __init__(self) -> None:
        self.wall_s = dict.fromkeys(STAGES, 0.0)
        self.cpu_s = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start, cpu = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                wall_s, cpu_s = time.perf_counter() - start, time.thread_time() - cpu
                with self._lock:
                    self.wall_s[stage] += wall_s
                    self.cpu_s[stage] += cpu_s

        return wrapper


def run(images: Path, out: Path, runs: Path, backend: Any, cores: int, report: Path) -> None:
    """Make the masks as `make predict` does, in a process of its own; its stages go into a file."""
    # no more cores than that, for anything that counts them
    keep_to(cores)
    from ensemble import photographs

    # what a network is built with is imported late
    import models.torchvision_compat  # noqa: F401, isort: skip
    import segmentation_models_pytorch  # noqa: F401, isort: skip

    clock = _Clock()
    # with the interpreter's own start
    clock.cpu_s["imports"] = time.process_time()
    clock.wall_s["imports"] = time.monotonic() - float(os.environ["MANY_SMALL_START"])

    def overlapped(blocks: Any, *, load: Any, forward: Any, keep: Any, **options: Any) -> Any:
        stages = {"decode": load, "forward": forward, "write": keep}
        load, forward, keep = (clock.timed(stage, function) for stage, function in stages.items())
        return inner(blocks, load=load, forward=forward, keep=keep, **options)

    inner = photographs.overlapped
    photographs.overlapped = overlapped
    photographs.ReplicaPool = clock.timed("network", photographs.ReplicaPool)  # type: ignore[misc,assignment]
    photographs.main(images, out, variant=_NAME, runs=runs, backend=backend)
    others = sum(seconds for stage, seconds in clock.cpu_s.items() if stage != "forward")
    # a runtime may compute in threads of its own
    clock.cpu_s["forward"] = time.process_time() - others
    atomic.write_json(report, {"wall_s": clock.wall_s, "cpu_s": clock.cpu_s})


def measure(images: Path, runs: Path, backend: str, cores: int) -> Seen:
    """One process from its start to its end.

    Raises:
        UserError: it failed, or did not make every mask.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out, report = Path(scratch) / "masks", Path(scratch) / "stages.json"
        paths = ", ".join(f"Path({str(path)!r})" for path in (images, out, runs))
        call = f"run({paths}, {backend!r}, {cores}, Path({str(report)!r}))"
        code = f"from pathlib import Path; from benchmarks.many_small import run; {call}"
        # OpenCV and the libraries beneath torch count the machine's cores by themselves
        environment = os.environ | {"OMP_NUM_THREADS": str(cores), "MANY_SMALL_START": str(time.monotonic())}
        cpu, start = _children_s(), time.perf_counter()
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        wall_s, cpu_s = time.perf_counter() - start, _children_s() - cpu
        made = len(list(out.glob("*_mask.png")))
        if done.returncode or made != len(list(images.iterdir())):
            raise UserError(f"{backend} on {cores} cores made {made} masks: {done.stderr[-500:]}")
        stages = json.loads(report.read_text())
    return Seen(wall_s, cpu_s, stages["wall_s"], stages["cpu_s"])


def _children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def make_images(folder: Path, count: int, size: Size, sources: Sequence[Path]) -> None:
    """Write images as PNG files, no two alike.

    Args:
        folder: where; made.
        count: how many.
        size: (height, width).
        sources: photographs that they are made from, by turns: reduced, and moved sideways by another distance in each
            round.

    Raises:
        UserError: a photograph cannot be read.
    """
    from models.image_file import decode

    folder.mkdir(parents=True)
    reduced = [cv2.resize(decode(path), (size[1], size[0]), interpolation=cv2.INTER_AREA) for path in sources[:count]]
    for k in range(count):
        image = np.roll(reduced[k % len(reduced)], 5 * (k // len(reduced)), axis=1)
        done, data = cv2.imencode(".png", image[..., ::-1])
        if not done:
            raise RuntimeError("OpenCV cannot write .png")
        (folder / f"{k:04}.png").write_bytes(data.tobytes())


def one_network(runs: Path, weights: Path = _WEIGHTS) -> Size:
    """Set up one network that comes along, without test-time augmentation, as a run of its own; returns its size."""
    from dataclasses import replace

    from folds.run_layout import MANIFEST_FILE, fold_folder
    from models import checkpoint

    network, variant = checkpoint.load(weights)
    variant = replace(variant, name=_NAME, tta=())
    folder = fold_folder(runs / "carvana" / _NAME, 0)
    checkpoint.save(folder, network, variant)
    facts = {"fold": 0, "images": {"train": 0, "held_out": 0}, "folds_digest": "none", "data_digest": "none"}
    atomic.write_json(folder / MANIFEST_FILE, {"variant": variant.to_json(), **facts})
    return variant.size


def lines_of(backend: str, cores: int, seen: Sequence[Seen], count: int) -> list[str]:
    """A row of the table and, below it, its stages; medians."""
    wall_s, cpu_s = median(s.wall_s for s in seen), median(s.cpu_s for s in seen)
    stages = [
        f"{stage} {median(s.stages_s[stage] for s in seen):.2f} ({median(s.stages_cpu_s[stage] for s in seen):.2f})"
        for stage in STAGES
    ]
    return [
        f"{backend:9} {cores} core{'s' if cores > 1 else ' '}  {wall_s:6.2f} s ({cpu_s:.2f} s of CPU)"
        f"  {wall_s / count * 1e3:6.1f} ms an image",
        f"  seconds (of CPU): {', '.join(stages)}",
    ]


@program
def main(
    images: Path | None = None,
    count: Positive = 250,
    size: SizePx = (512, 512),
    rounds: Positive = 3,
    cores: DeviceCounts = (1, 2),
    backends: tuple[str, ...] = ("torch", "openvino"),
) -> None:
    """Time a folder of small images through one network that comes along, start-up and files included.

    Args:
        images: a folder of JPEGs that the small images are made from; without it the studio renders a car.
        count: of images.
        size: of images: height, width.
        rounds: processes of each row, in turns; medians are printed. One more of each prepares.
        cores: that a process may keep busy, a row each.
        backends: as --backend of make predict takes them; what is not installed is left out.
    """
    from models.openvino_runtime import is_installed
    from studio.render import render_competition

    if count < 1 or min(size) < 1 or rounds < 1:
        raise UserError("nothing to measure: give --count, --size and --rounds of at least 1.")
    rows = [(b, c) for c in cores if c <= core_count() for b in backends if b != "openvino" or is_installed()]
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        if images is None:
            render_competition(scratch / "studio", cars=1, test_cars=1)
            images = scratch / "studio/train"
        sources = sorted(images.glob("*.jpg"))
        if not sources:
            raise UserError(f"{images} holds no .jpg image: name a folder of images (--images), or leave it out.")
        made, runs = scratch / "images", scratch / "runs"
        make_images(made, count, size, sources)
        height, width = one_network(runs)
        print(f"{count} PNG images of {size[0]}x{size[1]} to masks, one network at {height}x{width}, one pass")
        seen: dict[tuple[str, int], list[Seen]] = {row: [] for row in rows}
        for turn in range(rounds + 1):
            for row in rows:
                one = measure(made, runs, *row)
                if turn:  # the first compiles loops, and has the files read
                    seen[row].append(one)
    for row in rows:
        print("\n".join(lines_of(*row, seen[row], count)), flush=True)
    print(LITERATURE)


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
