from pathlib import Path

import cv2
import numpy as np
import pytest

from ensemble.blend_masks import MaskBlend
from ensemble.oof_data import OofData
from ensemble.repair_gain import Repairs, nested_gain
from ensemble.repairs import REPAIRS, after_repair, apply_kept, drop_islands, fill_holes, keep_largest, repair_thin
from folds.store import LogitStore
from folds.truth import Truth
from kernels import rle
from kernels.topology import pieces_and_holes
from models.frame import Frame
from tests import naive_ensemble as naive

ALONE = MaskBlend((0,), (1.0,))


def blobs(seed: int, share: float = 0.45) -> np.ndarray:
    return np.random.default_rng(seed).random((24, 31)) < share


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("under_px", [2, 5, 40])
def test_fill_and_drop_equal_flood_fill(seed: int, under_px: int) -> None:
    mask = blobs(seed)
    before = mask.copy()
    filled = mask.copy()
    for hole in naive.components(~mask, diagonal=False):
        inside = all(0 < y < mask.shape[0] - 1 and 0 < x < mask.shape[1] - 1 for y, x in hole)
        if inside and len(hole) < under_px:
            for at in hole:
                filled[at] = True
    np.testing.assert_array_equal(fill_holes(mask, under_px), filled)
    pieces = naive.components(mask, diagonal=True)
    largest = max(len(piece) for piece in pieces)
    dropped = mask.copy()
    for piece in pieces:
        if len(piece) < under_px and len(piece) < largest:
            for at in piece:
                dropped[at] = False
    np.testing.assert_array_equal(drop_islands(mask, under_px), dropped)
    kept = keep_largest(mask)
    assert kept.sum() == largest
    assert {(int(y), int(x)) for y, x in np.argwhere(kept)} in pieces
    np.testing.assert_array_equal(mask, before)


def test_repair_thin_joins_a_broken_line_and_leaves_corners_and_windows() -> None:
    mask = np.zeros((60, 90), bool)
    mask[40:, 10:70] = True
    mask[5:40, 30:32] = True
    mask[20:24, 30:32] = False  # the aerial is broken by four pixels
    mask[45:48, 20:22] = False  # a narrow window
    repaired = repair_thin(mask, 50)
    assert repaired[20:24, 30:32].any(1).all()
    assert not repaired[45:48, 20:22].any()
    assert (repaired >= mask).all()
    assert (repaired & ~mask).sum() < 20  # the corners below the aerial are not rounded
    np.testing.assert_array_equal(repair_thin(mask, 6), mask)  # the patch is larger than allowed


def test_apply_kept_looks_at_the_surroundings_alone_and_changes_nothing() -> None:
    for seed in range(20):
        mask = np.zeros((70, 80), bool)
        top, left = np.random.default_rng(seed).choice([0, 1, 7, 46], 2)
        mask[top : top + 24, left : left + 31] = blobs(seed, 0.5)
        for name, step in REPAIRS.items():
            for size_px in (5, 60):
                np.testing.assert_array_equal(apply_kept(mask, [(name, size_px)]), step.apply(mask, size_px), name)
    empty = np.zeros((4, 5), bool)
    for name in REPAIRS:
        assert not apply_kept(empty, [(name, 10)]).any()
        assert not REPAIRS[name].apply(empty, 10).any()
        assert REPAIRS[name].apply(~empty, 10).all()


@pytest.mark.parametrize("name", REPAIRS)
def test_a_step_leaves_alone_what_does_not_concern_it(name: str) -> None:
    step, idle = REPAIRS[name], 0
    for seed in range(60):
        mask = blobs(seed, (0.1, 0.7, 0.97)[seed % 3])[: 4 + seed % 8, : 5 + seed % 6]
        mask = np.ascontiguousarray(mask)
        if not step.concerns(*pieces_and_holes(rle.encode(mask), mask.shape)):
            idle += 1
            for size_px in (2, 10000):
                np.testing.assert_array_equal(step.apply(mask, size_px), mask)
    assert 0 < idle < 60


@pytest.mark.parametrize("name", REPAIRS)
def test_a_step_on_runs_is_the_step_on_pixels(name: str) -> None:
    rng, changed = np.random.default_rng(7), 0
    step, full = REPAIRS[name], (90, 110)
    for k in range(150):
        mask = cv2.blur(rng.random(full, np.float32), (9, 9)) > rng.uniform(0.45, 0.58)
        if k % 3:
            # a few pieces, apart or nearly so
            mask &= np.kron(rng.random((9, 11)) < 0.3, np.ones((10, 10))) > 0
        runs = rle.encode(np.ascontiguousarray(mask))
        if not step.concerns(*pieces_and_holes(runs, full)):
            continue
        found = dict(after_repair(step, runs, full))
        for position, size in enumerate(step.sizes(full)):
            after = rle.encode(apply_kept(mask, [(name, size)]))
            np.testing.assert_array_equal(found.get(position, runs), after)
            changed += not np.array_equal(after, runs)
    assert changed > 10


def test_the_size_is_chosen_without_the_fold_that_is_scored() -> None:
    # each fold's images gain from the one size that the other fold loses with
    scores = np.array([[0.5, 0.6, 0.3], [0.5, 0.6, 0.3], [0.5, 0.3, 0.6], [0.5, 0.3, 0.6]])
    gain, _ = nested_gain(scores, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(gain, -0.2)


def stored(folder: Path, masks: list[np.ndarray], truths: list[np.ndarray]) -> tuple[LogitStore, Truth, list[str]]:
    names = [f"image{i}" for i in range(len(masks))]
    store = LogitStore.create(folder / "oof.zarr", names, (1, *masks[0].shape))
    for name, mask in zip(names, masks, strict=True):
        store.write(name, np.where(mask, 4.0, -4.0)[None].astype(np.float32))
    runs = [rle.encode(truth) for truth in truths]
    offsets = np.cumsum([0, *(len(r) for r in runs)])
    return store, Truth(np.concatenate(runs), offsets, np.array([t.sum() for t in truths])), names


def test_measure_keeps_what_gains_and_leaves_out_what_does_not(tmp_path: Path) -> None:
    size = (120, 160)
    rng = np.random.default_rng(0)
    masks, truths = [], []
    for _ in range(20):
        truth = np.zeros(size, bool)
        truth[40:100, 30:130] = True
        truth[60:75, 50:65] = False  # a true hole: filling it loses
        mask = truth.copy()
        y, x = rng.integers(2, 25), rng.integers(5, 145)
        # a crumb: dropping it gains, and nearly as much as a piece of 100 pixels could lose
        mask[y : y + 9, x : x + 9] = True
        masks.append(mask)
        truths.append(truth)
    store, truth_runs, names = stored(tmp_path, masks, truths)
    fold, groups = np.arange(20) % 5, np.arange(20) // 2
    repairs = Repairs(OofData(names, truth_runs, size, fold, groups, [store], [Frame(size)]), ALONE, jobs=1)
    figures, kept = repairs.choose(np.arange(20), fold, groups)
    # masks are emptied only where empty ones are ordinary
    assert list(figures) == [name for name, step in REPAIRS.items() if not step.empties]
    assert ("drop-islands", 100) in kept
    assert not figures["fill-holes"]["kept"]
    low, high = figures["drop-islands"]["interval"]
    assert 0 < low <= figures["drop-islands"]["nested_gain"] <= high
    assert figures["drop-islands"]["changed_images"] == 1
    # half of the mask could go, so that ten groups are no proof
    assert 0.008 < figures["drop-islands"]["worst_loss"] < 0.01 and figures["keep-largest"]["worst_loss"] > 0.3
    # measured on what the step before has left: nothing is left to gain
    assert figures["keep-largest"]["nested_gain"] == 0
    assert not figures["keep-largest"]["kept"]
    repaired = [apply_kept(mask, kept) for mask in masks]
    np.testing.assert_array_equal(repaired, truths)
    # what they add is what they make of each mask
    before = [2 * (m & t).sum() / (m.sum() + t.sum()) for m, t in zip(masks, truths, strict=True)]
    np.testing.assert_allclose(repairs.gain(kept), 1 - np.array(before))
    assert not repairs.gain(()).any()


def test_repairs_are_chosen_on_the_images_given_alone(tmp_path: Path) -> None:
    """Every mask has a crumb; in folds 0 and 1 the truth has none, in folds 2 and 3 it has it too."""
    size, fold = (120, 160), np.arange(16) % 4
    masks, truths = [], []
    for k, its_fold in enumerate(fold):
        mask = np.zeros(size, bool)
        mask[40:100, 30 : 110 + k] = True
        mask[5:14, 5:14] = True
        truth = mask.copy()
        truth[5:14, 5:14] = its_fold > 1
        masks.append(mask)
        truths.append(truth)
    store, known, names = stored(tmp_path, masks, truths)
    repairs = Repairs(OofData(names, known, size, fold, np.arange(16), [store], [Frame(size)]), ALONE, jobs=1)
    groups, crumby = np.arange(16), fold < 2
    figures, kept = repairs.choose(np.flatnonzero(crumby), fold, groups)
    assert kept == (("drop-islands", 100),)
    assert figures["drop-islands"]["nested_gain"] == pytest.approx(repairs.gain(kept)[crumby].mean())
    assert (repairs.gain(kept)[~crumby] < 0).all()
    assert repairs.choose(np.flatnonzero(~crumby), fold, groups)[1] == ()
