"""The page of activations: any image size, any kind of input, nothing beside it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.frame import Frame
from models.variant import Variant
from models.variants import VARIANTS
from report.activations import channel_grid, main, network_input
from tests.synthetic_runs import UNET, save_blend, save_member, write_photograph

GREY = replace(VARIANTS["folded-unet-small-128"], name="tiny-folded", size=(64, 64))
TWO = replace(VARIANTS["compact-96"], name="tiny-two", size=(48, 48))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "studio"
    save_blend(root, [save_member(root, UNET)], [1.0])
    for variant in (GREY, TWO):
        save_member(root, variant)
    return root.parent


@pytest.mark.parametrize(("variant", "head"), [("", "mask"), (GREY.name, "presence"), (TWO.name, "depth")])
def test_the_page_is_one_file_for_any_image_size(runs: Path, tmp_path: Path, variant: str, head: str) -> None:
    images = tmp_path / "images"
    for k, (height, width) in enumerate(((300, 411), (20, 31), (200, 90))):
        write_photograph(images / f"{k}.png", height, width, seed=k)
    named: Variant = {"": UNET, GREY.name: GREY, TWO.name: TWO}[variant]
    background = images / "1.png" if named is TWO else None
    # of two stacked images both have one size
    source = images / "1.png" if named is TWO else images
    page = tmp_path / "out" / "inside.html"
    main(
        images=source,
        competition="studio",
        variant=variant,
        fold=1,
        head=head,
        background=background,
        out=page,
        runs=runs,
    )
    text = page.read_text()
    assert text.count("<h2>") == (1 if named is TWO else 3)
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sources and all(target.startswith("data:") for target in sources)
    assert [path.name for path in page.parent.iterdir()] == ["inside.html"]


def test_inputs_of_any_size_fit_any_frame() -> None:
    rng = np.random.default_rng(0)
    for fit in ("resize", "pad", "reflect", "reflect-2x"):
        for size in ((1, 1), (70, 33), (33, 170), (640, 201)):
            image = rng.integers(0, 255, (*size, 3), np.uint8)
            frame = Frame((64, 96), fit)  # type: ignore[arg-type]
            made = network_input([image, image], frame)
            assert made.shape == (64, 96, 6) and np.array_equal(made[..., :3], made[..., 3:])
            if not frame.exceeded_by(size):
                assert np.array_equal(made[..., :3], frame.apply(image))


def test_the_strongest_channels_come_first() -> None:
    from models.activations import Stage

    values = np.zeros((3, 8, 12), np.float32)
    values[2, :4], values[0, :, :6] = 5, 1
    stage = Stage("x", values, None)
    assert stage.strongest(9) == [2, 0, 1] and stage.strongest(2) == [2, 0]
    grid = channel_grid(stage, 2)
    first = cv2.cvtColor(grid[:, : grid.shape[1] // 2 - 1], cv2.COLOR_RGB2GRAY)
    assert first[5].mean() > first[-5].mean() + 50


def test_what_cannot_be_shown_is_one_sentence(runs: Path, tmp_path: Path) -> None:
    write_photograph(tmp_path / "a.png", 40, 50, seed=0)
    for options, message in (
        ({"fold": 7}, "has no fold 7; trained there: 0, 1"),
        ({"head": "depth"}, "no head 'depth'"),
        ({"pixel": (64, 0)}, "outside the network's input of 64x96"),
        ({"channels": 0}, "--channels 0 is out of range"),
        ({"variant": TWO.name}, "takes the background too"),
        ({"background": tmp_path / "a.png"}, "takes one image"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(images=tmp_path / "a.png", competition="studio", out=tmp_path / "x.html", runs=runs, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "x.html").exists()
