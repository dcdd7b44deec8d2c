"""Decisions per image: a head that says whether there is anything; masks that become empty by it or by their area."""

import csv
import gzip
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from command_line import UserError
from competition import COMPETITIONS
from ensemble.blend import Blend, find_blend
from ensemble.oof_data import OofData
from ensemble.photographs import main as mask_photographs
from ensemble.presence import Gate, fit_gate
from ensemble.procedure import Outcome, settle
from ensemble.repairs import apply_kept
from ensemble.selection import evaluate_all
from ensemble.survey import build_index
from folds import task_list
from folds.fold import run_fold
from folds.heads import load_truths
from folds.images import find_training_set
from folds.recipes import RECIPES
from folds.split import find_or_make
from folds.store import LogitStore
from folds.truth import Truth
from kernels import rle
from kernels.metrics import find_metric
from models.build import build
from models.frame import Frame
from models.variant import Head, Variant
from models.variants import VARIANTS
from submit import make
from tests import naive
from tests.conftest import write_mask
from tests.synthetic_runs import AVERAGE, UNET, save_blend, save_member, write_photograph
from tests.tiny_folds import DROPPING, TINY

HEADS = (Head("mask"), Head("presence"))
SAYING = replace(UNET, name="tiny-saying", heads=HEADS, tta=("hflip", "scale1.25"))
SIZE = (40, 52)
MEAN_PRECISION = find_metric("mean_precision")


def naive_gain(gains: np.ndarray, said: np.ndarray, fold: np.ndarray) -> np.ndarray:
    nested = np.zeros(len(gains))
    for i in range(len(gains)):
        others = [j for j in range(len(gains)) if fold[j] != fold[i]]
        best = max(np.linspace(-6, 6, 49), key=lambda t: (sum(gains[j] for j in others if said[j] <= t), -t))
        nested[i] = gains[i] if said[i] <= best else 0
    return nested


def test_a_gate_is_fitted_without_the_fold_it_is_scored_on_and_kept_where_it_gains() -> None:
    rng = np.random.default_rng(0)
    fold, groups = np.arange(60) % 5, np.arange(60)
    # eighths: sums are exact in any order
    gains = rng.choice([-1, -0.5, 0, 0.125, 1], 60)
    said = 3 * np.sign(-gains) + rng.normal(size=60)
    figures = fit_gate(gains, said, fold, groups)
    assert figures["nested_gain"] == pytest.approx(naive_gain(gains, said, fold).mean(), abs=1e-12)
    assert figures["kept"] and -3 < figures["threshold"] < 3
    noise = fit_gate(gains, rng.normal(size=60), fold, groups)
    assert not noise["kept"]
    assert not fit_gate(-np.abs(gains), said, fold, groups)["kept"]


def images_with_and_without(folder: Path, count: int = 60) -> tuple[OofData, list[np.ndarray]]:
    """Half of the images are empty; two networks put stray pixels there, of which one says when there is nothing."""
    rng = np.random.default_rng(1)
    names = [f"image{i}" for i in range(count)]
    truths = []
    plain = LogitStore.create(folder / "plain.zarr", names, (1, *SIZE))
    saying = LogitStore.create(folder / "saying.zarr", names, (2, *SIZE), heads=["mask", "presence"])
    for i, name in enumerate(names):
        truth = np.zeros(SIZE, np.uint8)
        if i % 2:
            cv2.circle(truth, (26, 20), int(rng.integers(6, 15)), 1, -1)
        truths.append(truth.astype(bool))
        for store in (plain, saying):
            mask = truth.copy()
            if i % 4 == 0:
                cv2.circle(mask, (int(rng.integers(8, 40)), 20), 4, 1, -1)
            logits = np.where(mask, 3, -3) + rng.normal(scale=0.3, size=SIZE)
            says = np.full(SIZE, (2 if i % 2 else -2) + rng.normal(), np.float32)
            planes = np.stack([logits, says]).astype(np.float32)
            store.write(name, planes[: store.shape[0]])
    runs = [rle.encode(truth) for truth in truths]
    known = Truth(
        np.concatenate(runs), np.cumsum([0, *(len(r) for r in runs)]), np.array([t.sum() for t in truths], np.int64)
    )
    fold, groups = np.arange(count) % 5, np.array([f"{i}" for i in range(count)])
    frames = [Frame(SIZE), Frame(SIZE)]
    oof = OofData(names, known, SIZE, fold, groups, [plain, saying], frames, metric=MEAN_PRECISION, empty_masks=True)
    return oof, truths


def settled(oof: OofData) -> Outcome:
    index = build_index(oof, band=(-0.5, 0.5), jobs=1)
    candidates = evaluate_all(index, oof.fold, inner=("equal-mean",))
    return settle(candidates, index, oof, way="equal-mean", jobs=1)


def test_masks_become_empty_by_area_or_by_what_a_network_says_where_that_gains(tmp_path: Path) -> None:
    oof, truths = images_with_and_without(tmp_path)
    by_area = settled(replace(oof, stores=[oof.stores[0]] * 2))
    ((name, _),) = by_area.decision.repairs
    assert name == "empty-small" and by_area.decision.gate_figures is None
    assert by_area.decision.repair_figures is not None
    assert "repairs" in by_area.nested and "presence" not in by_area.nested
    # where empty masks are no ordinary thing, nobody tries
    never = settled(replace(oof, stores=[oof.stores[0]] * 2, empty_masks=False))
    assert never.decision.repairs == () and "empty-small" not in (never.decision.repair_figures or {})
    # half of the masks of images without anything are stray pixels, and cost the image its whole score
    without = settled(replace(oof, empty_masks=False))
    assert without.decision.gate is not None and without.decision.gate.members == (1,)
    assert "presence" in without.nested
    assert without.scores.mean() > never.scores.mean() + 0.1 and by_area.scores.mean() > never.scores.mean() + 0.1
    # the figures are those of full masks under what was chosen without each image's fold
    for outcome in (by_area, without):
        for i, truth in enumerate(truths):
            chosen = outcome.without[int(oof.fold[i])]
            stores = oof.stores if outcome is without else [oof.stores[0]] * 2
            mask = np.mean([store.head(oof.images[i]) for store in stores], axis=0) > chosen.threshold
            mask = apply_kept(mask, chosen.repairs)
            says = oof.stores[1].head(oof.images[i], "presence").mean()
            if chosen.gate is not None and says <= chosen.gate.threshold:
                mask = np.zeros_like(mask)
            assert outcome.scores[i] == pytest.approx(naive.mean_precision(mask, truth), abs=1e-12)


def test_a_gated_blend_empties_mask_row_and_logits_alike() -> None:
    plane = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    gated = Blend((), (1.0,), frames=(Frame(SIZE),), gate=Gate(0.5, (0,)))
    for said, empty in ((0.5, True), (0.6, False)):
        assert gated.mask([plane], SIZE, said=[said]).any() != empty
        assert (gated.row([plane], SIZE, "column", said=[said]) == b"") == empty
        np.testing.assert_array_equal(
            gated.logits([plane], SIZE, said=[said]) > 0, gated.mask([plane], SIZE, said=[said])
        )
    for nothing in ([], [None]):
        with pytest.raises(ValueError, match="say of the image as a whole"):
            gated.mask([plane], SIZE, said=nothing)


def test_a_network_that_says_whether_there_is_anything_is_trained_stored_and_scored(
    tmp_path: Path, ellipses: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = replace(COMPETITIONS["carvana"], targets=("mask", "presence"), metric="mean_precision", empty_masks=True)
    monkeypatch.setitem(COMPETITIONS, "carvana", facts)
    for path in sorted((ellipses / facts.masks_dir).iterdir())[::4]:
        write_mask(path, np.zeros(facts.size, bool))
    training = find_training_set(facts, ellipses)
    root = tmp_path / "runs" / "carvana"
    variant = replace(DROPPING, name="saying", heads=HEADS)
    truths = load_truths(variant, training, root / "cache", jobs=1)
    areas = np.array([truths["mask"].of(i)[:, 1].sum() for i in range(len(training.names))])
    table = find_or_make(root / "folds.csv", training, areas, own=None, folds=2)
    recipe = replace(RECIPES["demo"], name="q", epochs=2, batch=4, patience=1, loss="lovasz", monitor="val_dice")
    for task in task_list.make_tasks(variant, recipe, [0], training, table, root, 0, 0, 1, None):
        manifest = run_fold(replace(task, threads=1, bar=False))
    assert 0 <= manifest["mean_precision"] <= 1 and 0 <= manifest["last_mean_precision"] <= 1
    assert "dice" not in manifest
    with (root / "saying" / "fold0" / "metrics.csv").open() as file:
        columns = next(csv.reader(file))
    assert columns[2:] == ["train_loss", "val_loss", "val_mean_precision", "val_presence_accuracy"]
    store = LogitStore.open(root / "saying" / "oof.zarr")
    held_out = [training.names[i] for i in np.flatnonzero(table["fold"].to_numpy() == 0)]
    for name in held_out:
        plane = store.head(name, "presence")
        assert plane.shape == variant.size and np.ptp(plane) < 1e-2


def test_heads_of_whole_images_are_refused_where_they_cannot_be() -> None:
    for variant, words in (
        (replace(SAYING, heads=HEADS[::-1]), "must have the head 'presence' last"),
        (replace(SAYING, heads=HEADS[1:]), "must have the head 'presence' last"),
        (replace(TINY, heads=HEADS), "tiny cannot have the head 'presence'; networks that can: smp, folded-unet"),
    ):
        with pytest.raises(UserError, match=words):
            build(variant, pretrained=False)


@pytest.mark.parametrize("variant", [SAYING, VARIANTS["folded-unet-small-128"]], ids=lambda variant: variant.network)
def test_what_a_network_says_of_the_whole_image_is_a_plane_of_one_value(variant: Variant) -> None:
    network = build(variant, pretrained=False).eval()
    with torch.inference_mode():
        planes = network(torch.randn(2, variant.in_channels, *variant.size))
    assert planes.shape == (2, 2, *variant.size)
    assert (planes[:, 1] == planes[:, 1, :1, :1]).all() and (planes[0, 1] != planes[1, 1]).all()


def test_a_submission_and_masks_of_a_gated_blend_are_the_same_stored_streamed_and_predicted(tmp_path: Path) -> None:
    studio = COMPETITIONS["studio"]
    data, root = tmp_path / "data", tmp_path / "runs" / "studio"
    names = [f"0000000000{car:02}_0{view}.jpg" for car in range(2) for view in range(1, 4)]
    for k, name in enumerate(names):
        write_photograph(data / "test" / name, *studio.size, seed=k)
    (data / "sample_submission.csv").write_text("img,rle_mask\n" + "".join(f"{name},1 1\n" for name in names))
    members = [save_member(root, AVERAGE), save_member(root, SAYING)]
    presence = {"threshold": 0.0, "members": [SAYING.name]}

    def submit(threshold: float, *, stream: bool) -> list[str]:
        save_blend(root, members, [0.6, 0.4], presence=presence | {"threshold": threshold})
        make.main(competition="studio", data=data, runs=root.parent, jobs=1, stream=stream, restart=True)
        text = gzip.decompress((root / "blend" / "submission.csv.gz").read_bytes()).decode()
        return [line.split(",")[1] for line in text.splitlines()[1:]]

    submit(0.0, stream=False)
    store = LogitStore.open(members[1].folder / "test.zarr")
    says = [float(store.head(name, "presence").mean(dtype=np.float64)) for name in names]
    middle = float(np.median(says))
    stored, streamed = submit(middle, stream=False), submit(middle, stream=True)
    assert stored == streamed
    assert [row == "" for row in stored] == [said <= middle for said in says] and 0 < stored.count("") < 6
    blend = find_blend(root, "blend")
    assert blend.gate == Gate(middle, (1,)) and blend.state()["presence"]["members"] == [SAYING.name]
    mask_photographs(data / "test", tmp_path / "masks", competition="studio", runs=root.parent, batch=6)
    for name, row in zip(names, stored, strict=True):
        mask = cv2.imread(str(tmp_path / "masks" / name.replace(".jpg", "_mask.png")), cv2.IMREAD_GRAYSCALE)
        assert mask is not None and bool(mask.any()) == bool(row)
