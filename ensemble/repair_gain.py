"""What repairs of the mask are really worth: kept only where nested cross-validation shows a gain.

A repair gains a little on many masks and may lose much on a few: a hole that is one, an aerial that is none. With few
groups none of these may be there, so a repair must also gain if losses were there that nobody saw
(`ensemble.intervals.is_kept`), each as large as the repair at its size can make one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import joblib
import numpy as np
from tqdm import tqdm

from competition import Size
from ensemble.blend_masks import MaskBlend, masks_of
from ensemble.intervals import is_kept, least_with_rare_losses, mean_interval
from ensemble.oof_data import OofData
from ensemble.repairs import REPAIRS, Repair, after_repair
from kernels.dice import counts_runs
from kernels.metrics import Metric
from kernels.topology import pieces_and_holes

# repairs in the order they are applied, each its name in `REPAIRS` and its size in pixels
Kept = tuple[tuple[str, int], ...]

_CHUNK = 8


def _repaired(
    step: Repair,
    masks: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    full: Size,
    metric: Metric,
    size_px: int | None,
) -> list[tuple[list[float], np.ndarray]]:
    """For every image: its score as it is and after the step at each of its sizes; its runs after `size_px`."""
    cv2.setNumThreads(1)
    sizes = step.sizes(full)
    results = []
    for runs, truth in zip(masks, truths, strict=True):
        changed = runs
        scores = [metric.of(counts_runs(runs, truth))] * (1 + len(sizes))
        if not step.concerns(*pieces_and_holes(runs, full)):
            results.append((scores, changed))
            continue
        for position, after in after_repair(step, runs, full):
            scores[1 + position] = metric.of(counts_runs(after, truth))
            changed = after if sizes[position] == size_px else changed
        results.append((scores, changed))
    return results


def _chunks(count: int) -> list[slice]:
    return [slice(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]


def nested_gain(scores: np.ndarray, fold: np.ndarray) -> tuple[np.ndarray, int]:
    """What a step gains when its size is chosen on the other folds.

    Args:
        scores: (N, 1 + S) scores of every image without the step and at each of its S sizes.
        fold: (N,) fold of every image.

    Returns:
        (N,) gain of every image at the size that is best on the images of all other folds; and which size is best on
        all images, 0 .. S - 1. Of equal ones the smallest.
    """
    gains = scores[:, 1:] - scores[:, :1]
    nested = np.empty(len(fold))
    for held_out in np.unique(fold):
        unseen = fold == held_out
        nested[unseen] = gains[unseen, int(gains[~unseen].mean(0).argmax())]
    return nested, int(gains.mean(0).argmax())


class Repairs:
    """What repairs of a blend's full-size out-of-fold masks score; nothing is computed twice.

    Args:
        oof: logits of networks, and the truth.
        blend: of these networks. Its weights are one vector for all images, since a step's gain is a difference between
            two masks of one blend.
        masks: its masks, as `masks_of` gives them; computed where they are not given.
        jobs: processes, as joblib counts them.
    """

    def __init__(
        self, oof: OofData, blend: MaskBlend, *, masks: list[np.ndarray] | None = None, jobs: int = -1
    ) -> None:
        self._full, self._metric, self._empty_masks = oof.full, oof.metric, oof.empty_masks
        self._chunks = _chunks(len(oof.images))
        self._parallel = joblib.Parallel(n_jobs=jobs)
        self._masks: dict[Kept, list[np.ndarray]] = {
            (): masks_of(oof, [blend], jobs=jobs)[0] if masks is None else masks
        }
        self._truths = [np.array(oof.truth.of(position)) for position in range(len(oof.images))]
        self._scores: dict[tuple[Kept, str], np.ndarray] = {}
        self._counted: dict[Kept, np.ndarray] = {}

    def _run(self, step: Repair, kept: Kept, size_px: int | None) -> list[tuple[list[float], np.ndarray]]:
        masks = self._after(kept)
        calls = (
            joblib.delayed(_repaired)(step, masks[c], self._truths[c], self._full, self._metric, size_px)
            for c in self._chunks
        )
        return [result for chunk in self._parallel(calls) for result in chunk]

    def _after(self, kept: Kept) -> list[np.ndarray]:
        """Every image's runs after these repairs."""
        if kept not in self._masks:
            name, size_px = kept[-1]
            self._masks[kept] = [runs for _, runs in self._run(REPAIRS[name], kept[:-1], size_px)]
        return self._masks[kept]

    def scores(self, step: Repair, kept: Kept = ()) -> np.ndarray:
        """(N, 1 + S) scores of every image after the repairs in `kept`, and after the step at each of its sizes too."""
        key = kept, step.name
        if key not in self._scores:
            self._scores[key] = np.array([scores for scores, _ in self._run(step, kept, None)])
        return self._scores[key]

    def gain(self, kept: Kept) -> np.ndarray:
        """(N,) what these repairs, one after the other, add to the score of every image."""
        gain = np.zeros(len(self._truths))
        for k, (name, size_px) in enumerate(kept):
            scores = self.scores(REPAIRS[name], kept[:k])
            gain += scores[:, 1 + REPAIRS[name].sizes(self._full).index(size_px)] - scores[:, 0]
        return gain

    def _counts(self, kept: Kept) -> np.ndarray:
        """(N, 3) of every image's mask after these repairs: pixels in common with the truth, its own, the truth's."""
        if kept not in self._counted:
            pairs = zip(self._after(kept), self._truths, strict=True)
            self._counted[kept] = np.array([counts_runs(mask, truth) for mask, truth in pairs])
        return self._counted[kept]

    def emptying_gain(self, kept: Kept) -> np.ndarray:
        """(N,) what it would add to the score of every image to empty its mask after these repairs."""
        before = self._counts(kept)
        areas = before[:, 2]
        return self._metric.of_counts(0, 0, areas) - self._metric.of_counts(*before.T)

    def worst_losses(self, step: Repair, kept: Kept, size_px: int) -> np.ndarray:
        """(N,) what every image's score would lose if the step, after these repairs, changed as much of its mask as it
        may in one place, and wrongly; at least 0."""
        before = self._counts(kept)
        scores = [self._metric.of_counts(*counts.T) for counts in (before, step.at_worst(before, size_px))]
        return np.maximum(scores[0] - scores[1], 0)

    def choose(self, images: np.ndarray, fold: np.ndarray, groups: np.ndarray) -> tuple[dict[str, Any], Kept]:
        """Keep the steps whose nested gain is surely above 0 on some images.

        Steps are taken in the order of `REPAIRS`; each is measured on what the steps already kept have left.

        Args:
            images: positions of those that may be looked at.
            fold, groups: (N,) fold and group of every image.

        Returns:
            JSON-able figures by step: size_px, nested_gain, interval (95 %, over groups), worst_loss (what a mask loses
            on average where the step changes as much as it may in one place, and wrongly), with_rare_losses (the gain
            if such losses were there as often as nobody might have seen them), changed_images (share of the images
            whose score it changes), kept; and the kept steps for `apply_kept`.
        """
        figures: dict[str, Any] = {}
        kept: Kept = ()
        steps = [step for step in REPAIRS.values() if self._empty_masks or not step.empties]
        for step in tqdm(steps, desc="measure repairs", unit="step", disable=None):
            scores = self.scores(step, kept)[images]
            gain, best = nested_gain(scores, fold[images])
            size_px = step.sizes(self._full)[best]
            worst = float(self.worst_losses(step, kept, size_px)[images].mean())
            keeps = is_kept(gain, groups[images], worst)
            figures[step.name] = {
                "size_px": size_px,
                "nested_gain": float(gain.mean()),
                "interval": list(mean_interval(gain, groups[images])),
                "worst_loss": worst,
                "with_rare_losses": least_with_rare_losses(gain, groups[images], worst),
                "changed_images": float((scores[:, 1 + best] != scores[:, 0]).mean()),
                "kept": keeps,
            }
            if keeps:
                kept = (*kept, (step.name, size_px))
        return figures, kept
