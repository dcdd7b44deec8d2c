"""What is told of boosted pixels is what they do on images that they have not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from command_line import UserError
from ensemble import pixel_report
from ensemble.blend_file import PIXELS_REPORT_FILE
from ensemble.pixel_gain import evaluate_pixels
from ensemble.pixels import BoostedPixels, full_frame
from kernels import rle
from kernels.bands import in_bands
from tests.test_ensemble_pixels import FOLD, FULL, NAMES, QUICK, SMALL, campaign, dice, discs


@pytest.mark.parametrize("networks", [1, 2])
def test_figures_and_examples_are_those_of_trees_that_have_not_seen_the_image(tmp_path: Path, networks: int) -> None:
    oof, pictures, linear = campaign(tmp_path, networks)
    found = evaluate_pixels(linear, oof, pictures, QUICK, jobs=1)
    report = pixel_report.look_into(found, oof, {full_frame(FULL): pictures}, jobs=1)
    # fifteen images of three folds: all of them are looked at
    assert report["images"] == len(FOLD)
    masks = discs()
    before = {p: np.sum([SMALL.invert(plane, FULL) for plane in oof.planes(p)], 0) > 0 for p in range(len(FOLD))}
    gains = [found.nested[p] - dice(before[p], masks[p]) for p in range(len(FOLD))]
    assert report["gain"] == pytest.approx(np.mean(gains), abs=1e-6)

    # the discs are told apart by their colours: without the picture the gain is gone, without anything it is worse
    assert set(report["groups"]) >= {"logits", "place", "colour", "edge", "regions", pixel_report.PICTURE}
    assert ("members" in report["groups"]) == (networks > 1)
    assert report["groups"][pixel_report.PICTURE] > 0.5 * report["gain"]
    assert 0 < report["changed_px"] < report["band_px"] and 0.5 < report["righted"] <= 1

    for example in report["examples"]:
        p = NAMES.index(example["image"])
        assert example["gain"] == pytest.approx(gains[p], abs=1e-6)
        size = example["height"], example["width"]
        window = np.s_[example["top"] : example["top"] + size[0], example["left"] : example["left"] + size[1]]
        after = found.nested_stackers[int(FOLD[p])](oof.planes(p), oof.frames, [], FULL, pictures.image(p)) > 0
        for key, mask in (("before", before[p]), ("after", after)):
            shown = rle.decode(rle.parse(str(example[key]), size=size), size)  # type: ignore[literal-required]
            np.testing.assert_array_equal(shown.astype(bool), mask[window])
    assert [e["gain"] for e in report["examples"]] == sorted((e["gain"] for e in report["examples"]), reverse=True)

    pixel_report.save(tmp_path, report)
    assert pixel_report.load(tmp_path) == report
    (tmp_path / PIXELS_REPORT_FILE).write_text('{"images": 3}')
    with pytest.raises(UserError, match="choose the blend again"):
        pixel_report.load(tmp_path)
    assert pixel_report.load(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("size", [(1, 1), (13, 7), (37, 53)])
@pytest.mark.parametrize("window", [(3, 5), (40, 60)])
def test_the_window_shown_holds_most_of_what_changed(size: tuple[int, int], window: tuple[int, int]) -> None:
    changed = np.random.default_rng(size[0]).random(size) < 0.2
    top, left, height, width = pixel_report.most_changed(changed, window)
    assert (height, width) == tuple(min(pair) for pair in zip(size, window, strict=True))
    held = changed[top : top + height, left : left + width]
    assert held.shape == (height, width)
    others = np.lib.stride_tricks.sliding_window_view(changed, (height, width)).sum((2, 3))
    assert held.sum() == others.max()


@pytest.mark.parametrize(("per_unit", "bands"), [(4, 32), (1, 3), (10, 1)])
def test_pixels_are_counted_by_how_near_they_are(per_unit: int, bands: int) -> None:
    rng = np.random.default_rng(bands)
    logits = rng.normal(scale=3, size=(31, 17)).astype(np.float32)
    logits[:2] = rng.integers(-3, 4, (2, 17))
    truth = rng.random(logits.shape) < 0.5
    found = in_bands(logits, truth, per_unit=per_unit, bands=bands)
    wrong = (logits > 0) != truth
    for k in range(bands):
        inside = np.abs(logits) * np.float32(per_unit) < k + 1
        assert found[k].tolist() == [inside.sum(), (inside & wrong).sum()]
    assert found[-1].tolist() == [logits.size, wrong.sum()]


def test_a_narrower_band_is_a_part_of_a_wider_one(tmp_path: Path) -> None:
    oof, pictures, linear = campaign(tmp_path, 2)
    fitted = evaluate_pixels(linear, oof, pictures, QUICK, jobs=1).stacker
    assert isinstance(fitted, BoostedPixels)
    whole = fitted.band(oof.planes(1), oof.frames, FULL, pictures.image(1))
    assert whole.within(fitted.width) is whole
    width = fitted.width / 2
    part = whole.within(width)
    np.testing.assert_array_equal(np.abs(whole.logits) < width, _marked(part.rows, part.columns))
    assert 0 < len(part.rows) < len(whole.rows) and len(part.features) == len(part.rows)


def _marked(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    marked = np.zeros(FULL, bool)
    marked[rows, columns] = True
    return marked
