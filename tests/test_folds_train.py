"""The training program's refusals: each comes before any image is read, so the data need not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from folds.train import main


def refusal(tmp_path: Path, **arguments: Any) -> str:
    with pytest.raises(SystemExit) as caught:
        main(**{"data": tmp_path / "none", "runs": tmp_path / "runs", **arguments})
    assert not (tmp_path / "runs").exists()
    return str(caught.value.code)


def test_plans_that_cannot_work_are_refused_before_the_data_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert "--weights none" in refusal(tmp_path, variant="unet-resnet34-512")
    assert "is missing" in refusal(tmp_path, variant="unet-resnet34-512", weights="none")
    assert "has no encoder" in refusal(tmp_path, variant="a-unet-128", weights="imagenet")
    assert "unknown recipe" in refusal(tmp_path, variant="a-unet-128", recipe="z-unet")
    assert "accumulate -1" in refusal(tmp_path, variant="a-unet-128", accumulate=-1)
    assert "is missing" in refusal(tmp_path, variant="a-unet-128,average-mask")


def test_a_batch_larger_than_the_data_is_refused_before_an_image_is_opened(ellipses: Path, tmp_path: Path) -> None:
    for image in (ellipses / "train").iterdir():
        image.write_bytes(b"not an image")
    assert "--batch 12 works" in refusal(tmp_path, data=ellipses, variant="a-cnn-128")
