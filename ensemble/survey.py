"""The pass over all networks' out-of-fold logits: what each scores alone, and the disagreement index of them.

An image's logits are read once. Tiles on which all networks are surely of one mind, most of a frame, are counted
without a look at their pixels, and only the others are brought to full size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

import cv2
import numpy as np

from competition import Size
from ensemble.index import DisagreementIndex
from ensemble.oof_data import OofData
from folds.parallel import cut, in_parallel
from folds.scoring import full_size_score
from kernels import pixel_code
from kernels.blend import disagreement
from kernels.metrics import Metric
from kernels.rle import decode
from kernels.tiles import gather, selected, tile_areas, tile_signs, tile_truth
from models.frame import Frame

_CHUNK = 8
# pixels of each image drawn from anywhere, of which those that networks agree on are kept beside the open ones
_SAMPLE_PX = 64
# images that tell which networks are worth a search, before all are looked at
_FEW = 64
# what the logits of open pixels may take in memory as they are
_EXACT_BYTES = 2 << 30

Entry = tuple[tuple[int, int, int], np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _score_chunk(oof: OofData, positions: Sequence[int]) -> np.ndarray:
    cv2.setNumThreads(1)
    return np.array([
        [
            full_size_score(plane, frame, oof.truth.of(position), oof.full, oof.metric)
            for plane, frame in zip(oof.planes(position), oof.frames, strict=True)
        ]
        for position in positions
    ])  # fmt: skip


def single_scores(oof: OofData, *, images: Sequence[int] | None = None, jobs: int = -1) -> np.ndarray:
    """(n, M) float64 full-size scores of each network alone on each image.

    Args:
        oof: the networks' logits, the truth and the metric.
        images: positions to score; all by default.
        jobs: processes, as joblib counts them.
    """
    positions = range(len(oof.images)) if images is None else images
    score, parts = partial(_score_chunk, oof), cut(positions, _CHUNK)
    return np.concatenate(list(in_parallel(score, parts, len(positions), label="score networks", few=0, jobs=jobs)))


def _signs(plane: np.ndarray, frame: Frame, full: Size, low: float, high: float) -> np.ndarray:
    """`kernels.tiles.tile_signs` of a network's logits in its frame."""
    return tile_signs(plane if frame.grows(full) else frame.invert(plane, full), full, low=low, high=high)


def _surveyed_image(
    oof: OofData, searched: Sequence[int], band: tuple[float, float], position: int
) -> tuple[np.ndarray, Entry]:
    """(M,) scores of each network alone, and the entry of the searched ones."""
    planes, frames, full = oof.planes(position), oof.frames, oof.full
    runs = oof.truth.of(position)
    mask = decode(runs, full).view(np.uint8)
    low, high = min(band[0], 0.0), max(band[1], 0.0)
    signs = np.stack([_signs(planes[m], frames[m], full, low, high) for m in searched])
    above = (signs == 1).all(0)
    chosen = ~(above | (signs == -1).all(0))
    # what all networks surely have above the band, and the pixels of all tiles where one is not sure
    true_px = tile_truth(mask)
    inside, inside_true, area = int(tile_areas(full)[above].sum()), int(true_px[above].sum()), int(true_px.sum())
    count = int(tile_areas(full)[chosen].sum())
    truths = np.empty(count, np.uint8)
    gather(mask, chosen, truths)
    pixels = np.empty((len(searched), 1, count), np.float32)
    # the same pixels of an image, however the work is spread
    drawn = np.random.default_rng(position).integers(0, mask.size, _SAMPLE_PX)
    sample = np.empty((len(searched), _SAMPLE_PX), np.float32)
    scores = np.empty(len(planes))
    for m, (plane, frame) in enumerate(zip(planes, frames, strict=True)):
        if m not in searched:
            scores[m] = full_size_score(plane, frame, runs, full, oof.metric)
            continue
        own = pixels[searched.index(m), 0]
        frame.invert_tiles(plane, full, chosen, own)
        both, predicted = selected(own, truths)
        scores[m] = oof.metric.of((inside_true + both, inside + predicted, area))
        sample[searched.index(m)] = frame.invert_at(plane, full, drawn)
    agreed, logits, open_truths = disagreement(pixels, truths[None].view(bool), low=band[0], high=band[1])
    counts = inside_true + agreed[0], inside + agreed[1], area
    same = (sample.min(0) > band[1]) | (sample.max(0) <= band[0])
    return scores, (counts, logits, open_truths, sample[:, same], mask.reshape(-1)[drawn][same])


def _surveyed(
    oof: OofData, searched: Sequence[int], band: tuple[float, float], positions: range
) -> list[tuple[np.ndarray, Entry]]:
    cv2.setNumThreads(1)
    return [_surveyed_image(oof, searched, band, position) for position in positions]


def survey(
    oof: OofData,
    worth: Callable[[np.ndarray], list[int]],
    *,
    band: tuple[float, float] = (0.0, 0.0),
    exact_bytes: int = _EXACT_BYTES,
    jobs: int = -1,
) -> tuple[np.ndarray, list[int], DisagreementIndex]:
    """Each network's scores, and the index of those worth a search, in one pass over the logits.

    Args:
        oof: the networks' logits, the truth and the metric.
        worth: from the networks' mean scores (M,) to the positions of those to index, increasing.
        band, exact_bytes, jobs: as `build_index`.

    Returns:
        (N, M) float64 full-size scores of each network alone, as `single_scores`; the positions indexed; their index.
    """
    count = len(oof.images)
    # a few images tell which networks are worth it; if all of them tell otherwise, there is a second pass
    few = range(0, count, max(1, count // _FEW))
    likely = worth(single_scores(oof, images=few, jobs=jobs).mean(0))
    singles = np.empty((count, len(oof.stores)))

    def entries() -> Iterator[Entry]:
        find, parts = partial(_surveyed, oof, likely, band), cut(range(count), _CHUNK)
        found = in_parallel(find, parts, count, label="score networks", few=0, jobs=jobs)
        for position, (scores, entry) in enumerate(chain.from_iterable(found)):
            singles[position] = scores
            yield entry

    index = _gathered(entries(), band, oof.metric, exact_bytes)
    searched = worth(singles.mean(0))
    if searched != likely:
        index = build_index(oof.of(searched), band=band, exact_bytes=exact_bytes, jobs=jobs)
    return singles, searched, index


def _gathered(
    entries: Iterable[Entry], band: tuple[float, float], metric: Metric, exact_bytes: int
) -> DisagreementIndex:
    """The index of entries, whose logits are coded in 8 bits as soon as they exceed `exact_bytes`."""
    agreed, logits, truths, agreed_logits, agreed_truths = [], [], [], [], []
    scales: list[np.ndarray] = []
    ranges: list[np.ndarray] = []
    held_bytes = 0
    for counts, some, true, sample, sample_true in entries:
        agreed.append(counts)
        truths.append(true)
        agreed_logits.append(sample)
        agreed_truths.append(sample_true)
        logits.append(some)
        held_bytes += some.nbytes
        if held_bytes > exact_bytes:
            for i in range(len(scales), len(logits)):
                logits[i], scale = pixel_code.encode(logits[i])
                scales.append(scale)
                ranges.append(np.stack([logits[i].min(0), logits[i].max(0)]))
    return DisagreementIndex(
        np.array(agreed, np.int64), logits, truths, band, agreed_logits, agreed_truths, metric, scales, ranges
    )


def build_index(
    oof: OofData, *, band: tuple[float, float] = (0.0, 0.0), exact_bytes: int = _EXACT_BYTES, jobs: int = -1
) -> DisagreementIndex:
    """The index of all networks.

    Args:
        oof: the networks' logits, the truth and the metric.
        band: thresholds to serve; a wider band keeps more pixels.
        exact_bytes: the most that the open pixels' logits may take as they are; if they need more, all of them are
            coded in 8 bits (kernels/pixel_code.py).
        jobs: processes, as joblib counts them.
    """
    count, everyone = len(oof.images), range(len(oof.stores))
    find, parts = partial(_surveyed, oof, everyone, band), cut(range(count), _CHUNK)
    found = in_parallel(find, parts, count, label="index disagreement", few=0, jobs=jobs)
    return _gathered((entry for _, entry in chain.from_iterable(found)), band, oof.metric, exact_bytes)
