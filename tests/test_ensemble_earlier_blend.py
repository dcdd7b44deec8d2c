"""A fit says what it leaves out, and never replaces a better blend without a word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from command_line import UserError
from ensemble import fit
from ensemble.blend_file import BLEND
from folds.run_layout import MANIFEST_FILE, OOF_STORE
from folds.store import LogitStore
from folds.train import main as train
from models.variant import VARIANT_FILE
from tests.conftest import write_ellipses
from tests.synthetic_runs import forget_logits_digests

OTHER = "unet-mobilenetv3"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A competition and its runs: two networks of three folds, the second of them the better one, and their blend."""
    base = tmp_path_factory.mktemp("earlier")
    data, runs = write_ellipses(base / "data"), base / "runs"
    train("carvana", "average-mask", data=data, runs=runs, folds=3, jobs=1)
    root = runs / "carvana"
    shutil.copytree(root / "average-mask", root / OTHER)
    for path in [*(root / OTHER).glob(f"fold*/{MANIFEST_FILE}"), *(root / OTHER).glob(f"fold*/{VARIANT_FILE}")]:
        content = json.loads(path.read_text())
        (content["variant"] if path.name == MANIFEST_FILE else content)["name"] = OTHER
        path.write_text(json.dumps(content))
    forget_logits_digests(root)
    worse = LogitStore.open(root / "average-mask" / OOF_STORE)
    for name in worse.names:
        planes = worse.read(name)
        planes[:, : planes.shape[1] // 8] = np.abs(planes[:, : planes.shape[1] // 8]) + 1
        worse.write(name, planes)
    fit.main(data=data, runs=runs, jobs=1, repairs="off")
    return data, runs


def test_a_fit_of_all_never_loses_a_network_without_a_word(
    made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, runs = made
    blend, manifest = runs / "carvana" / "blend" / "blend.json", runs / "carvana" / OTHER / "fold1" / MANIFEST_FILE
    before, finished = blend.read_bytes(), manifest.read_bytes()
    assert set(json.loads(before)["member_cv"]) == {"average-mask", OTHER}

    manifest.unlink()
    with pytest.raises(SystemExit, match=rf"chosen with {OTHER}, of which 2 of 3 folds .*make folds .*V={OTHER}.*V=a"):
        fit.main(data=data, runs=runs, jobs=1, repairs="off")
    assert blend.read_bytes() == before

    # the ways out: another name,
    capsys.readouterr()
    fit.main(data=data, runs=runs, jobs=1, repairs="off", name="other")
    assert f"left out: {OTHER}, as 2 of its 3 folds are trained (make folds V={OTHER})" in capsys.readouterr().out
    assert blend.read_bytes() == before
    # the networks by name, which says what it costs,
    fit.main(data=data, runs=runs, jobs=1, repairs="off", members="average-mask")
    printed = capsys.readouterr().out
    assert "warning: this replaces a better blend: Dice 0." in printed and "left out" not in printed
    assert set(json.loads(blend.read_text())["member_cv"]) == {"average-mask"}
    # and the fold
    manifest.write_bytes(finished)
    fit.main(data=data, runs=runs, jobs=1, repairs="off")
    printed = capsys.readouterr().out
    assert "left out" not in printed and "warning" not in printed
    assert json.loads(blend.read_text())["cv"] == json.loads(before)["cv"]


def test_a_damaged_blend_is_chosen_again_as_its_message_says(made: tuple[Path, Path]) -> None:
    data, runs = made
    blend = runs / "carvana" / "blend" / "blend.json"
    blend.write_text("{}")
    with pytest.raises(UserError, match=r"is damaged \(.*\): choose the blend again \(make fit\)"):
        BLEND.read(blend)
    fit.main(data=data, runs=runs, jobs=1, repairs="off", blend="equal-mean")
    assert BLEND.read(blend)["kind"] == "equal-mean"
