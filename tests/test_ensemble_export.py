"""A blend as one file gives our own masks, without us."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import ensemble.export
from command_line import UserError
from competition import COMPETITIONS, Size
from ensemble import whole_network
from ensemble.blend import Blend
from ensemble.export import main
from ensemble.mask_agreement import own_masks
from ensemble.voting import LINEAR, VOTES, Vote, combination_of
from ensemble.whole_network import WholeNetwork
from models.frame import Frame
from models.frame_graph import FrameGraph
from models.image_file import decode
from models.variants import VARIANTS
from studio.render import render_competition
from tests.conftest import read_picture
from tests.synthetic_runs import UNET, save_blend, save_member, save_stacker

ROOT = Path(__file__).parent.parent
STUDIO = COMPETITIONS["studio"]
# larger and smaller than the network, and of sides that divide nothing
FULL: Size = (101, 151)
FRAMES = [
    Frame((64, 96)),
    Frame((128, 192)),
    Frame((64, 192)),
    Frame(FULL),
    Frame((128, 160), "pad"),
    Frame((128, 160), "reflect"),
    Frame((224, 320), "reflect-2x"),
]


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_the_graph_does_what_the_frame_does(frame: Frame) -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (*FULL, 3)).astype(np.uint8), (5, 5), 0)
    graph = FrameGraph(frame, FULL)
    found = graph.to_input(torch.from_numpy(image))[0].numpy()
    # OpenCV interpolates bytes in fixed point
    assert np.abs(found.astype(int) - frame.apply(image).astype(int)).max() <= 1
    logits = rng.normal(scale=5, size=frame.size).astype(np.float32)
    np.testing.assert_allclose(
        graph.to_full(torch.from_numpy(logits)).numpy(), frame.invert(logits, FULL), rtol=1e-3, atol=1e-3
    )


def test_a_vote_without_a_version_in_torch_is_refused() -> None:
    assert set(whole_network.VOTES) <= set(VOTES)
    with pytest.raises(UserError, match="a blend by unheard-of cannot be exported: choose another way"):
        WholeNetwork(Blend((), (), Vote("unheard-of")), FULL)


@pytest.mark.parametrize("label", [LINEAR.label, *whole_network.VOTES])
def test_every_vote_gives_the_masks_of_the_blend(tmp_path: Path, label: str) -> None:
    root = tmp_path / "runs" / "studio"
    other = replace(UNET, name="tiny-other", size=(96, 64))
    members = tuple(save_member(root, variant) for variant in (UNET, other))
    image = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (*FULL, 3)).astype(np.uint8), (9, 9), 0)
    path = tmp_path / "photograph.png"
    cv2.imwrite(str(path), image)
    blend = Blend(members, (0.3, 0.7), combination_of(label))
    with torch.inference_mode():
        logits = WholeNetwork(blend, FULL).eval()(torch.from_numpy(decode(path)))[1]
    # half of the image becomes foreground, but by a vote that knows no doubt
    blend = replace(blend, threshold=0.0 if label == "majority" else float(logits.median()))
    own = own_masks(blend, [path], FULL)[0]
    with torch.inference_mode():
        mask, logits = WholeNetwork(blend, FULL).eval()(torch.from_numpy(decode(path)))
    assert mask.dtype is torch.uint8 and logits.dtype is torch.float32
    assert set(np.unique(mask.numpy())) <= {0, 255}
    assert ((mask.numpy() > 0) == (logits.numpy() > 0)).all()
    # stored logits are rounded, the graph's are not
    assert np.mean((mask.numpy() > 0) != own) < 0.005
    assert own.any() or label == "majority"


def _example() -> str:
    """The program that README.md shows."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    program = next(block for block in blocks if "onnxruntime" in block)
    assert isinstance(program, str)
    return program


def test_onnx_runtime_masks_a_photograph_without_this_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx", reason="pip install -r requirements-export.txt")
    pytest.importorskip("onnxruntime", reason="pip install -r requirements-export.txt")
    render_competition(tmp_path / "studio", cars=1, test_cars=1, seed=11, views=2, jobs=1)
    images = tmp_path / "studio" / STUDIO.train_dir
    out = tmp_path / "export"
    main(
        competition="carvana",
        variant="unet-mobilenetv3-320x512",
        runs=ROOT / "trained/fast",
        out=out,
        folds=1,
        images=images,
        check=2,
    )
    told = capsys.readouterr().out
    assert told.count("Dice with our own masks") == 2
    card = json.loads((out / "export.json").read_text())
    assert card["networks"] == 1 and card["onnx"]["worst"] > 0.9995
    photograph = next(images.glob("*.jpg"))
    script, mask = tmp_path / "example.py", tmp_path / "mask.png"
    script.write_text(_example())
    # isolated: neither this folder nor PYTHONPATH is looked into
    words = [sys.executable, "-I", str(script), str(out / "blend.onnx"), str(photograph), str(mask)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "foreground" in done.stdout
    again = subprocess.run(
        [sys.executable, "-I", "-c", "import models"], cwd=tmp_path, capture_output=True, check=False
    )
    assert again.returncode != 0
    run = ensemble.export.runner(out / "blend.pt2")
    assert run is not None
    by_torch, by_onnx = run(decode(photograph)), read_picture(mask, cv2.IMREAD_GRAYSCALE) > 0
    assert 2 * (by_torch & by_onnx).sum() / (by_torch.sum() + by_onnx.sum()) > 0.9999


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.network == "windowed-unet"])
def test_windows_are_computed_everywhere_and_encoders_go_along(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="pip install -r requirements-export.txt")
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -r requirements-export.txt")
    options = {"widths": (4, 4, 6, 6, 8), "fold": 4, "finder_widths": (4, 8), "finder_fold": 2}
    size = (192, 256) if VARIANTS[name].fit == "pad" else (128, 192)
    small = replace(VARIANTS[name], name="small", size=size, options=options)
    network = WholeNetwork(Blend((save_member(tmp_path, small, 1),), (1.0,)), FULL).eval()
    assert network.had_windows
    image = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 256, (*FULL, 3)).astype(np.uint8), (9, 9), 0)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(image))[1].numpy()
    ensemble.export.write_onnx(network, FULL, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"image": image})[0]
    assert wanted.std() > 0.01
    np.testing.assert_allclose(found, wanted, atol=1e-3 * float(np.abs(wanted).max()))


def test_what_cannot_go_into_one_file_is_refused_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs" / "studio"
    members = [save_member(root, UNET)]
    where: dict[str, Any] = {"competition": "studio", "runs": root.parent, "data": tmp_path / "none", "format": "torch"}
    save_blend(root, members, [1.0], postprocess_kept=[["fill-holes", 100]])
    main(**where)
    told = capsys.readouterr().out
    assert "left out, as it works on whole masks: fill-holes" in told
    assert "computed on whole frames" not in told
    assert "not compared, as there are no images" in told
    assert json.loads((root / "blend" / "export" / "export.json").read_text())["left_out"] == ["fill-holes"]
    save_stacker(root, members, image=False)
    with pytest.raises(SystemExit, match="a blend by conv-stacker cannot be exported: choose another way"):
        main(**where)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find_spec(name))
    with pytest.raises(UserError, match=r"pip install -r requirements-export.txt, or use --format torch"):
        ensemble.export.write_onnx(WholeNetwork(Blend(tuple(members), (1.0,)), (64, 96)), (64, 96), tmp_path / "x.onnx")


def test_an_export_that_errs_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs" / "studio"
    save_blend(root, [save_member(root, UNET)], [1.0])
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "000000000000_01.jpg"), np.full((*STUDIO.size, 3), 99, np.uint8))
    monkeypatch.setattr(
        ensemble.export, "own_masks", lambda blend, paths, full, folds: [np.ones(full, bool)] * len(paths)
    )
    monkeypatch.setattr(ensemble.export, "runner", lambda path: lambda image: np.zeros(image.shape[:2], bool))
    with pytest.raises(
        SystemExit, match=r"gives other masks than this project \(Dice 0.00000 at worst\), and was removed"
    ):
        main(competition="studio", runs=root.parent, images=images, format="torch")
    assert not list((root / "blend" / "export").glob("blend.*"))
