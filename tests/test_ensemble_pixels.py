"""Boosted pixels: they learn from the picture what no network's logits hold, and their worth never comes from images
that they have seen."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from command_line import UserError
from ensemble import pixels_file
from ensemble.oof_data import OofData
from ensemble.pixel_gain import NoBandError, PixelFit, evaluate_pixels
from ensemble.pixels import NAME, BoostedPixels, band_of, full_frame, names_of_features, step_of
from ensemble.selection import Candidate
from ensemble.trees import Growth
from folds.store import LogitStore
from folds.truth import Truth
from kernels import rle
from models.frame import Frame

FULL = (67, 101)
SMALL = Frame((17, 26))
FOLD = np.repeat(np.arange(3), 5)
NAMES = [f"{i:02d}.jpg" for i in range(len(FOLD))]
QUICK = PixelFit(pixels=6000, growth=Growth(trees=40, leaves=15, least_rows=10))


@dataclass(frozen=True)
class Pictures:
    """Training images in memory."""

    images: Sequence[np.ndarray]

    def image(self, position: int) -> np.ndarray:
        """(H, W, C) uint8."""
        return self.images[position]

    def target(self, position: int) -> np.ndarray:
        """Nobody asks."""
        raise AssertionError


def truth_of(masks: Sequence[np.ndarray]) -> Truth:
    runs = [rle.encode(mask) for mask in masks]
    return Truth(
        np.concatenate(runs), np.cumsum([0, *map(len, runs)]), np.array([mask.sum() for mask in masks], np.int64)
    )


def discs(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: FULL[0], : FULL[1]]
    return [(y - rng.uniform(25, 42)) ** 2 + (x - rng.uniform(35, 66)) ** 2 < rng.uniform(12, 22) ** 2 for _ in FOLD]


def picture_of(mask: np.ndarray, seed: int) -> np.ndarray:
    """Dark things on a light ground, with noise."""
    rng = np.random.default_rng(seed)
    grey = np.where(mask, 70, 180)[..., None] + rng.normal(scale=12, size=(*FULL, 3))
    return np.clip(grey, 0, 255).astype(np.uint8)


def campaign(folder: Path, networks: int = 1, seed: int = 0) -> tuple[OofData, Pictures, Candidate]:
    """Networks that see discs at a quarter of the size, each with errors of its own."""
    rng = np.random.default_rng(seed)
    masks = discs(seed)
    stores = []
    for m in range(networks):
        store = LogitStore.create(folder / f"{m}.zarr", NAMES, (1, *SMALL.size))
        for name, mask in zip(NAMES, masks, strict=True):
            coverage = cv2.resize(mask.astype(np.float32), SMALL.size[::-1], interpolation=cv2.INTER_AREA)
            store.write(name, (8 * (coverage - 0.5) + rng.normal(scale=1.2, size=SMALL.size)).astype(np.float32)[None])
        stores.append(store)
    oof = OofData(NAMES, truth_of(masks), FULL, FOLD, np.arange(len(FOLD)), stores, [SMALL] * networks)
    pictures = Pictures([picture_of(mask, seed=k) for k, mask in enumerate(masks)])
    return oof, pictures, mean_of(networks)


def mean_of(networks: int) -> Candidate:
    """The plain mean, as it would be without each fold and each two."""
    equal = np.full(networks, 1 / networks)
    nested = dict.fromkeys(range(3), equal)
    inner = {k: Candidate("equal-mean", equal, np.zeros(10), dict.fromkeys({0, 1, 2} - {k}, equal)) for k in range(3)}
    return Candidate("equal-mean", equal, np.zeros(len(FOLD)), nested, inner=inner)


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


@pytest.mark.parametrize("networks", [1, 2])
def test_they_learn_from_the_picture_and_are_scored_on_what_they_have_not_seen(tmp_path: Path, networks: int) -> None:
    oof, pictures, linear = campaign(tmp_path, networks)
    found = evaluate_pixels(linear, oof, pictures, QUICK, jobs=1)
    masks = discs()
    equal = [1 / networks] * networks
    before = np.mean([
        dice(band_of(oof.planes(p), oof.frames, equal, FULL, pictures.image(p), width=1, trained_on=FULL).logits > 0, m)
        for p, m in enumerate(masks)
    ])  # fmt: skip
    assert found.nested.mean() > before + 0.01, (before, found.nested.mean())
    assert found.vote == NAME and set(found.inner) == {0, 1, 2} and set(found.nested_stackers) == {0, 1, 2}

    # every score is that of the fit without the image's fold, and with inner folds without both
    for p, k in enumerate(FOLD.tolist()):
        logits = found.nested_stackers[k](oof.planes(p), oof.frames, [], FULL, pictures.image(p))
        assert found.nested[p] == pytest.approx(dice(logits > 0, masks[p]))
    inner = found.inner[0]
    there = np.flatnonzero(FOLD != 0)
    for row, p in enumerate(there.tolist()):
        logits = inner.nested_stackers[int(FOLD[p])](oof.planes(p), oof.frames, [], FULL, pictures.image(p))
        assert inner.nested[row] == pytest.approx(dice(logits > 0, masks[p]))


def test_what_is_fitted_without_a_fold_does_not_depend_on_that_fold(tmp_path: Path) -> None:
    oof, pictures, linear = campaign(tmp_path)
    found = evaluate_pixels(linear, oof, pictures, QUICK, jobs=1)
    # the truth of fold 1 turned inside out
    masks = [~mask if k == 1 else mask for mask, k in zip(discs(), FOLD, strict=True)]
    other = evaluate_pixels(linear, replace(oof, truth=truth_of(masks)), pictures, QUICK, jobs=1)
    assert found.nested_stackers[1].label == other.nested_stackers[1].label
    assert found.stacker.label != other.stacker.label  # type: ignore[union-attr]
    for k in (0, 2):
        assert found.nested_stackers[k].label != other.nested_stackers[k].label
        assert found.inner[k].nested_stackers[1].label == other.inner[k].nested_stackers[1].label


def test_the_same_bytes_in_one_process_and_in_two(tmp_path: Path) -> None:
    oof, pictures, linear = campaign(tmp_path, 2)
    alone, together = (evaluate_pixels(linear, oof, pictures, QUICK, jobs=jobs) for jobs in (1, 2))
    assert alone.stacker.label == together.stacker.label  # type: ignore[union-attr]
    np.testing.assert_array_equal(alone.nested, together.nested)


def test_they_change_nothing_outside_the_band_and_pickle(tmp_path: Path) -> None:
    oof, pictures, linear = campaign(tmp_path)
    fitted = evaluate_pixels(linear, oof, pictures, QUICK, jobs=1).stacker
    assert isinstance(fitted, BoostedPixels)
    assert fitted.image_frame([SMALL], FULL) == full_frame(FULL)
    plane = oof.planes(3)
    smooth = SMALL.invert(plane[0], FULL)
    found = fitted(plane, oof.frames, [], FULL, pictures.image(3))
    outside = np.abs(smooth) >= fitted.width
    np.testing.assert_array_equal(found[outside], smooth[outside])
    assert 0.5 < outside.mean() < 1 and (found != smooth).any()
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(fitted))(plane, oof.frames, [], FULL, pictures.image(3)), found
    )
    with pytest.raises(ValueError, match="need the image"):
        fitted(plane, oof.frames, [], FULL)


def test_an_image_of_twice_the_size_gets_the_same_mask(tmp_path: Path) -> None:
    oof, pictures, linear = campaign(tmp_path)
    fitted = evaluate_pixels(linear, oof, pictures, QUICK, jobs=1).stacker
    assert isinstance(fitted, BoostedPixels)
    twice = 2 * FULL[0], 2 * FULL[1]
    large = np.repeat(np.repeat(pictures.image(4), 2, 0), 2, 1)
    mask = fitted(oof.planes(4), oof.frames, [], twice, large) > 0
    assert dice(mask[::2, ::2], discs()[4]) > 0.96


def test_from_disk_they_are_the_same_in_any_order_of_networks(tmp_path: Path) -> None:
    oof, pictures, linear = campaign(tmp_path, 2)
    fitted = evaluate_pixels(linear, oof, pictures, QUICK, jobs=1).stacker
    assert isinstance(fitted, BoostedPixels)
    home = tmp_path / "blend"
    pixels_file.save(home, fitted, ["a", "b"])
    back = pixels_file.load(home, ["b", "other", "a"], fitted.digest())
    planes = oof.planes(0)
    shuffled = [planes[1], np.full(SMALL.size, np.nan, np.float32), planes[0]]
    np.testing.assert_array_equal(
        back(shuffled, [SMALL] * 3, [], FULL, pictures.image(0)),
        fitted(planes, oof.frames, [], FULL, pictures.image(0)),
    )
    for names, digest, sentence in ((["a"], fitted.digest(), "need b"), (["a", "b"], "0", "not of the fit")):
        with pytest.raises(UserError, match=sentence):
            pixels_file.load(home, names, digest)
    record = (home / pixels_file.PIXELS_FILE).read_text()
    (home / pixels_file.PIXELS_FILE).write_text(record.replace('"logits: slope"', '"logits: slant"'))
    with pytest.raises(UserError, match="other than this version computes"):
        pixels_file.load(home, ["a", "b"], fitted.digest())
    (home / pixels_file.PIXELS_FILE).write_text(record)
    (home / pixels_file.TREES_FILE).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"pixels.safetensors is damaged: choose the blend again"):
        pixels_file.load(home, ["a", "b"], fitted.digest())
    (home / pixels_file.TREES_FILE).unlink()
    with pytest.raises(UserError, match="missing"):
        pixels_file.load(home, ["a", "b"], fitted.digest())


def test_without_anything_to_learn_from_the_reason_is_given(tmp_path: Path) -> None:
    oof, pictures, linear = campaign(tmp_path)
    right = [SMALL.invert(oof.planes(p)[0], FULL) > 0 for p in range(len(FOLD))]
    with pytest.raises(NoBandError, match="no pixel wrong"):
        evaluate_pixels(linear, replace(oof, truth=truth_of(right)), pictures, QUICK, jobs=1)
    sure = LogitStore.create(tmp_path / "sure.zarr", NAMES, (1, *SMALL.size))
    for name in NAMES:
        sure.write(name, np.full((1, *SMALL.size), 15, np.float32))
    with pytest.raises(NoBandError, match="sure of every pixel"):
        evaluate_pixels(linear, replace(oof, stores=[sure]), pictures, QUICK, jobs=1)


def test_steps_are_those_of_the_finest_network() -> None:
    assert step_of([Frame((320, 480))], (1280, 1920)) == pytest.approx(4)
    assert step_of([Frame((320, 480)), Frame((640, 960))], (1280, 1920)) == pytest.approx(2)
    assert step_of([Frame((320, 480)), Frame((1280, 1920), "pad")], (1280, 1918)) == 1
    assert step_of([Frame((320, 480))], (100, 100)) == 1
    assert len(names_of_features(1)) < len(names_of_features(2))
