"""`python -m benchmarks.many_members`: what choosing a blend of many networks takes, stage by stage, and in memory.

The networks are synthetic: the distance to a real outline, with smooth noise that they share and noise of each one's
own, in five sizes. Beside each stage stands the same as it was before: all networks brought to full size twice and
held there at once, every weighting summed over all networks, and every pair of networks tried by the search.

All images are different, but `--copies` puts each of them into the index so many times, so that the time and memory of
thousands can be measured without writing their logits.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import tyro

from benchmarks.mask_pool import load_masks
from command_line import program
from competition import COMPETITIONS
from ensemble.agreement_limit import agreements_with_truth
from ensemble.index import DisagreementIndex
from ensemble.oof_data import OofData
from ensemble.procedure import decide, decide_without, held_out_scores, settle, used_positions
from ensemble.score_memory import RememberingIndex
from ensemble.selection import evaluate_all
from ensemble.stacking import BLENDERS, SEARCHED, Blender, GreedySelection, ScoreWeights
from ensemble.survey import build_index, single_scores, survey
from folds.parallel import cut, in_parallel
from folds.store import LogitStore
from folds.truth import Truth
from kernels import pixel_code, rle
from kernels.blend import disagreement
from kernels.rle import decode
from models.frame import Frame
from program_flags import Positive

_FULL = COMPETITIONS["carvana"].size
_FRAMES = (Frame((640, 960)), Frame((512, 512)), Frame((320, 480)), Frame((256, 384)), Frame((320, 512)))
_BAND = (-0.5, 0.5)
_FOLDS = 5
_VIEWS = 16


def _waves(rng: np.random.Generator, frame: Frame) -> np.ndarray:
    """Smooth noise of the standard deviation 1 or so, at a frame's size."""
    return cv2.resize(rng.normal(size=(64, 96)).astype(np.float32), frame.size[::-1], interpolation=cv2.INTER_CUBIC)


def _write(stores: Sequence[LogitStore], frames: Sequence[Frame], masks: Sequence[np.ndarray], images: range) -> int:
    cv2.setNumThreads(1)
    for k in images:
        distances = {}
        for frame in dict.fromkeys(frames):
            inside = (frame.apply_mask(masks[k]) > 127).astype(np.uint8)
            distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)
            # in pixels of the full frame; what networks have in common is the same for all sizes
            distances[frame] = distance * (_FULL[0] / frame.size[0]) + _waves(np.random.default_rng(k), frame)
        for m, (store, frame) in enumerate(zip(stores, frames, strict=True)):
            own = _waves(np.random.default_rng([m, k]), frame) * np.float32(0.6 + m / len(stores))
            store.write(str(k), np.clip((distances[frame] + own) / 2, -12, 12).astype(np.float32)[None])
    return len(images)


def campaign(folder: Path, members: int, images: int) -> OofData:
    """Out-of-fold logits of so many networks and images, written to `folder`, with five folds of whole groups."""
    pool, rng = load_masks(None, images), np.random.default_rng(0)
    masks = [np.roll(pool[k % len(pool)], rng.integers(-60, 60, 2), (0, 1)) for k in range(images)]
    frames = [_FRAMES[m % len(_FRAMES)] for m in range(members)]
    names = [str(k) for k in range(images)]
    stores = [LogitStore.create(folder / f"{m}.zarr", names, (1, *f.size)) for m, f in enumerate(frames)]
    write = partial(_write, stores, frames, masks)
    list(in_parallel(write, cut(range(images), 2), images, label="write logits", few=0))
    runs = [rle.encode(mask) for mask in masks]
    areas = np.array([mask.sum() for mask in masks], np.int64)
    truth = Truth(np.concatenate(runs), np.cumsum([0, *map(len, runs)]), areas)
    groups = np.arange(images) // max(1, min(_VIEWS, images // (2 * _FOLDS)))
    return OofData(names, truth, _FULL, groups % _FOLDS, groups, stores, frames)


def _former_part(oof: OofData, positions: range) -> list[tuple[tuple[int, int, int], np.ndarray, np.ndarray]]:
    cv2.setNumThreads(1)
    entries = []
    for position in positions:
        planes = [f.invert(p, _FULL) for p, f in zip(oof.planes(position), oof.frames, strict=True)]
        mask = decode(oof.truth.of(position), _FULL)
        entries.append(disagreement(np.stack(planes), mask, low=_BAND[0], high=_BAND[1]))
    return entries


def _survey_cpu_s(oof: OofData) -> float:
    """CPU seconds an image of scoring networks alone and of indexing them."""
    cpu = _spent()
    build_index(oof, band=_BAND, jobs=1)
    return (_spent() - cpu) / len(oof.images)


def _former_survey_cpu_s(oof: OofData) -> float:
    """The same in two passes, with all networks at full size at once."""
    cpu = _spent()
    single_scores(oof, jobs=1)
    _former_part(oof, range(len(oof.images)))
    return (_spent() - cpu) / len(oof.images)


@dataclass(frozen=True)
class _Former(DisagreementIndex):
    """The index that sums every weighting over all networks."""

    def of(self, images: np.ndarray) -> DisagreementIndex:
        part = super().of(images)
        return _Former(**{f.name: getattr(part, f.name) for f in fields(DisagreementIndex)})

    def scores_near(
        self, base: np.ndarray, factors: np.ndarray, weights: np.ndarray, *, images: np.ndarray | None = None
    ) -> np.ndarray:
        return self.scores(weights, images=images)


def _copied(index: DisagreementIndex, copies: int, coded: bool) -> DisagreementIndex:
    """The index with every image so many times, each in memory of its own, in 8 bits if so wished."""
    if coded and index.exact:
        codes, scales = zip(*(pixel_code.encode(logits) for logits in index.logits), strict=True)
        ranges = [np.stack([its_codes.min(0), its_codes.max(0)]) for its_codes in codes]
        index = replace(index, logits=list(codes), scales=list(scales), ranges=ranges)

    def again(arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [array.copy() for _ in range(copies) for array in arrays]

    return DisagreementIndex(
        np.tile(index.agreed, (copies, 1)), again(index.logits), again(index.truths), index.band,
        again(index.agreed_logits), again(index.agreed_truths), index.metric, again(index.scales),
        again(index.ranges),
    )  # fmt: skip


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _spent() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _search(
    index: DisagreementIndex, fold: np.ndarray, groups: np.ndarray, blenders: Mapping[str, Callable[[], Blender]]
) -> tuple[dict[str, tuple[float, float]], dict[str, float], float]:
    """(Wall, CPU) seconds of every way of blending, with all folds left out, and of the choice; each way's nested
    score; and that of the choice."""
    remembering = RememberingIndex.around(index)
    seconds: dict[str, tuple[float, float]] = {}
    scores: dict[str, float] = {}
    candidates = []
    for name, make in blenders.items():
        begin, cpu = time.perf_counter(), _spent()
        found = evaluate_all(remembering, fold, {name: make}, inner=(name, *_VOTES))
        seconds[name] = time.perf_counter() - begin, _spent() - cpu
        scores |= {candidate.name: float(candidate.nested.mean()) for candidate in found}
        candidates += found
        print(f"    {name:<20}{seconds[name][0]:>10.1f} s{seconds[name][1]:>10.1f} CPU s", flush=True)
    begin, cpu = time.perf_counter(), _spent()
    decide(candidates, remembering, fold, groups)
    without = {int(k): decide_without(candidates, remembering, fold, groups, int(k)) for k in np.unique(fold)}
    chosen = float(held_out_scores(without, candidates, remembering, fold).mean())
    seconds["choice, threshold"] = time.perf_counter() - begin, _spent() - cpu
    return seconds, scores, chosen


def _repair_cpu_s(oof: OofData, index: DisagreementIndex, ways: Sequence[str]) -> dict[str, tuple[float, float]]:
    """By way of blending, CPU seconds an image of measuring repairs, with all folds left out too, and of agreements."""
    remembering = RememberingIndex.around(index)
    candidates = evaluate_all(remembering, oof.fold, inner=ways)
    seconds = {}
    for way in ways:
        settle(candidates, remembering, oof, way=way, repairs=False)
        cpu = _spent()
        outcome = settle(candidates, remembering, oof, way=way, jobs=1)
        repaired = _spent()
        agreements_with_truth(oof.of(used_positions(outcome.decision.candidate)), jobs=1)
        seconds[way] = (repaired - cpu) / len(oof.images), (_spent() - repaired) / len(oof.images)
    return seconds


_VOTES = ("probability", "weighted-probability")


@program
def main(
    members: Positive = 30,
    images: Positive = 100,
    copies: Positive = 4,
    target: Positive = 4000,
    former_images: Positive = 10,
) -> None:
    """Measure the choice of a blend as it is and as it was.

    Args:
        members: networks.
        images: whose logits are written.
        copies: of each of them in the index that is searched.
        target: images to which times are extrapolated, by proportion.
        former_images: images on which one fit is measured as it is and as it was, which is slow.
    """
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        oof = campaign(Path(scratch), members, images)

        def worth(scores: np.ndarray) -> list[int]:
            return list(range(members))

        survey(replace(oof, images=oof.images[:4]), worth, band=_BAND)
        _, _, index = survey(oof, worth, band=_BAND)
        some = replace(oof, images=oof.images[: min(images, 16)])
        survey_s, former_survey_s = _survey_cpu_s(some), _former_survey_cpu_s(some)
        repair_s = _repair_cpu_s(oof, index, (SEARCHED, "weighted-geometric"))
    print(f"{members} networks, {images} images of {_FULL[0]}x{_FULL[1]}, {index.open_share:,.0f} open pixels an image")
    print(f"  scores alone and index, CPU ms an image: {survey_s * 1e3:.0f}, before {former_survey_s * 1e3:.0f}")

    for way, each in repair_s.items():
        print(f"  {way}: repairs, CPU ms an image: {each[0] * 1e3:.0f}; agreement with the truth: {each[1] * 1e3:.0f}")

    weightings = np.random.default_rng(0).dirichlet(np.ones(members), 64)
    apart = _copied(index, 1, True).scores(weightings) - index.scores(weightings)
    print(
        f"  in 8 bits, 64 weightings: mean score off by {np.abs(apart.mean(0)).max():.1e} at most, an image's by "
        f"{np.abs(apart).max():.1e}"
    )

    part = index.of(np.arange(0, images, max(1, images // former_images)))
    former = _Former(**{f.name: getattr(part, f.name) for f in fields(DisagreementIndex)})
    every = np.arange(len(part.truths))
    print(f"  one fit on {len(every)} images in float32, CPU s:")
    for name, its_index, make in (
        ("greedy", part, GreedySelection),
        ("greedy as it was", former, GreedySelection),
        (SEARCHED, part, ScoreWeights),
        (f"{SEARCHED} as it was", former, partial(ScoreWeights, all_pairs=members)),
    ):
        cpu = _spent()
        weights = make().fit(its_index, every).weights_
        print(f"    {name:<28}{_spent() - cpu:>8.2f}   score {part.scores(weights).mean():.7f}", flush=True)

    many = _copied(index, copies, True)
    kept = (many.logits, many.truths, many.scales, many.ranges)
    held = sum(array.nbytes for arrays in kept for array in arrays) / len(many.truths)
    fold, groups = np.tile(oof.fold, copies), np.tile(oof.groups, copies)
    print(f"  as it is, {len(fold)} images, in 8 bits:")
    del index, part, former
    seconds, _, chosen = _search(many, fold, groups, BLENDERS)
    wall, cpu = (sum(each[i] for each in seconds.values()) for i in (0, 1))
    factor = target / len(fold)
    print(f"    together {wall:.0f} s, {cpu:.0f} CPU s; nested score of the choice {chosen:.7f}")
    print(f"  peak of this process {_peak_gb():.2f} GB; the index takes {held / 1e6:.2f} MB an image")
    print(
        f"  by proportion, {target:,} images: scores and index {survey_s * target:.0f} CPU s, before "
        f"{former_survey_s * target:.0f}; ways and choice {cpu * factor:.0f} CPU s; repairs and agreement at most "
        f"{max(map(sum, repair_s.values())) * target:.0f} CPU s; index {held * target / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
