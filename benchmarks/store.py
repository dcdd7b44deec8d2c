"""`python -m benchmarks.store`: the logit store against `np.savez_compressed`, with a trained network's logits.

What most pipelines keep is the logits at full size as float16 in one .npz an image; ours are kept at the network's own
size. So the same logits are also put into the store at full size, and into .npz at the network's size.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import tyro
from tqdm import tqdm

from command_line import UserError, program
from folds import split
from folds.images import find_training_set
from folds.inputs import load_inputs
from folds.logit_code import dequantise, quantise
from folds.run_layout import CACHE_DIR, FOLDS_FILE, fold_folder, is_finished
from folds.scoring import full_size_score
from folds.store import LogitStore
from folds.truth import load_truth
from predict.members import find_members
from predict.replicas import Replica
from program_flags import NonNegative, Positive, places


@dataclass(frozen=True)
class Way:
    """One way to keep an image's logits; `write` and `read` take the image's number."""

    name: str
    write: Callable[[int], None]
    read: Callable[[int], object]
    path: Callable[[int], Path]


def _npz(name: str, folder: Path, arrays: list[np.ndarray]) -> Way:
    folder.mkdir()
    halves = [array.astype(np.float16) for array in arrays]

    def path(k: int) -> Path:
        return folder / f"{k}.npz"

    def read(k: int) -> object:
        with np.load(path(k)) as file:
            return file["logits"].astype(np.float32)

    return Way(name, lambda k: np.savez_compressed(path(k), logits=halves[k]), read, path)


def _zarr(name: str, folder: Path, arrays: list[np.ndarray]) -> Way:
    names = [str(k) for k in range(len(arrays))]
    store = LogitStore.create(folder, names, (1, *arrays[0].shape))
    return Way(
        name,
        lambda k: store.write(names[k], arrays[k][None]),
        lambda k: store.read(names[k]),
        lambda k: folder / f"c.{k}.0.0.0",
    )


def _seconds(task: Callable[[int], object], k: int) -> float:
    start = time.perf_counter()
    task(k)
    return time.perf_counter() - start


@program
def main(
    competition: str = "studio",
    variant: str = "unet-mobilenetv3",
    data: Path | None = None,
    runs: Path = Path("runs"),
    timed: Positive = 12,
    scored: NonNegative = 0,
) -> None:
    """Compare size, write and read time in alternation, and the Dice of what reads back with that of float32.

    Args:
        competition: a name from competition.py.
        variant: trained, in the runs folder.
        data: the competition's files; data/<competition> by default.
        runs: where the trained variant is.
        timed: images that are written and read.
        scored: images whose Dice is compared; 0 takes all.
    """
    facts, data, root = places(competition, data, runs)
    if not is_finished(fold_folder(root / variant, 0)):
        raise UserError(
            f"{root / variant} is not trained: make data folds C={competition} V={variant}, or name another runs "
            "folder (--runs)."
        )
    training = find_training_set(facts, data)
    fold = split.read(root / FOLDS_FILE, training)["fold"].to_numpy()
    member = find_members(root, [variant], int(fold.max()) + 1)[0]
    known = load_truth(training, root / CACHE_DIR)
    frames = load_inputs(training, member.frame, {"mask": known}, root / CACHE_DIR)

    chosen = np.linspace(0, len(fold) - 1, min(scored or len(fold), len(fold))).astype(int)
    planes: list[np.ndarray] = []
    exact: list[float] = []
    stored: list[float] = []
    for k, folder in enumerate(member.folds):
        alone = Replica(
            type(member)(member.folder, member.variant, (folder,), member.folds_digest, member.data_digest, "")
        )
        for p in tqdm(chosen[fold[chosen] == k], desc=f"fold {k}", unit="image", disable=None):
            plane = alone.logits(np.array(frames.image(int(p)))[None])[0, 0]
            planes.append(plane)
            for scores, seen in ((exact, plane), (stored, dequantise(quantise(plane)))):
                scores.append(full_size_score(seen, member.frame, known.of(int(p)), facts.size))
    change = np.array(stored) - np.array(exact)
    print(
        f"Dice of {len(change)} images out of fold: float32 {np.mean(exact):.8f}, from the store {np.mean(stored):.8f};"
        f" mean changes by {change.mean():+.2e}, the worst image by {change[np.abs(change).argmax()]:+.2e}"
    )

    planes = planes[:timed]
    full = [np.ascontiguousarray(member.frame.invert(plane, facts.size)) for plane in planes]
    height, width = member.variant.size
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ways = [
            _npz("savez_compressed float16, full size", folder / "npz-full", full),
            _npz(f"savez_compressed float16, {height}x{width}", folder / "npz-small", planes),
            _zarr("LogitStore, full size", folder / "full.zarr", full),
            _zarr(f"LogitStore, {height}x{width} (ours)", folder / "small.zarr", planes),
        ]
        # the first use of each loads code
        for way in ways:
            way.write(0)
            way.read(0)
        write: dict[str, list[float]] = {way.name: [] for way in ways}
        read: dict[str, list[float]] = {way.name: [] for way in ways}
        for k in range(len(planes)):
            for way in ways:
                write[way.name].append(_seconds(way.write, k))
            for way in ways:
                read[way.name].append(_seconds(way.read, k))
        ours = ways[-1].name
        sizes = {way.name: median(way.path(k).stat().st_size for k in range(len(planes))) for way in ways}
        print(f"{'medians of ' + str(len(planes)) + ' images':42} write ms  ratio   read ms  ratio       kB  ratio")
        for way in ways:
            w, r = median(write[way.name]), median(read[way.name])
            print(
                f"{way.name:42} {w * 1e3:8.2f} {w / median(write[ours]):6.1f}  {r * 1e3:8.2f} "
                f"{r / median(read[ours]):6.1f} {sizes[way.name] / 1e3:8.1f} {sizes[way.name] / sizes[ours]:6.1f}"
            )
        back = [_seconds(lambda k: member.frame.invert(planes[k], facts.size), k) for k in range(len(planes))]
        print(f"from {height}x{width} to full size after reading: {median(back) * 1e3:.2f} ms")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
