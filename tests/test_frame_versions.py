"""What was made from inputs of an older geometry never meets the present one."""

import json
from pathlib import Path

import numpy as np
import pytest

from command_line import UserError
from competition import COMPETITIONS, Size
from folds.derived import derive
from folds.images import find_training_set
from folds.inputs import load_inputs
from folds.store import LogitStore
from folds.task import check_frame
from folds.truth import load_truth
from models.frame import Frame
from models.variant import Variant
from models.variants import VARIANTS
from predict.members import find_members
from tests.synthetic_runs import UNET, save_member


def _was_shifted(variant: Variant, full: Size) -> bool:
    """Whether an older version gave the network shifted images: reduced by a codec to parts of sides that they do not
    divide."""
    if variant.fit != "resize":
        return False
    fits = [all(part * own <= side for own, side in zip(variant.size, full, strict=True)) for part in (2, 4, 8)]
    part = 2 ** sum(fits)
    return any(side % part for side in full)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("competition", COMPETITIONS.values(), ids=COMPETITIONS)
def test_a_manifest_without_a_version_is_good_only_where_the_geometry_never_changed(
    variant: Variant, competition, tmp_path: Path
) -> None:
    moved = _was_shifted(variant, competition.size)
    check_frame({"frame_version": 1 + moved}, tmp_path / "fold0", variant, competition.size)
    if not moved:
        check_frame({}, tmp_path / "fold0", variant, competition.size)
    else:
        with pytest.raises(UserError, match=f"remove {tmp_path} and train {variant.name} again"):
            check_frame({}, tmp_path / "fold0", variant, competition.size)


def test_a_member_of_an_older_geometry_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "carvana"
    save_member(root, UNET)
    path = root / UNET.name / "fold1" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["frame_version"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"fold1 was trained on images that an older version reduced"):
        find_members(root, [UNET.name], 2)


def test_a_store_of_an_older_geometry_is_refused(tmp_path: Path) -> None:
    facts = tmp_path / "oof.zarr", ["a.jpg"], (1, 8, 8)
    LogitStore.create(*facts, variant="x")
    LogitStore.create(*facts, variant="x", frame_version=1)
    with pytest.raises(UserError, match=r"other version of the way from images to inputs \(1, now 2\)"):
        LogitStore.create(*facts, variant="x", frame_version=2)


def test_cached_inputs_of_an_older_geometry_are_not_used(ellipses: Path, tmp_path: Path) -> None:
    training = find_training_set(COMPETITIONS["carvana"], ellipses)
    known = load_truth(training, tmp_path, jobs=1)
    for frame, good in ((Frame((125, 187)), False), (Frame((320, 480)), True)):
        old = tmp_path / training.digest / f"resize-{frame.size[0]}x{frame.size[1]}"

        def fill(folder: Path, size: Size = frame.size) -> None:
            np.save(folder / "images.npy", np.zeros((12, *size, 3), np.uint8))
            np.save(folder / "masks.npy", np.zeros((12, *size), np.uint8))

        derive(old, fill)
        found = load_inputs(training, frame, {"mask": known}, tmp_path, jobs=1)
        is_old = not found.image(0).any()
        assert is_old == good
