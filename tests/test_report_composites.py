"""From parts to the table, picture and page of both heads, and the files of an export, as a user goes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import UserError
from competition import COMPETITIONS
from ensemble import depth as ensemble_depth
from folds import export_composites, label_depth, task_list
from folds.composites import CompositeSet, find_composites
from folds.export_composites import export
from folds.fold import run_fold
from folds.recipes import RECIPES
from folds.split import find_or_make
from folds.truth import load_truth
from models.variants import VARIANTS
from report import composites as report
from report import write
from studio import composites as studio
from tests.conftest import read_picture
from tests.parts import write_parts

TINY = replace(VARIANTS["compact-96"], name="tiny", size=(32, 48), options={"widths": (4, 8)})
OTHER = replace(VARIANTS["e-unet-64"], name="other", size=(16, 32), options={"widths": (4, 8)})
QUICK = replace(RECIPES["composites"], epochs=3, batch=4)


def found(data: Path) -> CompositeSet:
    return find_composites(COMPETITIONS["composites"], data)


def test_both_heads_go_from_parts_to_table_picture_page_and_blend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, root = write_parts(tmp_path / "data", positions=2, blocks=4), tmp_path / "runs" / "composites"
    training = found(data)
    areas = load_truth(training, root / "cache", jobs=1).areas_px
    table = find_or_make(root / "folds.csv", training, areas, own=None, folds=2)
    for variant in (TINY, OTHER):
        for task in task_list.make_tasks(variant, QUICK, [0, 1], training, table, root, 0, 0, 1, None):
            assert task.draws is not None
            manifest = run_fold(replace(task, threads=1, bar=False))
    assert 0 <= manifest["dice"] <= 1
    ensemble_depth.main(data=data, runs=tmp_path / "runs")
    blend = json.loads((root / "blend" / "depth_blend.json").read_text())
    assert blend["members"] == ["other", "tiny"] and sum(blend["weights"]) == pytest.approx(1)
    capsys.readouterr()
    report.main(data=data, runs=tmp_path / "runs")
    lines = capsys.readouterr().out.splitlines()
    # make report C=composites says the same
    write.main(competition="composites", data=data, runs=tmp_path / "runs")
    assert capsys.readouterr().out.splitlines() == lines
    row = next(line for line in lines if line.startswith("tiny")).split()
    assert len(row) == 1 + len(report.COLUMNS) + 2
    # the table's figures are the networks', by the obvious formulas
    tiny = next(t for t in report.find_trained(root, training) if t.variant.name == "tiny")
    scores = report.score(tiny, training, training.names)
    rmse = []
    for i, name in enumerate(training.names):
        near, truth = tiny.near(name, training.competition), training.near(i) / 255
        rmse.append(np.sqrt(((near - truth) ** 2).mean()))
        mask, wanted = tiny.mask(name, training.competition), training.mask(name)
        assert scores["iou"][i] == pytest.approx((mask & wanted).sum() / max(1, (mask | wanted).sum()))
        ratio = np.maximum(near, 1 / 255) / np.maximum(truth, 1 / 255)
        assert scores["within_1.25"][i] == pytest.approx(((ratio < 1.25) & (ratio > 0.8)).mean(), abs=1e-3)
    np.testing.assert_allclose(scores["rmse"], rmse, rtol=1e-4)
    assert blend["member_rmse"]["tiny"] == pytest.approx(np.mean(rmse), rel=1e-4)
    assert read_picture(root / "both_heads.png").shape == (6 * 45, 7 * 62, 3)
    text = (root / "both_heads.html").read_text()
    assert "D, published" in text and text.count('class="case"') == 6


def test_an_export_is_whole_resumes_and_tells_its_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = found(write_parts(tmp_path / "data", positions=2, blocks=4))
    monkeypatch.setattr(export_composites, "SHARD", 7)
    whole = export(training, tmp_path / "a", count=23, image_format="png", jobs=1)
    images = training.parts.compose(training.grid, 0, np.arange(23))
    for index in (0, 6, 22):
        folder = tmp_path / "a" / f"{index // 7:05}"
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"{index:08}.png")), images.images[index])
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"{index:08}_mask.png")), images.alphas[index])
        assert images.nears is not None
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"{index:08}_depth.png")), images.nears[index])
    np.testing.assert_allclose(whole["mean"], (images.images / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(whole["std"], (images.images / 255).std((0, 1, 2)))
    # killed after two of its shards
    written: list[int] = []
    original = export_composites._export

    def dying(shard: export_composites._Shard) -> int:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.start)
        return original(shard)

    monkeypatch.setattr(export_composites, "_export", dying)
    with pytest.raises(KeyboardInterrupt):
        export(training, tmp_path / "b", count=23, image_format="png", jobs=1)
    monkeypatch.setattr(export_composites, "_export", original)
    kept = (tmp_path / "b" / "00000" / "00000000.png").stat().st_mtime_ns
    assert export(training, tmp_path / "b", count=23, image_format="png", jobs=1) == whole
    assert (tmp_path / "b" / "00000" / "00000000.png").stat().st_mtime_ns == kept
    files = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert files == {p.relative_to(tmp_path / "b"): p.read_bytes() for p in (tmp_path / "b").rglob("*") if p.is_file()}
    for arguments, words in (({"count": 22}, "begun with other"), ({"count": 10**6}, "ask for 1 to that many")):
        with pytest.raises(UserError, match=words):
            export(training, tmp_path / "b", image_format="png", jobs=1, **arguments)


def nearer_below(image: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(image.shape[0], dtype=float)[:, None], image.shape[1], axis=1)


def of_another_size(image: np.ndarray) -> np.ndarray:
    return np.zeros((3, 3))


def test_a_users_function_labels_what_has_no_depth(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data", depth=False)
    function = label_depth.find_function(f"{__name__}:nearer_below")
    assert label_depth.label(function, data) == 11 and label_depth.label(function, data) == 0
    near = found(data).parts.background_near
    assert near is not None and near[0, 0, 0] == 0 and near[0, -1, 0] == 255
    shutil.rmtree(data / "fg_depth")
    with pytest.raises(UserError, match=r"thing\.0\.png has the shape \(3, 3\)"):
        label_depth.label(of_another_size, data)
    for text in ("nowhere:f", f"{__name__}:nothing", f"{__name__}:TINY", "x"):
        with pytest.raises(UserError, match="--function"):
            label_depth.find_function(text)


def test_rendered_parts_are_a_set_with_true_depth_and_always_the_same(tmp_path: Path) -> None:
    for name, backgrounds in (("a", 2), ("b", 3)):
        assert studio.render_parts(tmp_path / name, backgrounds=backgrounds, foregrounds=3, jobs=1)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.suffix in (".png", ".jpg")]
    assert len(files) == 2 * (2 + 3)
    # more of them leave the others as they are
    assert all((tmp_path / "a" / p).read_bytes() == (tmp_path / "b" / p).read_bytes() for p in files)
    assert not studio.render_parts(tmp_path / "a", backgrounds=2, foregrounds=3, jobs=1)
    with pytest.raises(UserError, match="other parameters"):
        studio.render_parts(tmp_path / "a", backgrounds=3, foregrounds=3, jobs=1)
    parts = found(tmp_path / "b").parts
    assert parts.size == (192, 192) and parts.has_depth
    assert parts.background_near is not None and parts.foreground_near is not None
    for near in parts.background_near:
        # the ground comes nearer downwards, and the sky is far
        assert near[-1].mean() > near[len(near) // 2].mean() > near[0].mean() - 1
    for picture, near in zip(parts.foregrounds, parts.foreground_near, strict=True):
        assert max(picture.shape[:2]) <= 96
        soft = (picture[..., 3] > 0) & (picture[..., 3] < 255)
        assert soft.any() and (near[picture[..., 3] == 255] > 0).all()
