"""A boundary refiner of a blend: applied where it is kept, and refused where it belongs to other logits."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from command_line import UserError
from competition import COMPETITIONS
from ensemble import photographs
from ensemble.blend import find_blend
from ensemble.blend_file import read_blend
from ensemble.blend_table import table_lines
from ensemble.boundary_file import coarse_digest, entries_of
from ensemble.stored_masks import StoredMasks
from folds.run_layout import TEST_STORE
from folds.store import LogitStore
from models.frame import Frame
from submit import make
from tests import naive
from tests.synthetic_runs import AVERAGE, UNET, save_blend, save_member, save_refiner, write_photograph

FULL = (79, 121)
NAMES = [f"00000000000{k}_01.jpg" for k in range(3)]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    small = replace(COMPETITIONS["studio"], name="studio", size=FULL, test_masks_dir=None)
    monkeypatch.setitem(COMPETITIONS, "studio", small)
    root = tmp_path / "runs" / "studio"
    members = [save_member(root, each, frame_version=Frame(each.size).version(FULL)) for each in (AVERAGE, UNET)]
    save_blend(root, members, [0.4, 0.6], threshold=0.1, postprocess_kept=[["fill-holes", 100]])
    for k, name in enumerate(NAMES):
        write_photograph(tmp_path / "data" / "test" / name, *FULL, seed=k)
    return root


def submitted(root: Path, *, stream: bool) -> bytes:
    base = root.parent.parent
    images = base / "data" / "test"
    make.main(
        competition="studio", data=base / "data", runs=base / "runs", images=images, stream=stream, restart=True, jobs=1
    )
    return gzip.decompress((root / "blend" / "submission.csv.gz").read_bytes())


def test_a_kept_refiner_is_used_on_every_way_to_a_mask(root: Path) -> None:
    folder = root.parent.parent / "data" / "test"
    plain = submitted(root, stream=True)
    save_refiner(root / "blend", FULL)
    blend = find_blend(root, "blend")
    assert [refiner.label.split()[0] for refiner in blend.refiners] == ["boundary"]
    assert any("the refiner gains +0.010000: kept" in line for line in table_lines(read_blend(root / "blend")))
    stored = submitted(root, stream=False)
    assert stored == submitted(root, stream=True) != plain
    lines = list(csv.reader(stored.decode().splitlines()))[1:]
    rows = {name: naive.decode(naive.parse(text), FULL) for name, text in lines}
    photographs.main(images=folder, out=root / "out", competition="studio", runs=root.parent)
    masks = StoredMasks(blend, [LogitStore.open(m.folder / TEST_STORE) for m in blend.members], FULL, folder)
    for name in NAMES:
        photograph = cv2.imread(str(root / "out" / f"{Path(name).stem}_mask.png"), cv2.IMREAD_GRAYSCALE)
        assert photograph is not None
        for mask in (photograph > 0, masks.mask(name, masks.planes(name))):
            np.testing.assert_array_equal(mask, rows[name].astype(bool))


@pytest.mark.parametrize("way", ["not kept", "untrained", "removed"])
def test_without_one_that_is_kept_the_rows_are_as_before(root: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = submitted(root, stream=True)
    before = (root / "blend" / "blend.json").read_bytes()
    save_refiner(root / "blend", FULL, kept=way != "not kept", trained=way != "untrained")
    if way == "removed":
        (root / "blend" / "blend.json").write_bytes(before)
    if way != "untrained":
        # no code of it is run
        monkeypatch.setattr("ensemble.boundary_file.build", None)
        assert find_blend(root, "blend").state() == {**find_blend(root, "blend").state(), "threshold": 0.1}
        assert "refiners" not in find_blend(root, "blend").state()
    assert submitted(root, stream=True) == plain


def _edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_edit("blend.json", threshold=0.2), "learned from other logits than the blend's are now: make refine"),
        (_edit("blend.json", weights=[0.5, 0.5]), "learned from other logits"),
        (_edit("blend.json", chosen_without={"0": {"kind": "greedy", "weights": {}}}), "learned from other logits"),
        (_edit("blend.json", refiners=[{"name": "boundary", "digest": "00"}]), "not of the refiner that the blend"),
        (_edit("refiner/refiner.json", weights_digests=["00", "00"]), "not of the refiner that the blend"),
        (_edit("refiner/refiner.json", kept="yes"), r"refiner.json is damaged \(kept is 'yes', expected"),
        (lambda folder: (folder / "refiner/refiner.json").unlink(), "refiner.json is missing: put it back, or"),
        (
            lambda folder: (folder / "refiner/fold1/weights.safetensors").unlink(),
            "fold1/weights.safetensors is missing",
        ),
        (lambda folder: (folder / "refiner/fold1/weights.safetensors").write_bytes(b"abc"), "is damaged, or not of"),
    ],
)
def test_a_refiner_of_other_logits_or_a_damaged_one_is_refused(
    root: Path, spoil: Callable[[Path], None], says: str
) -> None:
    save_refiner(root / "blend", FULL)
    spoil(root / "blend")
    with pytest.raises(UserError, match=says) as error:
        find_blend(root, "blend")
    assert str(error.value).count(". ") == 0


def test_a_fit_of_the_same_blend_keeps_its_refiner_and_another_does_not(root: Path) -> None:
    folder = root / "blend"
    save_refiner(folder, FULL)
    told = json.loads((folder / "blend.json").read_text())
    fitted = {key: value for key, value in told.items() if key not in ("refiners", "refiner_fit")}
    assert {**fitted, **entries_of(folder, fitted)} == told
    assert coarse_digest(fitted) == coarse_digest(told)
    others: tuple[dict[str, Any], ...] = (
        {"threshold": 0.3},
        {"postprocess_kept": []},
        {"data_digest": "e"},
        {"presence": {"threshold": 0}},
    )
    for other in others:
        assert entries_of(folder, {**fitted, **other}) == {}
