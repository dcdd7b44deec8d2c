"""The same variant twice, under a tag: everything after training takes it as a member like any other."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import ensemble.fit
import ensemble.photographs
import ensemble.tta_gain
import folds.train
import submit.make
import submit.plan
from command_line import UserError
from folds.plan import with_tag
from folds.recipes import RECIPES
from folds.split import split_groups
from models.variants import VARIANTS
from predict.members import parse_members
from tests.tiny_folds import QUICK, TINY


def test_a_tag_is_letters_and_digits_and_makes_no_name_that_is_taken() -> None:
    plain = VARIANTS["unet-mobilenetv3"]
    assert with_tag(plain, "") is plain
    assert with_tag(plain, "s1") == replace(plain, name="unet-mobilenetv3-s1")
    for tag in ("a b", "../x", "-", "a-b", "é", "a\n"):
        with pytest.raises(UserError, match="letters and digits"):
            with_tag(plain, tag)
    with pytest.raises(UserError, match="unet-mobilenetv3-320x512, which is a variant of its own"):
        with_tag(plain, "320x512")


def test_members_are_folders_or_variants(tmp_path: Path) -> None:
    (tmp_path / "fpn-regnetx-s1" / "fold0").mkdir(parents=True)
    (tmp_path / "fpn-regnetx-s1" / "fold0" / "manifest.json").touch()
    assert parse_members("all", tmp_path) is None
    assert parse_members("fpn-regnetx, fpn-regnetx-s1", tmp_path) == ["fpn-regnetx", "fpn-regnetx-s1"]
    with pytest.raises(UserError, match=r"'fpn-regnetx-s2'; trained in .*: fpn-regnetx-s1 "):
        parse_members("fpn-regnetx-s2", tmp_path)
    with pytest.raises(UserError, match="twice"):
        parse_members("fpn-regnetx,fpn-regnetx", tmp_path)
    with pytest.raises(UserError, match="no member given"):
        parse_members(" ,", tmp_path)


def test_another_seed_is_another_network_on_the_same_folds(
    ellipses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    monkeypatch.setitem(RECIPES, TINY.recipe, QUICK)
    where: dict[str, Any] = {"data": ellipses, "runs": tmp_path / "runs", "variant": "tiny", "fold": "0", "jobs": 1}
    root = tmp_path / "runs" / "carvana"
    folds.train.main(**where, folds=2)
    split = (root / "folds.csv").read_bytes()
    folds.train.main(**where, tag="s1", seed=1)
    assert (root / "folds.csv").read_bytes() == split
    # also where it is the first in its folder, whatever split its own seed would make
    table = pd.read_csv(root / "folds.csv", dtype={"group": str})
    splits = (
        split_groups(table["group"].to_numpy(), table["area_px"].to_numpy(), folds=2, seed=seed) for seed in range(99)
    )
    differing = next(seed for seed, fold in enumerate(splits) if (fold != table["fold"]).any())
    fresh = tmp_path / "fresh"
    folds.train.main(data=ellipses, runs=fresh, variant="average-mask", fold="0", jobs=1, folds=2, seed=differing)
    assert (fresh / "carvana" / "folds.csv").read_bytes() == split
    one, other = (load_file(root / name / "fold0" / "weights.safetensors") for name in ("tiny", "tiny-s1"))
    assert one.keys() == other.keys()
    assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())
    folds.train.main(**where, tag="s1", seed=1)
    assert "tiny-s1 fold 0 is finished" in capsys.readouterr().out


def test_a_tagged_run_is_a_member_like_any_other(
    ellipses: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where: dict[str, Any] = {"data": ellipses, "runs": tmp_path / "runs"}
    root = tmp_path / "runs" / "carvana"
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((ellipses / "train").iterdir())[:2]:
        os.link(path, images / path.name)
    # nothing is in dispute between a network and its copy, so the fit has little to do
    names = ["average-mask", "average-mask-again"]
    for tag in ("", "again"):
        folds.train.main(**where, variant="average-mask", folds=2, jobs=1, tag=tag)
    ensemble.fit.main(**where, members=",".join(names), blend="equal-mean", repairs="off", jobs=1)
    assert json.loads((root / "blend" / "blend.json").read_text())["members"] == names
    submit.make.main(**where, images=images, jobs=1)
    assert all((root / name / "test.zarr").is_dir() for name in names)
    capsys.readouterr()
    submit.plan.main(**where, variants=names[1], images=images, sample=1)
    assert f"{names[1]}: 2 forward passes" in capsys.readouterr().out
    ensemble.tta_gain.main(names[1], transforms="hflip", **where, jobs=1)
    assert (root / names[1] / "tta.json").exists()
    ensemble.photographs.main(images=images, out=tmp_path / "masks", runs=tmp_path / "runs", variant=names[1])
    assert len(list((tmp_path / "masks").glob("*_mask.png"))) == 2
