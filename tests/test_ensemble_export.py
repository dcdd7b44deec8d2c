"""A blend as one file gives our own masks of images of any size, without us."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import ensemble.export
import ensemble.exported
import ensemble.photographs
from command_line import UserError
from competition import COMPETITIONS, Size
from ensemble import whole_network
from ensemble.blend import Blend
from ensemble.export import main
from ensemble.exported import FORMATS
from ensemble.mask_agreement import agree, own_logits
from ensemble.voting import LINEAR, VOTES, Vote, combination_of
from ensemble.whole_network import WholeNetwork
from models import checkpoint
from models.frame import Frame, frame_of
from models.image_file import decode
from models.network_input import normalise
from models.networks.window_graph import graph_of_network
from models.networks.windowed_unet import WindowedUNet
from models.runtimes import FLOAT32
from models.variants import VARIANTS
from predict.photographs import photograph_of
from predict.tile_graph import graph_of
from predict.tiles import predict_in_tiles
from studio.render import render_competition
from tests.conftest import read_picture
from tests.synthetic_runs import UNET, save_blend, save_member, save_pixels, write_photograph

ROOT = Path(__file__).parent.parent
STUDIO = COMPETITIONS["studio"]
# larger and smaller than the networks, and of sides that divide nothing
FULL: Size = (101, 151)
SIZES: list[Size] = [FULL, (64, 96), (63, 95), (58, 87), (31, 40), (5, 7), (201, 301), (300, 20), (20, 300), (2, 50)]
FRAMES = [
    Frame((64, 96)),
    Frame((128, 192)),
    Frame((64, 96), "pad", whole=True),
    Frame((64, 96), "pad"),
    Frame((64, 96), "reflect"),
    Frame((96, 64), "reflect-2x"),
]


def noise(size: Size, seed: int = 0) -> np.ndarray:
    """A smooth picture, (H, W, 3) uint8."""
    return cv2.GaussianBlur(np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8), (9, 9), 0)


@pytest.mark.parametrize("full", SIZES, ids=str)
@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_the_graph_does_what_predictions_do(frame: Frame, full: Size) -> None:
    image = noise(full)
    seen: list[np.ndarray] = []

    def network(inputs: np.ndarray) -> np.ndarray:
        seen.append(inputs)
        return inputs.astype(np.float32).sum(3)[:, None] + np.arange(inputs.shape[2], dtype=np.float32)

    ours = frame.of(full)
    (inputs,) = photograph_of(image, [frame]).inputs.values()
    if ours.exceeded_by(full):
        wanted = Frame(ours.enlarged(full)).invert(predict_in_tiles(inputs, ours.size, network)[0], full)
    else:
        wanted = ours.invert(network(inputs[None])[0, 0], full)
    graph = graph_of(frame, full)
    found = graph.to_input(torch.from_numpy(image)).numpy()
    # OpenCV interpolates bytes in fixed point
    off = np.abs(found.astype(int) - np.concatenate(seen).astype(int))
    # halves are rounded to another side, and nothing else
    assert off.max() <= 1 and off.mean() < 0.02
    logits = network(np.concatenate(seen))[:, 0]
    np.testing.assert_allclose(graph.to_full(torch.from_numpy(logits)).numpy(), wanted, atol=1e-3)


def test_a_vote_without_a_version_in_torch_is_refused() -> None:
    assert set(whole_network.VOTES) <= set(VOTES)
    with pytest.raises(UserError, match="a blend by unheard-of cannot be exported: choose another way"):
        WholeNetwork(Blend((), (), Vote("unheard-of")))


@pytest.mark.parametrize("label", [LINEAR.label, *whole_network.VOTES])
def test_every_vote_gives_the_masks_of_the_blend(tmp_path: Path, label: str) -> None:
    root = tmp_path / "runs" / "studio"
    other = replace(UNET, name="tiny-other", size=(96, 64))
    members = tuple(save_member(root, variant) for variant in (UNET, other))
    path = tmp_path / "photograph.png"
    cv2.imwrite(str(path), noise(FULL, 1))
    blend = Blend(members, (0.3, 0.7), combination_of(label))
    with torch.inference_mode():
        logits = WholeNetwork(blend).eval()(torch.from_numpy(decode(path)))[1]
    # half of the image becomes foreground, but by a vote that knows no doubt
    blend = replace(blend, threshold=0.0 if label == "majority" else float(logits.median()))
    (own,) = own_logits(blend, [path])
    with torch.inference_mode():
        mask, logits = WholeNetwork(blend).eval()(torch.from_numpy(decode(path)))
    assert mask.dtype is torch.uint8 and logits.dtype is torch.float32
    assert set(np.unique(mask.numpy())) <= {0, 255}
    assert ((mask.numpy() > 0) == (logits.numpy() > 0)).all()
    # stored logits are rounded, the graph's are not
    assert np.mean((mask.numpy() > 0) != (own > 0)) < 0.005
    assert (own > 0).any() or label == "majority"


def _example() -> str:
    """The program that README.md shows."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    program = next(block for block in blocks if "onnxruntime" in block)
    assert isinstance(program, str)
    return program


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Of two masks, (H, W) bool."""
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


# height, width and EXIF orientation of photographs of a car
PHOTOGRAPHS = {
    "as_trained.jpg": (1280, 1918, 1),
    "portrait.jpg": (1001, 667, 1),
    "small.png": (151, 227, 1),
    "large.png": (1531, 2297, 1),
    "turned.jpg": (480, 719, 6),
}


def test_onnx_runtime_masks_photographs_of_any_size_as_make_predict_does_without_this_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx", reason="pip install -r requirements-export.txt")
    pytest.importorskip("onnxruntime", reason="pip install -r requirements-export.txt")
    variant = "unet-mobilenetv3-320x512"
    runs, photographs, out = tmp_path / "runs", tmp_path / "photographs", tmp_path / "export"
    # one fold, which is what predictions take then, too
    shutil.copytree(ROOT / "trained/fast/carvana" / variant / "fold0", runs / "carvana" / variant / "fold0")
    render_competition(tmp_path / "studio", cars=1, test_cars=1, seed=11, views=1, jobs=1)
    rendered = read_picture(next((tmp_path / "studio" / STUDIO.train_dir).glob("*.jpg")))
    photographs.mkdir()
    for name, (height, width, orientation) in PHOTOGRAPHS.items():
        picture = cv2.resize(rendered, (width, height), interpolation=cv2.INTER_CUBIC)
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = cv2.rotate(picture, cv2.ROTATE_90_COUNTERCLOCKWISE) if orientation == 6 else picture
        Image.fromarray(stored[..., ::-1]).save(photographs / name, exif=exif, quality=95)
    main(competition="carvana", variant=variant, runs=runs, out=out, images=photographs)
    assert capsys.readouterr().out.count("with our own masks of 5 images: Dice ") == 2
    for kind, known in FORMATS.items():
        card = json.loads((out / f"{known.file}.json").read_text())
        # one pixel of the small one is 0.0001
        assert card["networks"] == 1 and card["worst"] > 0.9998 and card["agreement"] > 0.9999, kind

    monkeypatch.setattr(ensemble.photographs, "choose_runtime", lambda backend, count: FLOAT32)
    ensemble.photographs.main(photographs, tmp_path / "masks", variant=variant, runs=runs)
    script = tmp_path / "example.py"
    script.write_text(_example())
    by_torch = FORMATS["torch"].load((out / "blend.pt2").read_bytes())
    assert by_torch is not None
    for name, (height, width, _) in PHOTOGRAPHS.items():
        target = tmp_path / "mask.png"
        # isolated: neither this folder nor PYTHONPATH is looked into
        words = [sys.executable, "-I", str(script), str(out / "blend.onnx"), str(photographs / name), str(target)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "foreground" in done.stdout
        mask = read_picture(target, cv2.IMREAD_GRAYSCALE) > 0
        assert mask.shape == (height, width) and mask.any()
        ours = read_picture(tmp_path / "masks" / f"{Path(name).stem}_mask.png", cv2.IMREAD_GRAYSCALE) > 0
        # of one JPEG, predictions have the codec do the first halving
        assert dice(mask, ours) > (0.998 if name == "as_trained.jpg" else 0.9998), name
        assert dice(mask, by_torch(decode(photographs / name))) > 0.9998, name
    again = subprocess.run(
        [sys.executable, "-I", "-c", "import models"], cwd=tmp_path, capture_output=True, check=False
    )
    assert again.returncode != 0


class Bright(torch.nn.Module):
    """A finder that sees what is bright."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) to logits (N, 1, h, w)."""
        return x.mean(1, keepdim=True)


WINDOWED = [name for name, variant in VARIANTS.items() if variant.network == "windowed-unet"]


def small_windowed(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A windowed variant with few planes, whose networks are loaded with a finder that sees what is bright."""
    options = {"widths": (4, 4, 6, 6, 8), "fold": 4, "finder_widths": (4, 8), "finder_fold": 2}
    load = checkpoint.load

    def with_finder(folder: Path) -> Any:
        network, *others = load(folder)
        assert isinstance(network, WindowedUNet)
        network.finder = Bright()  # type: ignore[assignment]
        return network, *others

    monkeypatch.setattr(checkpoint, "load", with_finder)
    return replace(VARIANTS[name], name="small", size=(192, 256), options=options)


def spotted(size: Size, top: float, left: float) -> np.ndarray:
    """A dark picture, (H, W, 3) uint8, with something bright a sixth as high and wide, at a part of its sides."""
    image = noise(size, 5) // 4
    down, across = int(top * size[0]), int(left * size[1])
    image[down : down + size[0] // 6 + 1, across : across + size[1] // 6 + 1] += 180
    return image


# an image that is padded, and others that are resized; windows in the middle, at two borders, and everywhere
SPOTTED = [spotted((189, 251), 0.4, 0.3), spotted((301, 200), 0.0, 0.8), spotted((90, 95), 0.7, 0.1), noise(FULL) // 8]


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_are_those_of_the_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = small_windowed(name, monkeypatch)
    member = save_member(tmp_path, variant, 1)
    network = checkpoint.load(member.folds[0])[0]
    assert isinstance(network, WindowedUNet)
    graph = graph_of_network(checkpoint.load(member.folds[0])[0])
    shares = []
    with torch.inference_mode():
        for image in SPOTTED:
            (inputs,) = photograph_of(image, [frame_of(variant)]).inputs.values()
            batch = normalise(torch.from_numpy(inputs)[None], variant)
            torch.testing.assert_close(graph(batch), network(batch), atol=1e-5, rtol=1e-5)
            shares.append(network.share(batch))
            # a size that the step does not divide, as a scale of test-time augmentation makes it
            assert graph(batch[..., :160, :224]).shape == (1, 1, 160, 224)
    assert min(shares) < 0.3 and max(shares) == 1


@pytest.mark.parametrize("kind", FORMATS)
def test_windows_are_cut_out_in_the_exported_graph(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for needed in FORMATS[kind].needs:
        pytest.importorskip(needed, reason="pip install -r requirements-export.txt")
    variant = replace(small_windowed("windowed-unet-lite0-full", monkeypatch), tta=())
    blend = Blend((save_member(tmp_path, variant, 1),), (1.0,))
    paths = [tmp_path / f"{k}.png" for k in range(len(SPOTTED))]
    for path, image in zip(paths, SPOTTED, strict=True):
        cv2.imwrite(str(path), image[..., ::-1])
    # outside of a window logits are -12
    inner = np.concatenate([plane[plane > -11] for plane in own_logits(blend, paths)])
    assert inner.std() > 0.01
    blend = replace(blend, threshold=float(np.median(inner)))
    run = FORMATS[kind].load(FORMATS[kind].encode(ensemble.exported.graph_of(WholeNetwork(blend))))
    if run is None:
        pytest.skip("pip install -r requirements-export.txt")
    own = own_logits(blend, paths)
    assert all((logits > 0).any() for logits in own)
    assert agree([run(image) for image in SPOTTED], own)


def test_what_cannot_go_into_one_file_is_refused_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs" / "studio"
    members = [save_member(root, UNET, 1)]
    where: dict[str, Any] = {"competition": "studio", "runs": root.parent, "data": tmp_path / "none", "format": "torch"}
    save_blend(root, members, [1.0], postprocess_kept=[["fill-holes", 100]])
    main(**where)
    printed = capsys.readouterr().out
    assert "left out, as it works on whole masks: fill-holes" in printed
    assert "not compared, as there are no images" in printed
    assert json.loads((root / "blend" / "export" / "blend.pt2.json").read_text())["left_out"] == ["fill-holes"]
    save_pixels(root, members, (64, 96))
    with pytest.raises(SystemExit, match="a blend by pixels cannot be exported: choose another way"):
        main(**where)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find_spec(name))
    save_blend(root, members, [1.0])
    with pytest.raises(SystemExit, match=r"pip install -r requirements-export.txt, or use --format torch"):
        main(**{**where, "format": "both"})


def test_an_export_that_errs_is_kept_beside_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs" / "studio"
    save_blend(root, [save_member(root, UNET, 1)], [1.0])
    folder, photograph = root / "blend" / "export", tmp_path / "photograph.jpg"
    folder.mkdir(parents=True)
    (folder / "blend.pt2").write_bytes(b"older")
    write_photograph(photograph, *FULL)
    monkeypatch.setattr(
        ensemble.export, "own_logits", lambda blend, paths, folds: [np.full(FULL, 5.0, np.float32)] * len(paths)
    )
    monkeypatch.setattr(ensemble.export, "timed_masks", lambda run, paths: ([np.zeros(FULL, bool)], 1.0))
    with pytest.raises(
        SystemExit,
        match=r"the torch export gives other masks than this project \(Dice 0.000000, .* so it is kept as "
        r"blend.differs.pt2 in \S+, beside what was there: look at its masks of more images",
    ):
        main(competition="studio", runs=root.parent, images=photograph, format="torch")
    assert (folder / "blend.pt2").read_bytes() == b"older"
    assert FORMATS["torch"].load((folder / "blend.differs.pt2").read_bytes()) is not None
    assert json.loads((folder / "blend.differs.pt2.json").read_text())["worst"] == 0


def test_masks_agree_where_rounding_decides_and_not_where_they_are_moved() -> None:
    distance = np.hypot(*np.mgrid[-50:51, -40:61])
    own = (15.3 - distance).astype(np.float32)
    assert (own > 0).sum() < 1000
    own[50, 56] = 0.0004
    other = own > 0
    # of a mask of fewer than a thousand pixels, one is more than 0.0005 of Dice
    other[50, 56] = False
    assert dice(other, own > 0) < 0.9995 and agree([other], [own]) and agree([other] * 8, [own] * 8)
    # one that no rounding decides counts, if there are more
    other[50, 40:42] = False
    assert not agree([other], [own]) and not agree([other] * 8, [own] * 8)
    # a car, by nearest neighbour instead of bilinear: half a pixel aside
    large = (300.2 - np.hypot(*np.mgrid[-400:401, -500:501])).astype(np.float32)
    moved = (300.2 - np.hypot(*(np.mgrid[-400:401, -500:501] + 0.3))) > 0
    assert dice(moved, large > 0) > 0.999 and not agree([moved], [large])


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "studio"
    save_blend(root, [save_member(root, UNET, 1)], [1.0])
    program = (
        "from pathlib import Path\nfrom ensemble.export import main\nfrom tests.no_room import no_room\n"
        f"runs, data = Path({str(root.parent)!r}), Path('none')\n"
        "with no_room(): main(competition='studio', runs=runs, data=data, format='torch')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, (done.returncode, done.stderr[-500:])
    assert "the disk is full: " in done.stderr and "blend.pt2 could not be written" in done.stderr
    assert not list((root / "blend").glob("export/*"))
