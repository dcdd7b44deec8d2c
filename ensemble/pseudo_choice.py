"""Which unlabelled images a blend labels well: how sure its networks are, and the score that out-of-fold images of the
same certainty have.

Three measures need no truth, each a Dice of 0 to 1 at full size: `agreement` of each member's mask with the blend's,
`stability` of the blend's mask when its threshold moves by one logit to either side, and `confidence`, the soft Dice of
its probabilities with its own mask. The certainty is their mean. Stored logits are means over test-time
augmentations, so those that contradict each other leave a mean near 0, which stability and confidence see.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import joblib
import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from tqdm import tqdm

import atomic
from ensemble.intervals import mean_interval
from ensemble.stored_masks import StoredMasks
from folds.csv_table import write_table
from folds.pseudo_set import Calibration, LabelStore
from kernels import dice

MEASURES = ("agreement", "stability", "confidence")
AREA = "area"
_COLUMNS = (*MEASURES, AREA)
# logits by which the threshold is moved
_SHIFT = 1.0
# images that a process takes at a time, and that a killed run has behind it
_PART_IMAGES = 250


def measures(reader: StoredMasks, name: str) -> tuple[float, float, float, float]:
    """Agreement (NaN of a single member), stability and confidence of an image's label; its share of the frame."""
    planes, blend = reader.planes(name), reader.blend
    logits = reader.logits(name, planes)
    mask = logits > 0
    agreement = np.nan
    if len(planes) > 1:
        moved = zip(blend.frames, planes, strict=True)
        each = [dice.dice(frame.invert(plane, reader.full) > blend.threshold, mask) for frame, plane in moved]
        agreement = float(np.average(each, weights=blend.weights))
    stability = dice.dice(logits > _SHIFT, logits > -_SHIFT)
    probability = 1 / (1 + np.exp(-logits))
    # of an empty mask, how far even its likeliest pixel is from foreground
    confidence = (
        2 * float(probability[mask].sum()) / float(probability.sum() + np.count_nonzero(mask))
        if mask.any()
        else 1 - float(probability.max())
    )
    return agreement, stability, confidence, float(mask.mean())


def _measured(reader: StoredMasks, names: Sequence[str]) -> np.ndarray:
    cv2.setNumThreads(1)
    return np.array([measures(reader, name) for name in names])


def _labelled(reader: StoredMasks, names: Sequence[str], labels: LabelStore) -> int:
    cv2.setNumThreads(1)
    for name in names:
        labels.write(name, reader.logits(name, reader.planes(name)))
    return len(names)


def _digest(reader: StoredMasks, names: Sequence[str]) -> str:
    """Identifies the labels of some images: what the blend is, and the logits that it makes them of."""
    digest = hashlib.blake2b(digest_size=8)
    for store in reader.stores:
        digest.update(store.digest(names).encode())
    digest.update(repr((reader.blend.state(), list(names))).encode())
    return digest.hexdigest()


def measure(
    reader: StoredMasks, names: Sequence[str], parts: Path, *, jobs: int = -1, label: str = "measure"
) -> pd.DataFrame:
    """The measures of images' labels, one row an image; a run that was killed goes on where it was.

    Args:
        reader: of the logits that the labels are made of, and the blend that makes them.
        names: of the images.
        parts: folder of what is done, removed by the caller at the end.
        jobs: processes, as joblib counts them.
        label: of the progress bar.

    Returns:
        Columns image, agreement, stability, confidence, and area, the label's share of the frame.
    """
    digest = _digest(reader, names)
    atomic.make_folder(parts)
    starts = range(0, len(names), _PART_IMAGES)
    files = {start: parts / f"{digest}-{start}.csv" for start in starts}
    missing = [start for start in starts if not files[start].exists()]
    parallel = joblib.Parallel(n_jobs=jobs if len(names) > _PART_IMAGES else 1, return_as="generator")
    calls = (joblib.delayed(_measured)(reader, names[start : start + _PART_IMAGES]) for start in missing)
    with tqdm(total=len(names), desc=label, unit="image", disable=None) as bar:
        bar.update(sum(min(_PART_IMAGES, len(names) - start) for start in starts if start not in missing))
        for start, found in zip(missing, parallel(calls), strict=True):
            write_table(files[start], pd.DataFrame(found, columns=list(_COLUMNS)), float_format=None, durable=False)
            bar.update(len(found))
    table = pd.concat([pd.read_csv(files[start]) for start in starts], ignore_index=True)
    table.insert(0, "image", list(names))
    return table


def label(
    reader: StoredMasks, names: Sequence[str], parts: Path, *, jobs: int = -1, label: str = "label"
) -> LabelStore:
    """The labels of some images, written; a run that was killed goes on where it was.

    Args, but for the result: as `measure`.

    Returns:
        Their store, in the folder of parts.
    """
    atomic.make_folder(parts)
    made = LabelStore.create(parts / f"{_digest(reader, names)}.zarr", names, reader.full)
    missing = made.store.missing()
    parallel = joblib.Parallel(n_jobs=jobs if len(missing) > _PART_IMAGES else 1, return_as="generator")
    step = _PART_IMAGES if len(missing) > _PART_IMAGES else 1
    calls = (joblib.delayed(_labelled)(reader, missing[k : k + step], made) for k in range(0, len(missing), step))
    with tqdm(total=len(names), desc=label, unit="image", disable=None) as bar:
        bar.update(len(names) - len(missing))
        for count in parallel(calls):
            bar.update(count)
    return made


def certainty(table: pd.DataFrame) -> np.ndarray:
    """(N,) the mean of the measures that there are, 0..1."""
    return np.asarray(table[list(MEASURES)].mean(axis=1), np.float64)


@dataclass(frozen=True)
class Expectation:
    """The score to be expected at each certainty, from out-of-fold images.

    Attributes:
        certainty, scores, fold, groups: (N,) of the out-of-fold images.
        nested: (N,) what was expected of each without its fold.
    """

    certainty: np.ndarray
    scores: np.ndarray
    fold: np.ndarray
    groups: np.ndarray
    nested: np.ndarray

    @staticmethod
    def of(certainty: np.ndarray, scores: np.ndarray, fold: np.ndarray, groups: np.ndarray) -> Expectation:
        """Fit one: expected scores never fall with certainty (isotonic regression)."""
        nested = np.empty(len(scores))
        for k in np.unique(fold):
            nested[fold == k] = _isotonic(certainty[fold != k], scores[fold != k])(certainty[fold == k])
        return Expectation(certainty, scores, fold, groups, nested)

    def at(self, certainty: np.ndarray, *, without: int | None = None) -> np.ndarray:
        """(M,) the score to be expected at each certainty, learned from all images or from all but a fold's."""
        used = np.ones(len(self.fold), bool) if without is None else self.fold != without
        return _isotonic(self.certainty[used], self.scores[used])(certainty)

    def interval(self, expected: np.ndarray, least: float) -> tuple[float, float]:
        """95 % interval of the mean score of images of which `expected` (M,) is expected, all at `least` or more: their
        mean, and how far out-of-fold images that would be taken are from what was expected of them, by group."""
        would = self.nested >= least
        if not would.any():
            return 0.0, 1.0
        low, high = mean_interval((self.scores - self.nested)[would], self.groups[would])
        mean = float(expected.mean())
        return max(0.0, mean + low), min(1.0, mean + high)

    def figures(self, least: float) -> Calibration:
        """How good the expectation is, of images that it was not learned from; and of those that would be taken."""
        away = self.scores - self.nested
        would = self.nested >= least
        varied = len(np.unique(self.nested)) > 1 and len(np.unique(self.scores)) > 1
        return {
            "images": len(self.scores),
            "mean_error": float(np.abs(away).mean()),
            "bias": float(-away.mean()),
            "rank_correlation": float(spearmanr(self.nested, self.scores)[0]) if varied else 0.0,
            "taken": int(would.sum()),
            "taken_score": float(self.scores[would].mean()) if would.any() else None,
        }

    def bins(self, count: int = 8) -> list[tuple[float, float, int]]:
        """(expected, measured, images) of out-of-fold images in bins of equal numbers, from the least certain on."""
        order = np.argsort(self.nested, kind="stable")
        parts = [part for part in np.array_split(order, count) if len(part)]
        return [(float(self.nested[part].mean()), float(self.scores[part].mean()), len(part)) for part in parts]


def _isotonic(certainty: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    # imported here, as it takes a second
    from sklearn.isotonic import IsotonicRegression

    found: Callable[[np.ndarray], np.ndarray] = IsotonicRegression(out_of_bounds="clip").fit(certainty, scores).predict
    return found


LEFT_OUT_KNOWN = "a training image, or of its group"
LEFT_OUT_SCORE = "less is expected of it"
LEFT_OUT_MOST = "more than were asked for"
TAKEN = "taken"


def choose(expected: np.ndarray, known: np.ndarray, *, least: float, most: int) -> list[str]:
    """What becomes of each image: `TAKEN`, or why it is not.

    Args:
        expected: (N,) scores.
        known: (N,) bool: training images, or others of their groups.
        least: expected score that an image must have.
        most: images to take, those of the highest expected score; 0 takes all.

    >>> choose(np.array([0.9, 0.5, 0.95, 0.99]), np.array([0, 0, 0, 1], bool), least=0.8, most=1)
    ['more than were asked for', 'less is expected of it', 'taken', 'a training image, or of its group']
    """
    fit = ~known & (expected >= least)
    ranked = [i for i in np.argsort(-expected, kind="stable") if fit[i]]
    within = set(ranked[: most or None])
    return [
        LEFT_OUT_KNOWN if known[i] else TAKEN if i in within else LEFT_OUT_MOST if fit[i] else LEFT_OUT_SCORE
        for i in range(len(expected))
    ]
