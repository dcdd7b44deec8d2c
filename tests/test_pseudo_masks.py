"""A pseudo-label is the mask of the blend, whatever it does: votes, boosted pixels, a threshold, repairs, presence."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from command_line import UserError
from competition import COMPETITIONS
from ensemble.blend import find_blend
from ensemble.blend_file import PIXELS_VOTE
from ensemble.labelling import blends_of
from ensemble.selection import VOTING_WAYS
from ensemble.voting import LINEAR, VOTES
from folds.pseudo_set import ALL_FOLDS, LabelStore, PseudoSet, soft_label
from folds.store import LogitStore
from models.frame import Frame
from models.variant import Head
from report import pseudo
from submit import make
from tests import naive
from tests.conftest import write_mask
from tests.synthetic_runs import AVERAGE, UNET, save_blend, save_member, save_pixels, write_photograph

FULL = (61, 83)
SMALL = replace(COMPETITIONS["studio"], size=FULL, test_masks_dir=None)
HEADS = (Head("mask"), Head("presence"))
SAYING = replace(UNET, name="tiny-saying", heads=HEADS)
TRAIN = [f"00000000000{car}_01.jpg" for car in range(4)]
TEST = [f"00000000001{k}_01.jpg" for k in range(5)]
WEIGHTS = [0.45, 0.55]
REPAIRS = [["fill-holes", 100], ["drop-islands", 10]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, list[Any]]]:
    """A folder of data, a runs folder, and two members with out-of-fold logits of noise, one of which has presence."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COMPETITIONS, "studio", SMALL)
        base = tmp_path_factory.mktemp("masks")
        data, runs = base / "data", base / "runs"
        root = runs / "studio"
        rng = np.random.default_rng(1)
        for folder, names in (("train", TRAIN), ("test", TEST)):
            for k, name in enumerate(names):
                write_photograph(data / folder / name, *FULL, seed=10 * len(folder) + k)
        (data / "sample_submission.csv").write_text("img,rle_mask\n" + "".join(f"{name},1 1\n" for name in TEST))
        (data / SMALL.masks_dir).mkdir(parents=True)
        for k, name in enumerate(TRAIN):
            mask = np.zeros(FULL, np.uint8)
            cv2.circle(mask, (30 + 3 * k, 30), 17 + k, 1, -1)
            write_mask(data / SMALL.masks_dir / SMALL.mask_name(name), mask.astype(bool))
        members = [save_member(root, v, frame_version=Frame(v.size).version(FULL)) for v in (AVERAGE, SAYING)]
        for member in members:
            planes = member.variant.out_channels
            store = LogitStore.create(
                member.folder / "oof.zarr", TRAIN, (planes, *member.variant.size), **member.variant.head_attributes()
            )
            for name in TRAIN:
                spots = cv2.resize(rng.normal(scale=3, size=(5, 7)).astype(np.float32), member.variant.size[::-1])
                store.write(name, np.stack([spots] * planes))
        save_blend(root, members, WEIGHTS)
        make.main(competition="studio", data=data, runs=runs, jobs=1)
        yield data, runs, members


def write_scores(root: Path) -> None:
    table = {"image": TRAIN, "group": TRAIN, "fold": [0, 1, 0, 1], "nested": [0.9, 0.8, 0.7, 0.6]}
    pd.DataFrame(table).to_csv(root / "blend" / "oof_dice.csv", index=False)


def test_labels_keep_the_sign_of_every_logit_and_all_256_are_stored_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    logits = np.concatenate([rng.normal(scale=s, size=5000) for s in (1e-4, 0.1, 5, 40)]).astype(np.float32)
    assert np.array_equal(soft_label(logits) > 127, logits > 0)
    assert np.abs(soft_label(logits) - 255 / (1 + np.exp(-logits.astype(float)))).max() <= 1
    every = np.log(np.arange(1, 255) / np.arange(254, 0, -1)).astype(np.float32)
    plane = np.concatenate([[-99], every, [99]]).astype(np.float32).reshape(1, 256)
    store = LabelStore.create(tmp_path / "labels.zarr", ["a"], (1, 256))
    store.write("a", plane)
    assert LabelStore.open(tmp_path / "labels.zarr").soft("a").tolist() == [list(range(256))]


@pytest.mark.parametrize("vote", [LINEAR.label, *VOTES, PIXELS_VOTE])
@pytest.mark.parametrize("further", ["plain", "everything"])
def test_labels_are_the_masks_that_the_submission_has(
    made: tuple[Path, Path, list[Any]], vote: str, further: str
) -> None:
    data, runs, members = made
    root = runs / "studio"
    entries: dict[str, Any] = {"vote": vote}
    if vote in VOTES:
        entries["kind"] = next(way for way, (_, its_vote) in VOTING_WAYS.items() if its_vote == vote)
    if vote == PIXELS_VOTE:
        entries |= {"kind": vote, "stacker_digest": save_pixels(root, members, FULL).digest()}
    threshold = 0.0
    if further == "everything":
        store = LogitStore.open(members[1].folder / "test.zarr")
        middle = float(np.median([store.head(name, "presence").mean(dtype=np.float64) for name in TEST]))
        entries |= {"postprocess_kept": REPAIRS, "presence": {"threshold": middle, "members": [SAYING.name]}}
        threshold = 0.3 if vote == LINEAR.label else 0.0
    save_blend(root, members, WEIGHTS, threshold, **entries)
    make.main(competition="studio", data=data, runs=runs, jobs=1, restart=True)
    write_scores(root)
    with gzip.open(root / "blend" / "submission.csv.gz", "rt") as file:
        wanted = {name: naive.decode(naive.parse(text), FULL) for name, text in list(csv.reader(file))[1:]}
    home = root / "blend" / f"{vote}-{further}"
    pseudo.main(competition="studio", data=data, runs=runs, jobs=1, least=0.0, out=home.name)
    found = PseudoSet.read(home, SMALL)
    assert found.taken == {ALL_FOLDS: tuple(TEST)}
    labels = found.labels(ALL_FOLDS)
    areas = pd.read_csv(home / "pseudo.csv")["area"]
    for name, area in zip(TEST, areas, strict=True):
        np.testing.assert_array_equal(labels.soft(name) > 127, wanted[name].astype(bool))
        assert area == pytest.approx(wanted[name].mean(), abs=1e-6)
    assert any(mask.any() for mask in wanted.values())
    assert (further == "everything") == any(not mask.any() for mask in wanted.values())
    # what made them is said
    record = json.loads((home / "pseudo.json").read_text())
    assert record["makers"] == [{"fold": ALL_FOLDS, "blend": json.loads(json.dumps(find_blend(root, "blend").state()))}]


def test_a_fold_is_labelled_by_what_was_chosen_without_it(made: tuple[Path, Path, list[Any]]) -> None:
    """By another vote, other weights and other repairs than the blend's; and the logits are the out-of-fold ones."""
    data, runs, members = made
    root = runs / "studio"
    own = dict(zip((m.name for m in members), WEIGHTS, strict=True))
    without = {
        "0": {"kind": "weighted-geometric", "weights": own, "threshold": 0.0, "postprocess_kept": REPAIRS[1:]},
        "1": {"kind": "best-single", "weights": {SAYING.name: 1.0}, "threshold": 0.4, "postprocess_kept": []},
    }
    save_blend(root, members, WEIGHTS, vote="majority", kind="majority", chosen_without=without)
    write_scores(root)
    pseudo.main(competition="studio", data=data, runs=runs, jobs=1, distil=True)
    found = PseudoSet.read(root / "blend" / "distilled", SMALL)
    assert found.taken == {0: (TRAIN[0], TRAIN[2]), 1: (TRAIN[1], TRAIN[3])}
    for fold, names in found.taken.items():
        for name in names:
            planes = [naive.bilinear(LogitStore.open(m.folder / "oof.zarr").head(name), FULL) for m in members]
            if fold == 1:
                wanted = planes[1] > 0.4
            else:
                log = sum(-w * np.logaddexp(0, -plane) for w, plane in zip(WEIGHTS, planes, strict=True))
                wanted = naive_islands(np.asarray(log) > np.log(0.5), 10)
            differing = (found.labels(fold).soft(name) > 127) != wanted
            assert differing.mean() < 1e-3


def naive_islands(mask: np.ndarray, under_px: int) -> np.ndarray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    largest = max(range(1, count), key=lambda k: stats[k, cv2.CC_STAT_AREA], default=0)
    keep = [k for k in range(1, count) if k == largest or stats[k, cv2.CC_STAT_AREA] >= under_px]
    return np.isin(labels, keep)


def test_a_fold_is_not_labelled_by_boosted_pixels_that_know_it(made: tuple[Path, Path, list[Any]]) -> None:
    data, runs, members = made
    root = runs / "studio"
    boosted = save_pixels(root, members, FULL)
    save_blend(root, members, WEIGHTS, vote=PIXELS_VOTE, kind=PIXELS_VOTE, stacker_digest=boosted.digest())
    write_scores(root)
    for own_fold in (True, False):
        with pytest.raises(SystemExit, match=r"leave out --own-fold and --distil, or .*make fit .*--no-pixels"):
            pseudo.main(
                competition="studio", data=data, runs=runs, jobs=1, least=0.0, own_fold=own_fold, distil=not own_fold
            )
    fitted = json.loads((root / "blend" / "blend.json").read_text())
    for labels in ("own-fold", "out-of-fold"):
        with pytest.raises(UserError, match="fitted on all folds alone"):
            blends_of(root / "blend", fitted, members, [0, 1], labels)
