"""Composites as files: the same pixels, killed or not, and their statistics."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from command_line import UserError
from competition import COMPETITIONS
from folds import export_composites, png_file
from folds.composites import CompositeSet
from folds.export_composites import export
from folds.images import find_training_set
from tests.parts import write_parts

COUNT = 23


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompositeSet:
    monkeypatch.setattr(export_composites, "SHARD", 10)
    found = find_training_set(COMPETITIONS["composites"], write_parts(tmp_path / "data", positions=3))
    assert isinstance(found, CompositeSet)
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (31, 2, 3), (1, 5, 3)])
def test_a_png_has_its_pixels_whoever_reads_it(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    written = png_file.encode(picture)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(written))), picture)
    read = cv2.imdecode(np.frombuffer(written, np.uint8), cv2.IMREAD_UNCHANGED)
    assert read is not None
    np.testing.assert_array_equal(read[..., ::-1] if picture.ndim == 3 else read, picture)


@pytest.mark.parametrize("image_format", ["jpg", "png"])
def test_files_are_the_composites_and_a_killed_export_ends_the_same(
    training: CompositeSet, tmp_path: Path, image_format: str
) -> None:
    out = tmp_path / "out"
    found = export(training, out, count=COUNT, image_format=image_format, jobs=1)
    every = training.parts.compose(training.grid, training.settings.seed, np.arange(COUNT))
    assert every.nears is not None
    for number in range(COUNT):
        stem = out / f"{number // 10:05}" / f"{number:08}"
        image = np.asarray(Image.open(f"{stem}.{image_format}")).astype(int)
        away = np.abs(image - every.images[number])
        assert away.max() == 0 if image_format == "png" else away.mean() < 12
        np.testing.assert_array_equal(np.asarray(Image.open(f"{stem}_mask.png")), every.alphas[number])
        np.testing.assert_array_equal(np.asarray(Image.open(f"{stem}_depth.png")), every.nears[number])
    pixels = every.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(found["mean"], pixels.mean(0))
    np.testing.assert_allclose(found["std"], pixels.std(0))
    before = content(out)
    assert json.loads(before["statistics.json"]) == found
    # as a kill leaves it: a shard is there as a whole or not at all
    shutil.rmtree(out / "00001")
    (out / "statistics.json").unlink()
    export(training, out, count=COUNT, image_format=image_format, jobs=1)
    assert content(out) == before
    with pytest.raises(UserError, match="begun with other parts or settings"):
        export(training, out, count=COUNT + 1, image_format=image_format, jobs=1)
