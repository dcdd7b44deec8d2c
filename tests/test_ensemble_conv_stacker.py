"""The convolutional stacker: it learns what a linear blend cannot, and its worth never comes from seen images."""

# what stands in for a stacker here is several protocols at once
# mypy: disable-error-code="union-attr,type-var,misc,index,arg-type"

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from command_line import UserError
from competition import Size
from ensemble import conv_stacker
from ensemble.conv_stacker import ConvStacker
from ensemble.oof_data import OofData
from ensemble.patches import Patches, gather, grid_of, on_grid
from ensemble.selection import Candidate, evaluate
from ensemble.stacker_gain import evaluate_stacker
from ensemble.stacking import EqualMean, ScoreWeights
from ensemble.survey import build_index
from folds.store import LogitStore
from folds.truth import Truth
from kernels import rle
from models.frame import Frame

FULL = (48, 60)
FRAMES = [Frame(FULL), Frame(FULL)]
FOLD = np.repeat(np.arange(3), 4)
NAMES = [f"{i:02d}.jpg" for i in range(len(FOLD))]


def known(masks: Sequence[np.ndarray]) -> Truth:
    runs = [rle.encode(mask) for mask in masks]
    return Truth(
        np.concatenate(runs), np.cumsum([0, *map(len, runs)]), np.array([mask.sum() for mask in masks], np.int64)
    )


def stored(folder: Path, planes: np.ndarray) -> list[LogitStore]:
    """Stores of (N, M, h, w) logits."""
    stores = []
    for m in range(planes.shape[1]):
        store = LogitStore.create(folder / f"{m}.zarr", NAMES, (1, *planes.shape[2:]))
        for name, plane in zip(NAMES, planes[:, m], strict=True):
            store.write(name, plane[None])
        stores.append(store)
    return stores


def data(stores: list[LogitStore], truth: Truth) -> OofData:
    """What blends are fitted on; every image is a group of its own."""
    return OofData(NAMES, truth, FULL, FOLD, np.arange(len(FOLD)), stores, FRAMES)


def equal_mean() -> Candidate:
    half = np.full(2, 0.5)
    return Candidate("equal-mean", half, np.zeros(len(FOLD)), dict.fromkeys(range(3), half))


def quick() -> ConvStacker:
    return ConvStacker(steps=60, batch=6)


def test_it_learns_from_a_pixels_surroundings_what_no_linear_blend_can(tmp_path: Path) -> None:
    # both networks are wrong in single pixels, here and there, and sure of it
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: FULL[0], : FULL[1]]
    masks = [(y - 24) ** 2 + (x - 30) ** 2 < radius**2 for radius in rng.uniform(10, 20, len(FOLD))]
    planes = np.stack([np.where(mask, 3.0, -3.0)[None].repeat(2, 0) for mask in masks]).astype(np.float32)
    planes[rng.random(planes.shape) < 0.1] *= -1.5
    stores, truth = stored(tmp_path, planes), known(masks)
    index = build_index(data(stores, truth), jobs=1)
    linear = evaluate("dice-weights", ScoreWeights, index, FOLD)
    candidate = evaluate_stacker(linear, data(stores, truth), make=quick, jobs=1)
    fitted = candidate.stacker
    assert linear.nested.mean() < 0.9
    assert candidate.nested.mean() > 0.97
    assert candidate.vote == conv_stacker.NAME

    # again, the same; and as it was after a way to another process, and to disk
    planes_0 = [store.read(NAMES[0])[0] for store in stores]
    found = fitted(planes_0, FRAMES, [], FULL)
    patches = gather(data(stores, truth), jobs=1)
    again = quick().fit(patches, np.arange(len(FOLD)), linear.weights)
    assert again.digest() == fitted.digest()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted))(planes_0, FRAMES, [], FULL), found)
    fitted.save(tmp_path / "blend", ["a", "b"])
    back = conv_stacker.load(tmp_path / "blend", conv_stacker.NAME, ["b", "other", "a"], fitted.digest())
    shuffled = [planes_0[1], np.full(FULL, np.nan, np.float32), planes_0[0]]
    np.testing.assert_array_equal(back(shuffled, [*FRAMES, FRAMES[0]], [0.0] * 3, FULL), found)
    for names, digest, sentence in (
        (["a"], fitted.digest(), "needs b"),
        (["a", "b"], "0", "not of the fit"),
    ):
        with pytest.raises(UserError, match=sentence):
            conv_stacker.load(tmp_path / "blend", conv_stacker.NAME, names, digest)
    (tmp_path / "blend" / "conv_stacker.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        conv_stacker.load(tmp_path / "blend", conv_stacker.NAME, ["a", "b"], fitted.digest())
    with pytest.raises(UserError, match="missing"):
        conv_stacker.load(tmp_path, conv_stacker.NAME, ["a", "b"], fitted.digest())


class Memoriser:
    """Knows by heart the truth of every image it was fitted on; of others it says what the mean of logits says."""

    def fit(self, patches: Patches, images: np.ndarray, weights: np.ndarray) -> Memoriser:
        self.known_ = {
            patches.inputs[p].tobytes(): patches.targets[p] > 127
            for p in np.flatnonzero(np.isin(patches.image, images))
        }
        return self

    def __call__(
        self,
        planes: Sequence[np.ndarray],
        frames: Sequence[Frame],
        weights: Sequence[float],
        full: Size,
        image: np.ndarray | None = None,
    ) -> np.ndarray:
        seen = self.known_.get(np.stack(planes).astype(np.float16).tobytes())
        return np.where(seen, 1.0, -1.0).astype(np.float32) if seen is not None else np.mean(planes, 0)


def test_a_stacker_that_memorises_gains_nothing_from_random_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    masks = [rng.random(FULL) < 0.5 for _ in FOLD]
    stores, truth = stored(tmp_path, rng.normal(size=(len(FOLD), 2, *FULL)).astype(np.float32)), known(masks)
    index = build_index(data(stores, truth), jobs=1)
    chance = index.scores(np.full(2, 0.5))[:, 0]
    candidate = evaluate_stacker(equal_mean(), data(stores, truth), make=Memoriser, jobs=1)
    fitted = candidate.stacker
    np.testing.assert_allclose(candidate.nested, chance, atol=1e-3)
    # fitted on everything, it does know every image
    for name, mask in zip(NAMES, masks, strict=True):
        np.testing.assert_array_equal(fitted([s.read(name)[0] for s in stores], FRAMES, [], FULL) > 0, mask)

    # nor does the real one find in noise what is not there
    honest = evaluate_stacker(equal_mean(), data(stores, truth), make=quick, jobs=1)
    assert honest.nested.mean() < 2 / 3 + 0.01  # everything foreground is 2 / 3


def test_without_a_fold_it_has_seen_no_image_of_that_fold(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    masks = [rng.random(FULL) < 0.5 for _ in FOLD]
    stores, truth = stored(tmp_path, rng.normal(size=(len(FOLD), 2, *FULL)).astype(np.float32)), known(masks)
    index = build_index(data(stores, truth), jobs=1)
    chance = index.scores(np.full(2, 0.5))[:, 0]
    linear = evaluate("equal-mean", EqualMean, index, FOLD, inner=True)
    candidate = evaluate_stacker(linear, data(stores, truth), make=Memoriser, jobs=1)
    np.testing.assert_allclose(candidate.nested, chance, atol=1e-3)
    for held_out in range(3):
        inner, seen = candidate.without(held_out), held_out != FOLD
        assert inner.name == inner.vote == conv_stacker.NAME
        # its own figures are of stackers that have seen neither the fold that is left out nor the one that is scored
        np.testing.assert_allclose(inner.nested, chance[seen], atol=1e-3)
        assert inner.stacker is candidate.nested_stackers[held_out]
        for position, name in enumerate(NAMES):
            found = inner.combine([s.read(name)[0] for s in stores], FRAMES, [], FULL) > 0
            assert np.array_equal(found, masks[position]) == seen[position]
    # where the linear blend is not evaluated without each fold, nor is the stacker: a fit a fold, and one on all
    plain = evaluate("equal-mean", EqualMean, index, FOLD)
    forced = evaluate_stacker(plain, data(stores, truth), make=Memoriser, jobs=1)
    np.testing.assert_array_equal(forced.nested, candidate.nested)
    assert not forced.inner
    assert not forced.without(1).nested.size and forced.without(1).stacker is forced.nested_stackers[1]


class Pictures:
    """Inputs of (N, h, w, 3) uint8, as folds.cache gives them."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def image(self, position: int) -> np.ndarray:
        return self.images[position]

    def target(self, position: int) -> np.ndarray:
        raise AssertionError("the truth comes from the runs")


def quick_with_image() -> ConvStacker:
    return ConvStacker(steps=60, batch=6, image=True)


def test_the_image_shows_what_the_logits_do_not(tmp_path: Path) -> None:
    # neither network knows the left half of the object; on the image it is red
    rng = np.random.default_rng(2)
    y, x = np.mgrid[: FULL[0], : FULL[1]]
    masks = [(y - 24) ** 2 + (x - 30) ** 2 < radius**2 for radius in rng.uniform(10, 20, len(FOLD))]
    blind = np.stack([np.where(mask & (x > 30), 3.0, -3.0)[None].repeat(2, 0) for mask in masks])
    stores, truth = stored(tmp_path, (blind + rng.normal(size=blind.shape)).astype(np.float32)), known(masks)
    images = rng.integers(60, 120, (len(FOLD), *FULL, 3)).astype(np.uint8)
    for image, mask in zip(images, masks, strict=True):
        image[mask, 0] += 100
    start = equal_mean()
    same = {"make": quick_with_image, "name": conv_stacker.IMAGE_NAME, "jobs": 1}
    candidate = evaluate_stacker(start, data(stores, truth), pictures=Pictures(images), **same)
    fitted = candidate.stacker
    assert candidate.name == candidate.vote == conv_stacker.IMAGE_NAME
    assert candidate.nested.mean() > 0.97
    logits_alone = evaluate_stacker(start, data(stores, truth), make=quick, jobs=1)
    assert logits_alone.nested.mean() < 0.9

    planes = [store.read(NAMES[0])[0] for store in stores]
    found = fitted(planes, FRAMES, [], FULL, images[0])
    assert not np.array_equal(found, fitted(planes, FRAMES, [], FULL, images[0, :, :, ::-1]))
    fitted.save(tmp_path / "blend", ["a", "b"])
    back = conv_stacker.load(tmp_path / "blend", conv_stacker.IMAGE_NAME, ["b", "a"], fitted.digest())
    np.testing.assert_array_equal(back(planes[::-1], FRAMES, [0, 0], FULL, images[0]), found)
    assert back.image_frame(FRAMES, FULL) == fitted.image_frame(FRAMES, FULL) == FRAMES[0]
    assert back.label == fitted.label == f"conv-stacker-image {fitted.digest()}"
    assert ConvStacker().image_frame(FRAMES, FULL) is None
    with pytest.raises(ValueError, match="needs the image"):
        fitted(planes, FRAMES, [], FULL)
    with pytest.raises(ValueError, match="without images"):
        quick_with_image().fit(gather(data(stores, truth), jobs=1), np.arange(3), np.full(2, 0.5))


class ImageMemoriser:
    """Knows by heart the truth of every image it was fitted on, by what the image looks like."""

    def fit(self, patches: Patches, images: np.ndarray, weights: np.ndarray) -> ImageMemoriser:
        assert patches.images is not None
        self.known_ = {
            patches.images[p].tobytes(): patches.targets[p] > 127
            for p in np.flatnonzero(np.isin(patches.image, images))
        }
        return self

    def __call__(
        self,
        planes: Sequence[np.ndarray],
        frames: Sequence[Frame],
        weights: Sequence[float],
        full: Size,
        image: np.ndarray | None = None,
    ) -> np.ndarray:
        assert image is not None
        seen = self.known_.get(image.tobytes())
        return np.where(seen, 1.0, -1.0).astype(np.float32) if seen is not None else np.mean(planes, 0)


def test_one_that_memorises_images_gains_nothing_from_random_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    masks = [rng.random(FULL) < 0.5 for _ in FOLD]
    stores, truth = stored(tmp_path, rng.normal(size=(len(FOLD), 2, *FULL)).astype(np.float32)), known(masks)
    pictures = Pictures(rng.integers(0, 256, (len(FOLD), *FULL, 3)).astype(np.uint8))
    chance = build_index(data(stores, truth), jobs=1).scores(np.full(2, 0.5))[:, 0]
    candidate = evaluate_stacker(equal_mean(), data(stores, truth), make=ImageMemoriser, pictures=pictures, jobs=1)
    fitted = candidate.stacker
    np.testing.assert_allclose(candidate.nested, chance, atol=1e-3)
    # fitted on everything, it does know every image
    planes = [store.read(NAMES[0])[0] for store in stores]
    np.testing.assert_array_equal(fitted(planes, FRAMES, [], FULL, pictures.image(0)) > 0, masks[0])

    # nor does the real one
    honest = evaluate_stacker(equal_mean(), data(stores, truth), make=quick_with_image, pictures=pictures, jobs=1)
    assert honest.nested.mean() < 2 / 3 + 0.01


def test_networks_of_other_sizes_meet_on_the_grid_of_the_largest() -> None:
    full = (50, 70)
    frames = [Frame((10, 14)), Frame((56, 72), "pad"), Frame((25, 35))]
    ramp = np.linspace(-1, 1, 70, dtype=np.float32)
    image = np.tile(ramp, (50, 1))
    logits = [frame.apply(image) for frame in frames]
    assert grid_of(frames) is frames[1]
    planes = on_grid(logits, frames, frames[1], full)
    assert planes.shape == (3, 56, 72)
    for plane in planes:
        np.testing.assert_allclose(plane[:50, 2:-6], image[:, 2:-4], atol=0.06)
    unfitted = ConvStacker().fit(
        Patches(np.zeros((1, 3, 9, 9), np.float16), np.zeros((1, 9, 9), np.uint8), np.zeros(1)),
        np.zeros(1),
        np.array([0.0, 1.0, 0.0]),
    )
    unfitted.state_ = {name: np.zeros_like(array) for name, array in unfitted.state_.items()}
    np.testing.assert_array_equal(unfitted(logits, frames, [], full), image)
