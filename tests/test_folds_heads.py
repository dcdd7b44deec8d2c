"""A further head is one registry entry and a line in competition.py: trained, scored, stored and predicted by name."""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import UserError
from competition import COMPETITIONS, Size
from folds import heads, task_list
from folds.fold import run_fold
from folds.heads import HeadRule, check_heads
from folds.images import TrainingSet, find_training_set, read_mask
from folds.plan import check_plan
from folds.split import find_or_make
from folds.store import LogitStore
from folds.truth import load_truth
from models.frame import Frame, frame_of
from models.losses import LOSSES
from models.network_input import normalise
from models.variant import Head
from models.variants import VARIANTS
from predict.members import find_members
from predict.predictor import predict
from tests.tiny_folds import QUICK, TINY

CARVANA = COMPETITIONS["carvana"]
TWO_HEADS = replace(TINY, name="two", heads=(Head("mask"), Head("depth")), tta=("hflip",))


@dataclass(frozen=True)
class _Depths:
    """Of every image, a depth that falls from left to right inside the mask, and is 1 outside it."""

    training: TrainingSet

    def of(self, position: int) -> np.ndarray:
        full = self.training.competition.size
        mask = read_mask(self.training.mask_path(self.training.names[position]), full)
        return np.where(mask, np.linspace(1, 0, full[1], dtype=np.float32), np.float32(1))


def _rmse(logits: np.ndarray, frame: Frame, truth: np.ndarray, full: Size) -> float:
    predicted = 1 / (1 + np.exp(-frame.invert(logits, full)))
    return float(np.sqrt(np.mean((predicted - truth) ** 2)))


DEPTH = HeadRule(
    metric="depth_rmse",
    load=lambda training, cache, jobs: _Depths(training),
    target=lambda depth, frame, full: np.rint(frame.apply(depth) * 255).astype(np.uint8),
    score=_rmse,
)


@pytest.fixture
def depth_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(heads.HEADS, "depth", DEPTH)
    monkeypatch.setitem(COMPETITIONS, "carvana", replace(CARVANA, targets=("mask", "depth")))


def test_a_network_with_two_heads_is_trained_scored_stored_and_predicted_by_name(
    depth_head: None, ellipses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def l1(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append((tuple(logits.shape), float(target.min()), float(target.max())))
        return (logits.sigmoid() - target).abs().mean()

    monkeypatch.setitem(LOSSES, "l1", l1)
    facts = COMPETITIONS["carvana"]
    recipe = replace(QUICK, losses={"depth": "l1"}, loss_weights={"depth": 0.5})
    check_plan(TWO_HEADS, recipe, facts)
    training = find_training_set(facts, ellipses)
    root = tmp_path / "runs" / "carvana"
    table = find_or_make(
        root / "folds.csv", training, load_truth(training, root / "cache", jobs=1).areas_px, own=None, folds=2
    )
    for task in task_list.make_tasks(TWO_HEADS, recipe, [0, 1], training, table, root, 0, 0, 1, None):
        manifest = run_fold(replace(task, threads=1, bar=False))
    assert json.loads(json.dumps(manifest))["recipe"]["losses"] == {"depth": "l1"}
    # the loss of depth saw one plane, of depth
    assert {shape[1] for shape, _, _ in seen} == {1}
    assert max(high for _, _, high in seen) == 1 and 0 < min(low for _, low, _ in seen) < 0.9
    with (root / "two" / "fold0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"val_dice", "val_depth_rmse"} <= set(rows[0])
    assert 0 < float(rows[-1]["val_depth_rmse"]) < 1
    store = LogitStore.open(root / "two" / "oof.zarr")
    assert store.shape == (2, *TWO_HEADS.size) and not store.missing()
    member = find_members(root, ["two"], 2)[0]
    test = predict(member, training.names, ellipses / "train", facts.size, batch=4)
    for name in training.names:
        for head in ("mask", "depth"):
            assert store.head(name, head).shape == test.head(name, head).shape == TWO_HEADS.size
    # what validation logged is what the stored depth scores, but for the flip and the store's rounding
    held_out = np.flatnonzero(table["fold"].to_numpy() == 0)
    frame = frame_of(TWO_HEADS)
    stored = [
        _rmse(store.head(training.names[i], "depth"), frame, _Depths(training).of(int(i)), facts.size) for i in held_out
    ]
    assert np.mean(stored) == pytest.approx(min(float(row["val_depth_rmse"]) for row in rows), abs=0.1)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("competition", COMPETITIONS.values(), ids=COMPETITIONS)
def test_every_variant_suits_every_competition_of_its_channels(name: str, competition) -> None:
    variant = VARIANTS[name]
    known = {head.name for head in variant.heads} <= set(competition.targets)
    if known and variant.in_channels in (1, competition.channels):
        check_heads(variant, competition)
    else:
        with pytest.raises(UserError, match=r"choose (another variant|a variant)"):
            check_heads(variant, competition)


def test_what_data_cannot_train_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for variant, recipe, words in (
        (replace(TINY, heads=(Head("mask"), Head("scent"))), QUICK, r"head 'scent'; known: mask, "),
        (replace(TINY, in_channels=6), QUICK, "takes 6 channels, and an image of carvana has 3"),
        (TINY, replace(QUICK, losses={"depth": "bce"}), "a loss for the head 'depth', and tiny has mask"),
        (TINY, replace(QUICK, losses={"mask": "xyz"}), "unknown loss 'xyz'"),
    ):
        with pytest.raises(UserError, match=words):
            check_plan(variant, recipe, CARVANA)
    monkeypatch.setitem(heads.HEADS, "depth", DEPTH)
    with pytest.raises(UserError, match="carvana has truth for mask alone"):
        check_plan(TWO_HEADS, QUICK, replace(CARVANA, targets=("mask",)))
    depth_alone = replace(TWO_HEADS, heads=(Head("depth"),))
    with pytest.raises(UserError, match="has no head 'mask', by whose score"):
        check_plan(depth_alone, QUICK, replace(CARVANA, targets=("mask", "depth")))


def test_grey_and_stacked_inputs_are_normalised_by_the_variants_own_channels() -> None:
    rng = np.random.default_rng(0)
    colours = torch.from_numpy(rng.integers(0, 256, (2, 4, 6, 6), np.uint8))
    rgb = normalise(colours[..., :3].contiguous(), TINY)
    stacked = normalise(colours, replace(TINY, in_channels=6))
    torch.testing.assert_close(stacked[:, :3], rgb)
    torch.testing.assert_close(stacked[:, 3:], normalise(colours[..., 3:].contiguous(), TINY))
    plain = replace(TINY, in_channels=1, mean=(0.5,), std=(0.25,))
    grey = normalise(colours[..., :3].contiguous(), plain)
    assert grey.shape == (2, 1, 4, 6)
    luma = (colours[..., :3].double() * torch.tensor([0.299, 0.587, 0.114]).double()).sum(-1)
    torch.testing.assert_close(grey[:, 0], ((luma / 255 - 0.5) / 0.25).float(), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="4 values for 6 channels"):
        normalise(colours, replace(TINY, in_channels=6, mean=(0.0,) * 4))
