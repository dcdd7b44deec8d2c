"""One pass over real stores gives what whole planes at full size give, to the bit."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from competition import Size
from ensemble.index import DisagreementIndex
from ensemble.oof_data import OofData
from ensemble.score_memory import RememberingIndex
from ensemble.selection import evaluate_all
from ensemble.survey import build_index, single_scores, survey
from ensemble.voting import LINEAR, VOTES
from folds.store import LogitStore
from folds.truth import Truth
from kernels import rle
from kernels.blend import disagreement
from kernels.dice import counts_logits_runs
from kernels.metrics import METRICS
from models.frame import Frame

IMAGES = 7
BAND = (-0.5, 0.5)
# a full frame that divides nothing, and networks that are smaller, larger, padded, and at their own size
FULL = (97, 131)
FRAMES = (
    Frame((48, 64)), Frame((48, 64)), Frame((31, 53)), Frame((104, 144), "pad"), Frame((128, 192)),
    Frame((202 + 14, 262 + 10), "reflect-2x"), Frame((97, 131)), Frame((20, 160)),
)  # fmt: skip


def smooth(rng: np.random.Generator, size: Size, rough: int) -> np.ndarray:
    """Noise of some waves a side, in float32."""
    y, x = np.mgrid[: size[0], : size[1]] / np.array(size).reshape(2, 1, 1)
    waves = [np.sin(rng.normal() * rough * y + rng.normal() * rough * x + 6 * rng.random()) for _ in range(6)]
    return np.sum(waves, axis=0).astype(np.float32)


def campaign(folder: Path, frames: Sequence[Frame] = FRAMES, images: int = IMAGES) -> OofData:
    """Stores of logits of every frame; the last network is a bad one, one image is empty and one is full."""
    rng = np.random.default_rng(5)
    names = [f"{k}.png" for k in range(images)]
    yx = np.mgrid[: FULL[0], : FULL[1]] / np.array(FULL).reshape(2, 1, 1) - 0.5
    truths = [(yx[0] ** 2 + yx[1] ** 2 < r**2) for r in rng.uniform(0.2, 0.4, images)]
    truths[1][:], truths[2][:] = False, True
    stores = []
    for m, frame in enumerate(frames):
        store = LogitStore.create(folder / f"{m}.zarr", names, (1, *frame.size))
        for k, (name, mask) in enumerate(zip(names, truths, strict=True)):
            clean = frame.apply(np.where(mask, np.float32(6), np.float32(-6)))
            noise = smooth(rng, frame.size, 20) * np.float32(9 if m == len(frames) - 1 else 1.5)
            store.write(name, (clean + noise * (1 if k % 3 else 0.2))[None])
        stores.append(store)
    runs = [rle.encode(mask) for mask in truths]
    truth = Truth(
        np.concatenate(runs), np.cumsum([0, *map(len, runs)]), np.array([mask.sum() for mask in truths], np.int64)
    )
    fold = np.arange(images) % 3
    return OofData(names, truth, FULL, fold, fold, stores, frames)


def whole_planes(oof: OofData, image: int) -> np.ndarray:
    planes = zip(oof.planes(image), oof.frames, strict=True)
    return np.stack([np.ascontiguousarray(frame.invert(plane, FULL)) for plane, frame in planes])


def check_index(index: DisagreementIndex, oof: OofData) -> None:
    for image in range(len(oof.images)):
        planes, mask = whole_planes(oof, image), rle.decode(oof.truth.of(image), FULL)
        agreed, logits, truths = disagreement(planes, mask, low=BAND[0], high=BAND[1])
        assert tuple(index.agreed[image]) == agreed
        np.testing.assert_array_equal(index.logits[image], logits)
        np.testing.assert_array_equal(index.truths[image], truths)
        drawn = np.random.default_rng(image).integers(0, mask.size, 64)
        sample = planes.reshape(len(planes), -1)[:, drawn]
        same = (sample.min(0) > BAND[1]) | (sample.max(0) <= BAND[0])
        np.testing.assert_array_equal(index.agreed_logits[image], sample[:, same])
        np.testing.assert_array_equal(index.agreed_truths[image], mask.ravel()[drawn][same])


def above(ratio: float):
    def worth(scores: np.ndarray) -> list[int]:
        errors = 1 - scores
        return np.flatnonzero(errors <= ratio * errors.min()).tolist()

    return worth


def test_one_pass_finds_the_scores_and_the_open_pixels_of_whole_planes(tmp_path: Path) -> None:
    oof = campaign(tmp_path)
    singles, searched, index = survey(oof, above(2.0), band=BAND, jobs=1)
    alone = single_scores(oof, jobs=1)
    np.testing.assert_array_equal(singles, alone)
    assert searched == above(2.0)(alone.mean(0))
    assert 1 < len(searched) < len(FRAMES)
    check_index(index, oof.of(searched))
    check_index(build_index(oof, band=BAND, jobs=1), oof)


def test_networks_that_a_few_images_misjudge_are_judged_by_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oof = campaign(tmp_path)
    monkeypatch.setattr("ensemble.survey._FEW", 1)
    alone = single_scores(oof, jobs=1)
    judged = []

    def worth(scores: np.ndarray) -> list[int]:
        judged.append(scores)
        return [0, 2] if len(judged) == 1 else [1, 2, 3]

    singles, searched, index = survey(oof, worth, band=BAND, jobs=1)
    assert searched == [1, 2, 3]
    np.testing.assert_array_equal(singles, alone)
    np.testing.assert_array_equal(judged[0], alone[::IMAGES][:1].mean(0))
    np.testing.assert_array_equal(judged[1], alone.mean(0))
    check_index(index, oof.of(searched))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_an_index_that_would_exceed_its_memory_takes_a_quarter_and_scores_nearly_the_same(metric, tmp_path) -> None:
    oof = replace(campaign(tmp_path), metric=metric)
    plain, coded = build_index(oof, band=BAND, jobs=1), build_index(oof, band=BAND, exact_bytes=30_000, jobs=1)
    assert plain.exact and not coded.exact
    assert all(a.nbytes == 4 * b.nbytes for a, b in zip(plain.logits, coded.logits, strict=True))
    everyone = np.eye(len(FRAMES))
    np.testing.assert_array_equal(coded.scores(everyone), plain.scores(everyone))
    weights = np.random.default_rng(0).dirichlet(np.ones(len(FRAMES)), 50)
    for threshold in (0.0, 0.25, -0.5):
        pairs = zip(coded.counts(weights, threshold), plain.counts(weights, threshold), strict=True)
        for found, exact in pairs:
            # of some 4,000 open pixels an image
            assert np.abs(found - exact).max() <= 40
            assert np.abs((found - exact).mean()) <= 2
    for vote in VOTES:
        apart = coded.vote_counts(vote, weights[0])[1] - plain.vote_counts(vote, weights[0])[1]
        assert np.abs(apart).max() <= 40
    part = RememberingIndex.around(coded).of(np.array([5, 3]))
    np.testing.assert_array_equal(part.scores(weights), coded.scores(weights)[[5, 3]])
    names = {c.name for c in evaluate_all(RememberingIndex.around(coded), oof.fold)}
    assert names == {c.name for c in evaluate_all(RememberingIndex.around(plain), oof.fold)}


def test_the_deployed_blend_differs_from_the_index_only_where_rounding_decides(tmp_path: Path) -> None:
    """The blend sums networks of one frame before it enlarges them, the index after."""
    oof = campaign(tmp_path, FRAMES[:5], 5)
    index = build_index(oof, band=BAND, jobs=1)
    weights = np.random.default_rng(2).dirichlet(np.ones(5), 6)
    both, predicted, _ = index.counts(weights)
    for image in range(5):
        planes = whole_planes(oof, image).astype(np.float64)
        for w, row in enumerate(weights):
            deployed = LINEAR(oof.planes(image), oof.frames, row.tolist(), FULL)
            exact = np.tensordot(row, planes, 1)
            # of logits up to 16, summed in float32 and enlarged in float32
            assert np.abs(deployed - exact).max() < 2e-5
            undecided = int((np.abs(exact) < 2e-5).sum())
            counts = counts_logits_runs(deployed, oof.truth.of(image))
            assert abs(counts[0] - both[image, w]) <= undecided
            assert abs(counts[1] - predicted[image, w]) <= undecided
