"""`python -m benchmarks.blend [--masks FOLDER]`: fitting weights on full frames, and blending stored maps to a row.

The logits are synthetic: the distance to a real outline, with smooth noise of each network's own size.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import tyro

from benchmarks.alternation import Contender, medians_s
from benchmarks.mask_pool import load_masks
from command_line import UserError, program
from competition import COMPETITIONS
from ensemble.oof_data import OofData
from ensemble.stacking import GreedySelection, ScoreWeights
from ensemble.survey import build_index
from ensemble.voting import LINEAR
from folds.scoring import score_of
from folds.store import LogitStore
from folds.truth import Truth
from kernels import rle
from kernels.blend import open_counts
from kernels.rle import encode_logits_text
from models.frame import Frame
from program_flags import Positive

_FULL = COMPETITIONS["carvana"].size
# (frame, noise in pixels of the full frame): the last is the bad one, the second nearly a copy of the first
_VARIANTS = (
    (Frame((640, 960)), 1.0),
    (Frame((640, 960)), 1.1),
    (Frame((512, 512)), 1.5),
    (Frame((320, 480)), 2.0),
    (Frame((256, 384)), 3.0),
    (Frame((160, 256)), 8.0),
)
_BAND = (-0.5, 0.5)
# weightings that a search hands to the index at a time
_AT_ONCE = 64
# weightings in one call on all pixels
_FEW = 8
_TARGET = 1000


def network_logits(mask: np.ndarray, frame: Frame, noise_px: float, seed: int) -> np.ndarray:
    """What a smooth network might say of a car: (h, w) float32 at the frame's size.

    Args:
        mask: (H, W) bool.
        frame: of the network.
        noise_px: standard deviation of its outline's error, in pixels of the full frame.
        seed: of the noise.
    """
    inside = frame.apply_mask(mask) > 127
    distance: np.ndarray = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 3)
    distance -= cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 3)
    to_full = mask.shape[0] / frame.size[0] if frame.fit == "resize" else 1.0
    waves = np.random.default_rng(seed).normal(size=(32, 48)).astype(np.float32)
    error_px = cv2.resize(waves, frame.size[::-1], interpolation=cv2.INTER_CUBIC) * np.float32(noise_px)
    return np.clip((distance * np.float32(to_full) + error_px) / 2, -12, 12).astype(np.float32)


def stored(folder: Path, masks: Sequence[np.ndarray], frame: Frame, noise_px: float, seed: int) -> LogitStore:
    """A store of synthetic logits of every mask."""
    store = LogitStore.create(folder, [str(k) for k in range(len(masks))], (1, *frame.size))
    for k, mask in enumerate(masks):
        store.write(str(k), network_logits(mask, frame, noise_px, 1000 * seed + k)[None])
    return store


def _truth(masks: Sequence[np.ndarray]) -> Truth:
    runs = [rle.encode(mask) for mask in masks]
    areas = np.array([mask.sum() for mask in masks], np.int64)
    return Truth(np.concatenate(runs), np.cumsum([0, *map(len, runs)]), areas)


def _brute_force(planes: np.ndarray, weights: np.ndarray, truth_runs: np.ndarray, room: np.ndarray) -> float:
    """Dice of one weighting on full frames that are in memory already; `room` (2, H, W) takes what is in between."""
    total, part = room
    np.multiply(planes[0], weights[0], out=total)
    for plane, weight in zip(planes[1:], weights[1:], strict=True):
        np.multiply(plane, weight, out=part)
        np.add(total, part, out=total)
    return score_of(total, truth_runs)


def _numpy(planes: np.ndarray, weights: np.ndarray, truth: np.ndarray) -> float:
    """The same as one would write it without us: a weighted sum, a comparison, three counts."""
    predicted = np.tensordot(weights, planes, 1) > 0
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else 1.0


def _fused(pixels: np.ndarray, weightings: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The index's own loop on all pixels of the frame (M, H * W): what is left when nothing is left out."""
    counts = open_counts(pixels, truth, weightings, np.zeros(len(weightings), np.float32))
    return 2 * counts[:, 0] / np.maximum(counts[:, 1] + int(truth.sum()), 1)


def _seconds(task: Callable[[], object]) -> float:
    begin = time.perf_counter()
    task()
    return time.perf_counter() - begin


def measure_fit(masks: Sequence[np.ndarray], folder: Path, in_memory: int, rounds: int) -> None:
    """Print what scoring weightings takes through the index and on full frames."""
    names = [str(k) for k in range(len(masks))]
    frames = [frame for frame, _ in _VARIANTS]
    stores = [stored(folder / f"{m}.zarr", masks, frame, noise_px, m) for m, (frame, noise_px) in enumerate(_VARIANTS)]
    truth = _truth(masks)
    # the first call compiles
    groups = np.arange(len(masks))
    oof = OofData(names, truth, _FULL, groups, groups, stores, frames)
    build_index(replace(oof, images=names[:1]), band=_BAND, jobs=1)
    begin = time.perf_counter()
    index = build_index(oof, band=_BAND, jobs=1)
    build_s = (time.perf_counter() - begin) / len(masks)

    planes = {
        k: np.stack([f.invert(s.read(names[k])[0], _FULL) for f, s in zip(frames, stores, strict=True)])
        for k in range(min(in_memory, len(masks)))
    }
    weightings = np.random.default_rng(0).dirichlet(np.ones(len(stores)), _AT_ONCE).astype(np.float32)
    room = np.empty((2, *_FULL), np.float32)
    apart = 0.0
    for k in planes:
        scores = index.scores(weightings[:8], images=np.array([k]))[0]
        brute = [_brute_force(planes[k], w, truth.of(k), room) for w in weightings[:8]]
        for others in (brute, [_numpy(planes[k], w, masks[k]) for w in weightings[:8]]):
            apart = max(apart, float(np.abs(scores - others).max()))
    # sums in another order may turn a pixel that lies on the threshold
    if apart > 1e-5:
        raise UserError(f"the index and brute force differ by {apart} in Dice: the index is not exact.")

    def brute_force(k: int) -> float:
        return _brute_force(planes[k], weightings[k], truth.of(k), room)

    full = {k: (planes[k].reshape(len(stores), -1), np.ascontiguousarray(masks[k]).reshape(-1)) for k in planes}
    few = weightings[:_FEW]
    contenders = [
        Contender("NumPy: tensordot, compare, count", lambda k: _numpy(planes[k], weightings[k], masks[k])),
        Contender("sum frame by frame, our Dice", brute_force),
        Contender("the index's loop on all pixels", lambda k: _fused(full[k][0], few, full[k][1].view(np.uint8))),
        Contender("disagreement index", lambda k: index.scores(weightings, images=np.array([k]))),
    ]
    numpy_s, brute_s, fused_s, index_s = medians_s(contenders, list(planes), rounds)
    fused_s, index_s = fused_s / _FEW, index_s / _AT_ONCE
    kept = sum(a.nbytes + t.nbytes for a, t in zip(index.logits, index.truths, strict=True)) / len(masks)
    frames_bytes = len(stores) * _FULL[0] * _FULL[1] * 4
    every = np.arange(len(masks))
    fits = [(make.__name__, _seconds(partial(make().fit, index, every))) for make in (GreedySelection, ScoreWeights)]

    print(f"\nFitting weights: {len(stores)} networks, {len(masks)} images of {_FULL[0]}x{_FULL[1]}, one process")
    print(
        f"  verified first: {8 * len(planes)} Dice through the index and by brute force differ by at most {apart:.1e}"
    )
    print(f"  {'one weighting of one image':<44}{'us':>10}{'a second':>12}{'index x':>8}")
    for contender, seconds in zip(contenders, (numpy_s, brute_s, fused_s, index_s), strict=True):
        print(f"  {contender.name:<44}{seconds * 1e6:>10,.1f}{1 / seconds:>12,.0f}{seconds / index_s:>8.1f}")
    print(
        f"  building the index, not in these ratios: {build_s * 1e3:.0f} ms an image, = {build_s / numpy_s:.0f} "
        f"weightings by NumPy or {build_s / fused_s:.0f} by the index's loop on all pixels"
    )
    print(
        f"  memory: {kept / 1e6:.2f} MB an image ({index.open_share:,.0f} open pixels), full frames "
        f"{frames_bytes / 1e6:.0f} MB: {frames_bytes / kept:.0f} times less"
    )
    for name, seconds in fits:
        print(f"  {name} on the {len(masks)} images: {seconds:.1f} s")
    print(
        f"  by arithmetic, {_TARGET:,} images: index {build_s * _TARGET:.0f} s and {kept * _TARGET / 1e9:.2f} GB; "
        f"{1 / index_s / _TARGET:,.0f} weightings of all of them a second, brute force {1 / brute_s / _TARGET:.2f}"
    )


def measure_rows(masks: Sequence[np.ndarray], folder: Path, title: str, frames: Sequence[Frame], rounds: int) -> None:
    """Print what blending the stores of these frames to a row takes, against only reading them."""
    stores = [stored(folder / f"{m}.zarr", masks, frame, 1 + m / 10, m) for m, frame in enumerate(frames)]
    weights = np.random.default_rng(1).dirichlet(np.ones(len(frames))).tolist()

    def read(k: int) -> list[np.ndarray]:
        return [store.read(str(k))[0] for store in stores]

    def blend(k: int) -> bytes:
        return encode_logits_text(LINEAR(read(k), frames, weights, _FULL))

    differ_px = 0
    for k in range(len(masks)):
        planes = zip(read(k), frames, weights, strict=True)
        one_by_one = sum(np.float64(w) * frame.invert(plane, _FULL) for plane, frame, w in planes) > 0
        differ_px = max(differ_px, int((rle.decode(rle.parse(blend(k)), _FULL).astype(bool) != one_by_one).sum()))
    if differ_px > 50:
        raise UserError(f"the blend and its maps one by one at full size differ in {differ_px} pixels.")
    contenders = [
        Contender("read the maps as float32", read),
        Contender("read, blend, full size, RLE text", blend),
    ]
    read_s, blend_s = medians_s(contenders, list(range(len(masks))), rounds)
    print(f"\nA row from {len(stores)} stored maps, {title}")
    print(f"  verified first: at most {differ_px} px an image differ from maps blended one by one in float64")
    for contender, seconds in zip(contenders, (read_s, blend_s), strict=True):
        print(f"  {contender.name:<44}{seconds * 1e3:>10.1f} ms{seconds / read_s:>8.2f}")


@program
def main(
    masks: Path | None = None, images: Positive = 40, in_memory: Positive = 3, rounds: Positive = 12, rows: Positive = 4
) -> None:
    """Measure in alternation, results compared first.

    Args:
        masks: a folder of *_mask.gif; by default two studio cars are rendered.
        images: to build the index of.
        in_memory: of them, at full size in memory for brute force (59 MB each).
        rounds: measurements of each way; medians are printed.
        rows: images that are blended to rows.
    """
    cv2.setNumThreads(1)
    pool = load_masks(masks, images)
    chosen = [pool[k % len(pool)] for k in range(images)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        measure_fit(chosen, folder / "fit", in_memory, rounds)
        own = [frame for frame, _ in _VARIANTS[:5] for _ in range(3)]
        measure_rows(chosen[:rows], folder / "own", "each at its network's own size", own, rounds)
        padded = [Frame((1280, 1920), "pad")] * 15
        measure_rows(chosen[:rows], folder / "full", "all at 1280x1920", padded, rounds)


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
