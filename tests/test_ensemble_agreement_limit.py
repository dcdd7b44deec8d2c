"""Below which agreement of its networks a blend warns: measured on its own training images, through real stores."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ensemble.agreement_limit import SHARE, agreements_with_truth, limit_of
from ensemble.oof_data import OofData
from folds.store import LogitStore
from folds.truth import Truth
from kernels import rle
from models.frame import Frame
from tests import naive

FULL = (61, 83)
# one that resizes and one that pads; the coarser one's pixels count
FRAMES = [Frame((64, 96), "pad"), Frame((31, 47))]


def spots(seed: int, size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.normal(scale=3, size=(5, 7)).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)


def data_of(folder: Path, count: int) -> tuple[OofData, list[np.ndarray]]:
    """Images with truth, the first two of which are empty; of the first one networks see nothing."""
    names = [f"{i}" for i in range(count)]
    truths = [spots(1000 + i, FULL) > (0 if i > 1 else 99) for i in range(count)]
    stores = []
    for k, frame in enumerate(FRAMES):
        store = LogitStore.create(folder / f"{k}.zarr", names, (1, *frame.size))
        for i, name in enumerate(names):
            logits = spots(1000 + i, frame.size) + 0.3 * (k + 1) * spots(i + 77 * k, frame.size)
            store.write(name, logits[None] if i else np.full((1, *frame.size), -3, np.float32))
        stores.append(store)
    runs = [rle.encode(np.ascontiguousarray(truth)) for truth in truths]
    bounds = np.cumsum([0, *(len(own) for own in runs)])
    known = Truth(np.concatenate(runs), bounds, np.array([t.sum() for t in truths], np.int64))
    fold = np.arange(count) % 3
    return OofData(names, known, FULL, fold, np.array(names), stores, FRAMES), truths


def test_agreement_with_the_truth_is_counted_over_the_networks_that_did_not_see_it(tmp_path: Path) -> None:
    oof, truths = data_of(tmp_path, 7)
    found = agreements_with_truth(oof, jobs=1)
    for i, truth in enumerate(truths):
        planes = oof.planes(i)
        whole = naive.bilinear(planes[0][: FULL[0], : FULL[1]], FULL)
        small = cv2.resize(whole, (47, 31), interpolation=cv2.INTER_AREA)
        coverage = cv2.resize(truth.astype(np.float32), (47, 31), interpolation=cv2.INTER_AREA)
        masks = [small > 0, planes[1] > 0]
        both = sum(int((mask & (coverage > 0.5)).sum()) for mask in masks)
        either = sum(int((mask | (coverage > 0.5)).sum()) for mask in masks)
        assert found[i] == pytest.approx(both / either if either else 1.0, abs=0.01)
    # nothing seen where nothing is, and something seen there
    assert found[0] == 1 and found[1] == 0 and (found[2:] > 0.3).all()


def test_at_most_one_in_a_hundred_lies_below_the_limit() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 3, 99, 100, 101, 997):
        agreements = rng.beta(20, 1, count)
        limit = limit_of(agreements)
        assert (agreements < limit).mean() <= SHARE
        assert limit in agreements
        higher = agreements[agreements > limit]
        assert not len(higher) or (agreements < higher.min()).mean() > SHARE
