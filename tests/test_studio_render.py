"""The embedded competition: layout, truth, determinism, resumption."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from command_line import UserError
from competition import COMPETITIONS
from folds.images import find_training_set, read_mask
from studio.cars import PROFILES, build, draw_car, palette
from studio.render import DEPTH_STEP_M, render_competition
from studio.scene import background, draw_camera, noise_tile, picture
from tests.conftest import read_picture

STUDIO = COMPETITIONS["studio"]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("studio") / "data"
    assert render_competition(data, cars=3, test_cars=1, seed=3, views=2, jobs=1, depth=True)
    return data


def test_the_layout_is_the_competitions_own(studio: Path) -> None:
    images = sorted(p.name for p in (studio / STUDIO.train_dir).iterdir())
    assert len(images) == 6
    assert {name[13:15] for name in images} == {"01", "09"}
    training = find_training_set(STUDIO, studio)
    assert list(training.names) == images
    with (studio / "metadata.csv").open(newline="") as file:
        text = file.read()
    assert text.splitlines()[0] == '"id","year","make","model","trim1","trim2"'
    rows = list(csv.DictReader(text.splitlines()))
    cars = {name[:12] for name in images}
    test = sorted(p.name for p in (studio / STUDIO.test_dir).iterdir())
    assert {row["id"] for row in rows} == cars | {name[:12] for name in test}
    assert not cars & {name[:12] for name in test}
    lines = (studio / STUDIO.sample_file).read_text().splitlines()
    assert lines[0] == "img,rle_mask"
    assert [line.split(",")[0] for line in lines[1:]] == test


def test_masks_are_two_level_gifs_that_lie_on_the_car(studio: Path) -> None:
    for path in (studio / STUDIO.train_dir).iterdir():
        image = read_picture(path)
        assert image.shape == (*STUDIO.size, 3)
        mask_path = studio / STUDIO.masks_dir / STUDIO.mask_name(path.name)
        with Image.open(mask_path) as picture_file:
            assert (picture_file.format, picture_file.mode) == ("GIF", "P")
            assert np.unique(np.asarray(picture_file)).tolist() == [0, 1]
        mask = read_mask(mask_path, STUDIO.size)
        assert 0.08 < mask.mean() < 0.40
        # one car: nearly all of it hangs together, and it stands clear of the border
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        assert stats[1:, cv2.CC_STAT_AREA].max() > 0.99 * mask.sum(), count
        assert not mask[:20].any() and not mask[-20:].any()
        # the outline is a real edge of the picture: colours differ more across it than beside it
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
        gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
        kernel = np.ones((3, 3), np.uint8)
        edge = cv2.dilate(mask.astype(np.uint8), kernel) != cv2.erode(mask.astype(np.uint8), kernel)
        far = cv2.dilate(edge.astype(np.uint8), np.ones((41, 41), np.uint8)) == 0
        assert np.median(gradient[edge]) > 3 * np.median(gradient[far])


def test_depth_is_that_of_the_car_and_nothing_else(studio: Path) -> None:
    for path in (studio / f"{STUDIO.train_dir}_depth").iterdir():
        depth = read_picture(path, cv2.IMREAD_UNCHANGED)
        assert depth.dtype == np.uint16
        mask = read_mask(studio / STUDIO.masks_dir / STUDIO.mask_name(path.with_suffix(".jpg").name), STUDIO.size)
        np.testing.assert_array_equal(depth > 0, mask)
        metres = depth[mask] * DEPTH_STEP_M
        # the camera stands about 6.8 m before the turntable's middle, and no car is longer than 6 m
        assert metres.min() > 3.5
        assert metres.max() < 10.5
        # surfaces, not noise: neighbours on the car are nearly always a few centimetres apart
        beside = mask[:, 1:] & mask[:, :-1]
        steps = np.abs(np.diff(depth.astype(np.int64), axis=1))[beside] * DEPTH_STEP_M
        assert np.quantile(steps, 0.95) < 0.05
        assert metres.max() - metres.min() > 0.5


def test_the_same_parameters_give_the_same_bytes_whatever_the_jobs(studio: Path, tmp_path: Path) -> None:
    assert render_competition(tmp_path / "two", cars=3, test_cars=1, seed=3, views=2, jobs=2, depth=True)
    assert digests(tmp_path / "two") == digests(studio)
    assert render_competition(tmp_path / "other", cars=1, test_cars=1, seed=4, views=1, jobs=1)
    assert not set(digests(tmp_path / "other").values()) & {
        value for name, value in digests(studio).items() if name.endswith((".jpg", ".gif"))
    }


def test_what_is_missing_is_rendered_again_and_the_rest_left_alone(studio: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    parameters = {"cars": 2, "test_cars": 1, "seed": 5, "views": 1, "jobs": 1}
    assert render_competition(data, **parameters)  # type: ignore[arg-type]
    before = digests(data)
    assert not render_competition(data, **parameters)  # type: ignore[arg-type]
    victim = next((data / "train").iterdir())
    kept = next((data / "test").iterdir())
    stamp = kept.stat().st_mtime_ns
    victim.unlink()
    (data / "manifest.json").unlink()
    assert render_competition(data, **parameters)  # type: ignore[arg-type]
    assert digests(data) == before
    assert kept.stat().st_mtime_ns == stamp


def test_other_parameters_and_other_files_are_refused(studio: Path, tmp_path: Path) -> None:
    before = digests(studio)
    with pytest.raises(UserError, match="other parameters"):
        render_competition(studio, cars=4, test_cars=1, seed=3, views=2, jobs=1, depth=True)
    assert digests(studio) == before
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="other files"):
        render_competition(tmp_path, cars=1, test_cars=1)
    for wrong in ({"cars": 0}, {"test_cars": 5000}, {"views": 3}):
        with pytest.raises(UserError):
            render_competition(tmp_path / "new", **{"cars": 1, "test_cars": 1, **wrong})  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_every_body_and_every_extra_is_drawn() -> None:
    cars = [draw_car(np.random.default_rng(seed)) for seed in range(120)]
    assert {car.body for car in cars} == set(PROFILES)
    assert {car.antenna for car in cars} == {"none", "fin", "roof", "fender"}
    assert {"white", "silver", "black"} <= {car.paint_name for car in cars}
    assert any(car.rails for car in cars) and any(car.spoiler for car in cars)
    assert draw_car(np.random.default_rng(7)) == draw_car(np.random.default_rng(7))


def test_a_thin_antenna_is_in_the_mask() -> None:
    seed = next(s for s in range(200) if draw_car(np.random.default_rng(s)).antenna == "roof")
    car = draw_car(np.random.default_rng(seed))
    rng = np.random.default_rng(0)
    camera = draw_camera(rng, STUDIO.size)
    empty = background(camera, rng, STUDIO.size)
    _, mask, depth = picture(build(car), 5, camera, empty, palette(car), noise_tile(rng), rng)
    assert depth is None
    # somewhere above the roof the mask is 1 to 12 px wide for many rows
    widths = mask.sum(1)
    thin = (widths > 0) & (widths <= 12)
    assert thin.sum() > 30
    assert thin[np.flatnonzero(widths)[0]]
