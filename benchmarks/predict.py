"""`python -m benchmarks.predict`: from JPEG files to stored logits, against the forward passes alone.

Both go through the same batches on the same replicas; for the forward passes alone the batches lie in memory already.
Weights are random: speed does not depend on them. Small networks are also timed as they are used, with five folds and
a flip.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import tyro

import atomic
from command_line import UserError, program
from competition import Size
from folds.run_layout import MANIFEST_FILE, fold_folder
from models import checkpoint
from models.build import build
from models.image_file import ImageFile
from models.openvino_runtime import is_installed
from models.runtimes import RUNTIMES, TORCH
from models.variant import Variant
from models.variants import find_variant
from predict.members import Member, find_members
from predict.predictor import predict
from predict.replicas import ReplicaPool
from program_flags import ImageCounts, Positive

RESNET18_UNET = Variant(
    name="unet-resnet18", network="smp", architecture="Unet", encoder="resnet18", size=(512, 768), recipe="demo", tta=()
)
SMALL = ("unet-mobilenetv3", "fpn-regnetx")
RUNTIME_VARIANTS = ("unet-mobilenetv3-320x512", "fpn-regnetx")


def random_member(root: Path, variant: Variant, folds: int = 1, tta: tuple[str, ...] = ()) -> Member:
    """A member with random weights."""
    changed = replace(variant, tta=tta)
    for k in range(folds):
        folder = fold_folder(root / changed.name, k)
        checkpoint.save(folder, build(changed, pretrained=False), changed)
        manifest = {
            "variant": changed.to_json(),
            "fold": k,
            "images": {"train": 0, "held_out": 0},
            "folds_digest": "none",
            "data_digest": "none",
        }
        atomic.write_json(folder / MANIFEST_FILE, manifest)
    return find_members(root, [changed.name], folds)[0]


def forward_alone_s(pool: ReplicaPool, batches: Sequence[np.ndarray]) -> float:
    """Seconds to pass `batches` through the networks, as many at a time as there are replicas."""

    def forward(batch: np.ndarray) -> None:
        with pool.take() as (replica,):
            replica.logits(batch)

    with pool.running(), ThreadPoolExecutor(pool.count, initializer=pool.set_up) as threads:
        start = time.perf_counter()
        list(threads.map(forward, batches))
        return time.perf_counter() - start


def compare(member: Member, names: Sequence[str], folder: Path, size: Size, rounds: int) -> None:
    """Print end-to-end and forward-alone time of one network, measured in alternation."""
    pool = ReplicaPool([member])
    batch = pool.batch(member.variant)
    frames = np.stack([member.frame.load(folder / name, size)[0] for name in names])
    batches = [frames[k : k + batch] for k in range(0, len(frames), batch)]
    forward_alone_s(pool, batches[: pool.count])
    alone, whole, cpu_ratios = [], [], []
    for k in range(rounds):
        cpu_start = time.process_time()
        alone.append(forward_alone_s(pool, batches))
        cpu_between = time.process_time()
        store = member.folder / f"round{k}.zarr"
        start = time.perf_counter()
        predict(member, names, folder, size, pool=pool, store=store)
        whole.append(time.perf_counter() - start)
        cpu_ratios.append((time.process_time() - cpu_between) / (cpu_between - cpu_start))
        shutil.rmtree(store)
    ratios = [w / a for w, a in zip(whole, alone, strict=True)]
    height, width = member.variant.size
    passes = len(member.folds) * (1 + len(member.variant.tta))
    print(
        f"{member.name:18} {height}x{width}  passes {passes:2}  batch {batch:2}"
        f"  forward alone {median(alone) / len(names) * 1e3:7.1f} ms"
        f"  end to end {median(whole) / len(names) * 1e3:7.1f} ms an image"
        f"  ratio {median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f})"
        f"  of CPU time {median(cpu_ratios):.3f}",
        flush=True,
    )


def compare_runtimes(member: Member, batches: Sequence[np.ndarray], rounds: int) -> None:
    """Print the forward passes' time by each runtime that is installed, on one thread, measured in alternation."""
    ready = [name for name in RUNTIMES if name == TORCH or is_installed()]
    pools = {name: ReplicaPool([replace(member, runtime=name)], 1) for name in ready}
    took: dict[str, list[float]] = {name: [] for name in ready}
    for k in range(rounds + 1):
        for name, pool in pools.items():
            seconds = forward_alone_s(pool, batches)
            if k:  # the first pass prepares
                took[name].append(seconds)
    images = sum(len(batch) for batch in batches)
    height, width = member.variant.size
    for name in ready:
        ratios = [torch_s / own for torch_s, own in zip(took[TORCH], took[name], strict=True)]
        print(
            f"{member.name:25} {height}x{width}  {name:9}  {median(took[name]) / images * 1e3:7.1f} ms an image"
            f"  torch takes {median(ratios):.2f} times as long ({min(ratios):.2f} .. {max(ratios):.2f})",
            flush=True,
        )


_CHILD = """
import resource, sys
from pathlib import Path
from benchmarks.predict import find_members, predict
root, folder, height, width = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
member = find_members(root, [sys.argv[5]], 1)[0]
predict(member, sorted(p.name for p in folder.iterdir()), folder, (height, width), store=folder.with_suffix(".zarr"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak_bytes(root: Path, name: str, paths: Sequence[Path], size: Size, count: int) -> int:
    """Most memory that a process of its own needed to predict `count` images, links to `paths` in turn."""
    folder = root / f"links-{count}"
    folder.mkdir()
    for k in range(count):
        (folder / f"{k:06}.jpg").symlink_to(paths[k % len(paths)].resolve())
    words = [sys.executable, "-c", _CHILD, str(root), str(folder), *map(str, size), name]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    if done.returncode:
        raise UserError(f"the child process that predicts {count} images failed: {done.stderr[-500:]}")
    return int(done.stdout.split()[-1])


@program
def main(
    images: Path = Path("data/studio/test"),
    count: Positive = 64,
    small_count: Positive = 96,
    rounds: Positive = 5,
    memory_counts: ImageCounts = (200, 2000),
) -> None:
    """Time prediction end to end against the forward passes alone, and its peak memory at two numbers of images.

    Args:
        images: a folder of JPEGs of one size.
        count: images for the ResNet18-U-Net.
        small_count: images for the small networks.
        rounds: in alternation; medians are printed.
        memory_counts: images of the two memory measurements; 0 0 for none.
    """
    paths = sorted(images.glob("*.jpg")) if images.is_dir() else []
    if not paths:
        raise UserError(f"{images} holds no .jpg image: name a folder of images (--images), or make data C=studio.")
    size = ImageFile(paths[0]).size
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for variant in (RESNET18_UNET, *(find_variant(name) for name in SMALL)):
            member = random_member(root, variant)
            number = count if variant is RESNET18_UNET else small_count
            names = [f"{k:06}.jpg" for k in range(number)]
            folder = root / f"images-{variant.name}"
            folder.mkdir()
            for k, name in enumerate(names):
                (folder / name).symlink_to(paths[k % len(paths)].resolve())
            compare(member, names, folder, size, rounds)
            if variant is not RESNET18_UNET:
                # as they are used: five folds and a flip share one reading of the image and one writing
                used = random_member(root / "used", variant, 5, ("hflip",))
                compare(used, names[: len(names) // 4], folder, size, rounds)
        for variant in (RESNET18_UNET, *(find_variant(name) for name in RUNTIME_VARIANTS)):
            # few images are enough: nothing but the network is at work
            member = random_member(root / "runtimes", variant)
            frames = np.stack([member.frame.load(path, size)[0] for path in paths[:8]])
            compare_runtimes(member, [frames[:4], frames[4:]], rounds)
        if all(memory_counts):
            few, many = (peak_bytes(root, SMALL[0], paths, size, number) for number in memory_counts)
            print(
                f"peak memory, {SMALL[0]}: {memory_counts[0]} images {few / 2**20:.0f} MiB, "
                f"{memory_counts[1]} images {many / 2**20:.0f} MiB, ratio {many / few:.3f}"
            )


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
