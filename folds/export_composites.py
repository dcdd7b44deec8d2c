"""`python -m folds.export_composites`: composites as files, for those who want them: sharded, parallel, resumable.

<out>/<shard>/<index>.jpg (or .png)      the composite
<out>/<shard>/<index>_mask.png           how much of each pixel is foreground, 0..255
<out>/<shard>/<index>_depth.png          nearness, where there is depth: 0 far .. 255 near
<out>/statistics.json                    per channel, over all composites; written last
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import joblib
import numpy as np
import tyro
from tqdm import tqdm

import atomic
from command_line import UserError, program
from folder_listing import is_empty
from folder_lock import fill
from folds import png_file
from folds.composites import CompositeSet
from folds.images import find_training_set
from json_file import Schema
from program_flags import NonNegative, Processes, files_of

SHARD = 1000
PARAMETERS_FILE, STATISTICS_FILE = "parameters.json", "statistics.json"
# in a shard's folder: sums of its pixels; a shard that has it is whole
SUMS_FILE = "sums.json"
_JPEG_QUALITY = 95
_ANY = Schema(dict[str, Any], "remove it and export again")


@dataclass(frozen=True)
class _Shard:
    """Composites `start` .. `stop` of a set, and where they go."""

    training: CompositeSet
    start: int
    stop: int
    folder: Path
    suffix: str


def _encoded(suffix: str, picture: np.ndarray) -> bytes:
    if suffix == ".png":
        return png_file.encode(picture)
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    done, content = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise RuntimeError(f"OpenCV cannot write {suffix}")
    return content.tobytes()


def _sums(images: np.ndarray) -> dict[str, Any]:
    """Exact sums over the pixels of images (n, H, W, 3) uint8."""
    levels = np.zeros((3, 256), np.int64)
    for image in images:
        for channel in range(3):
            levels[channel] += cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
    level = np.arange(256)
    pixels = images.size // 3
    return {"pixels": pixels, "sum": (levels @ level).tolist(), "squares": (levels @ level**2).tolist()}


def _export(shard: _Shard) -> int:
    """Write a shard, unless it is there; returns how many composites it has."""
    count = shard.stop - shard.start
    if shard.folder.is_dir():
        return count
    cv2.setNumThreads(1)
    training = shard.training
    found = training.parts.compose(training.grid, training.settings.seed, np.arange(shard.start, shard.stop))
    with atomic.building(shard.folder) as folder:
        for number in range(count):
            stem = f"{shard.start + number:08}"
            (folder / f"{stem}{shard.suffix}").write_bytes(_encoded(shard.suffix, found.images[number]))
            (folder / f"{stem}_mask.png").write_bytes(_encoded(".png", found.alphas[number]))
            if found.nears is not None:
                (folder / f"{stem}_depth.png").write_bytes(_encoded(".png", found.nears[number]))
        atomic.write_json(folder / SUMS_FILE, _sums(found.images))
    return count


def statistics(sums: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel, pixels scaled to 0..1, from shards' exact sums.

    >>> statistics([{"pixels": 2, "sum": [255, 0, 510], "squares": [65025, 0, 130050]}])
    {'mean': [0.5, 0.0, 1.0], 'std': [0.5, 0.0, 0.0]}
    """
    pixels = sum(each["pixels"] for each in sums)
    mean = [sum(each["sum"][c] for each in sums) / pixels for c in range(3)]
    square = [sum(each["squares"][c] for each in sums) / pixels for c in range(3)]
    return {
        "mean": [m / 255 for m in mean],
        "std": [float(np.sqrt(max(0.0, s - m * m))) / 255 for m, s in zip(mean, square, strict=True)],
    }


def export(
    training: CompositeSet, out: Path, *, count: int = 0, image_format: str = "jpg", jobs: int = -1
) -> dict[str, list[float]]:
    """Write composites 0 .. count - 1 and their statistics; what is there is kept.

    Args:
        training: the set; all of its grid can be exported.
        out: the folder.
        count: how many; 0 is all.
        image_format: "jpg" or "png".
        jobs: processes, as joblib counts them.

    Returns:
        mean and std, per channel.

    Raises:
        UserError: the folder was begun with something else, or there are not so many.
    """
    total = count or len(training.grid)
    if not 0 < total <= len(training.grid):
        raise UserError(f"{count} composites: there are {len(training.grid)}, ask for 1 to that many, or 0 for all.")
    parameters = {"data_digest": training.digest, "count": total, "format": image_format}
    state = out / PARAMETERS_FILE
    if state.exists():
        if _ANY.read(state) != parameters:
            raise UserError(f"{out} was begun with other parts or settings: remove it, or choose another --out.")
    elif not is_empty(out):
        raise UserError(f"{out} holds other files: choose an empty --out.")
    atomic.write_json(state, parameters)
    shards = [
        _Shard(training, start, min(start + SHARD, total), out / f"{start // SHARD:05}", f".{image_format}")
        for start in range(0, total, SHARD)
    ]
    parallel = joblib.Parallel(n_jobs=jobs if len(shards) > 1 else 1, return_as="generator_unordered")
    with tqdm(total=total, desc="export", unit="composite", disable=None) as bar:
        for done in parallel(joblib.delayed(_export)(shard) for shard in shards):
            bar.update(done)
    found = statistics([_ANY.read(shard.folder / SUMS_FILE) for shard in shards])
    atomic.write_json(out / STATISTICS_FILE, found)
    return found


@program
def main(
    out: Path,
    competition: str = "composites",
    data: Path | None = None,
    count: NonNegative = 0,
    format: Literal["jpg", "png"] = "jpg",
    jobs: Processes = -1,
) -> None:
    """Write composites, masks and depth as files; killed and run again, it goes on where it was.

    Args:
        out: the folder.
        competition: a name from competition.py, of composites.
        data: the folder of parts; data/<competition> by default.
        count: the first so many; 0 writes all.
        format: of the composites; masks and depth are PNG.
        jobs: processes, as joblib counts them.
    """
    facts, data = files_of(competition, data)
    fill(out)
    training = find_training_set(facts, data)
    if not isinstance(training, CompositeSet):
        raise UserError(f"{facts.name} has no composites: give --competition composites.")
    found = export(training, out, count=count, image_format=format, jobs=jobs)
    print(f"{count or len(training.grid)} composites in {out}")
    for key, values in found.items():
        print(f"  {key:5}" + "".join(f"{value:8.3f}" for value in values))


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
