"""A blend gives one answer, however it is asked: logits, mask, row; and a refiner is one registry entry."""

import csv
import gzip
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest

from command_line import UserError
from competition import COMPETITIONS, Order, Size
from ensemble import blend as blends
from ensemble.blend import Blend, find_blend
from ensemble.stored_masks import StoredMasks
from ensemble.voting import LINEAR, VOTES, combination_of
from folds.run_layout import TEST_STORE
from folds.store import LogitStore
from models.frame import Frame
from tests import naive, naive_ensemble
from tests.synthetic_runs import AVERAGE, UNET, save_blend, save_member, write_photograph

FULL = (79, 121)


@dataclass(frozen=True)
class Redder:
    """Takes for foreground what is red in the image at full size, in the right half alone."""

    label: str = "redder 1"

    def image_frame(self, full: Size) -> Frame | None:
        return Frame(full)

    def __call__(self, logits: np.ndarray, image: np.ndarray | None) -> np.ndarray:
        assert image is not None and image.shape[:2] == logits.shape
        refined = logits.copy()
        half = logits.shape[1] // 2
        refined[:, half:] = np.where(image[:, half:, 0] > 127, np.float32(2), np.float32(-2))
        return refined


@pytest.fixture
def members(tmp_path: Path) -> tuple:
    return save_member(tmp_path, AVERAGE), save_member(tmp_path, UNET)


@pytest.mark.parametrize("label", [LINEAR.label, *VOTES])
def test_logits_mask_and_row_are_of_one_mind(label: str, members: tuple) -> None:
    rng = np.random.default_rng(0)
    planes = [cv2.resize(rng.normal(size=(9, 11)).astype(np.float32), m.frame.size[::-1]) * 3 for m in members]
    images = {Frame(FULL): rng.integers(0, 256, (*FULL, 3), np.uint8)}
    full = [naive.bilinear(plane, FULL) for plane in planes]
    masks = []
    for threshold, refiners, repairs in itertools.product(
        (0.0, 0.25), ((), (Redder(),)), ((), (("fill-holes", 1000), ("drop-islands", 100)))
    ):
        blend = Blend(members, (0.3, 0.7), combination_of(label), threshold, refiners, repairs)
        assert blend.image_frames(FULL) == (() if not refiners else (Frame(FULL),))
        before = [plane.copy() for plane in planes]
        mask = blend.mask(planes, FULL, images)
        assert mask.dtype == bool and mask.shape == FULL
        np.testing.assert_array_equal(blend.logits(planes, FULL, images) > 0, mask)
        for order in get_args(Order):
            text = blend.row(planes, FULL, order, images).decode()
            np.testing.assert_array_equal(naive.decode(naive.parse(text), FULL, order), mask)
        assert all(np.array_equal(plane, was) for plane, was in zip(planes, before, strict=True))
        expected = naive_ensemble.combined(label, full, (0.3, 0.7)) - threshold
        for refiner in refiners:
            expected = refiner(expected, images[Frame(FULL)])
        # elsewhere the last bits decide
        sure = np.abs(expected) > 1e-4
        assert sure.mean() > 0.999
        unrepaired = replace(blend, repairs=()).mask(planes, FULL, images)
        np.testing.assert_array_equal(unrepaired[sure], (expected > 0)[sure])
        np.testing.assert_array_equal(mask, naive_ensemble.repaired(unrepaired, repairs))
        masks.append((mask.tobytes(), repr(blend.state())))
    assert len({state for _, state in masks}) == len(masks)
    # a majority is the same at any threshold
    assert len({mask for mask, _ in masks}) >= 3


def test_a_needed_image_that_is_not_given_is_an_error(members: tuple) -> None:
    blend = Blend(members, (0.5, 0.5), refiners=(Redder(),))
    planes = [np.zeros(member.frame.size, np.float32) for member in members]
    with pytest.raises(ValueError, match="needs the image"):
        blend.mask(planes, FULL)


def test_a_refiner_is_found_by_its_name_and_used_on_every_way_to_a_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensemble import photographs
    from submit import make

    loaded: list[tuple[Path, dict[str, Any]]] = []

    def load(folder: Path, entry: dict[str, Any]) -> Redder:
        loaded.append((folder, entry))
        return Redder(f"redder {entry['digest']}")

    small = replace(COMPETITIONS["studio"], name="studio", size=FULL, test_masks_dir=None)
    monkeypatch.setitem(COMPETITIONS, "studio", small)
    root = tmp_path / "runs" / "studio"
    members = [save_member(root, AVERAGE, frame_version=Frame(AVERAGE.size).version(FULL))]
    members.append(save_member(root, UNET, frame_version=Frame(UNET.size).version(FULL)))
    entry = {"name": "redder", "digest": "abc"}
    save_blend(root, members, [0.4, 0.6], threshold=0.1, refiners=[entry])
    with pytest.raises(UserError, match="names the refiner 'redder'; known: "):
        find_blend(root, "blend")
    monkeypatch.setitem(blends.REFINERS, "redder", load)
    names = [f"00000000000{k}_01.jpg" for k in range(3)]
    for k, name in enumerate(names):
        write_photograph(tmp_path / "data" / "test" / name, *FULL, seed=k)

    folder = tmp_path / "data" / "test"
    rows = {}
    for stream in (False, True):
        make.main(
            competition="studio", data=tmp_path / "data", runs=tmp_path / "runs", images=folder, stream=stream,
            restart=True, jobs=1,
        )  # fmt: skip
        with gzip.open(root / "blend" / "submission.csv.gz", "rt") as file:
            rows[stream] = {name: naive.decode(naive.parse(text), FULL) for name, text in list(csv.reader(file))[1:]}
    photographs.main(images=folder, out=tmp_path / "out", competition="studio", runs=tmp_path / "runs")
    blend = find_blend(root, "blend")
    assert loaded[-1] == (root / "blend", entry)
    assert blend.state()["refiners"] == ["redder abc"]
    stored = StoredMasks(blend, [LogitStore.open(m.folder / TEST_STORE) for m in blend.members], FULL, folder)
    half = FULL[1] // 2
    for name in names:
        red = Frame(FULL).load(folder / name)[0][:, half:, 0] > 127
        assert 0 < red.mean() < 1
        photograph = cv2.imread(str(tmp_path / "out" / f"{Path(name).stem}_mask.png"), cv2.IMREAD_GRAYSCALE)
        assert photograph is not None
        for mask in (rows[False][name], rows[True][name], photograph > 0, stored.mask(name, stored.planes(name))):
            np.testing.assert_array_equal(mask[:, half:].astype(bool), red)
