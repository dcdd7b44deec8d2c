"""OpenVINO in torch's place: the same masks but for the edges' last digits, and nobody mixes the two unknowingly."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models.openvino_runtime
import models.runtimes
from competition import COMPETITIONS
from ensemble.blend import find_blend
from ensemble.photographs import main as mask_photographs
from folds.images import read_mask
from folds.store import LogitStore
from models.openvino_runtime import fault
from models.runtimes import choose_runtime
from predict import blocks
from studio.render import render_competition
from submit import make
from tests.synthetic_runs import AVERAGE, UNET, save_blend, save_member, write_photograph
from tests.test_models_optional_library import broken

STUDIO = COMPETITIONS["studio"]
ROOT = Path(__file__).parent.parent
TRAINED = ROOT / "trained/fast"
NAMES = [f"00000000000{k}_01.jpg" for k in range(5)]

pytestmark = pytest.mark.skipif(bool(fault()), reason="no OpenVINO that works (requirements-cpu.txt)")


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A test set of five photographs, and a blend of a network and an average mask."""
    monkeypatch.setattr(blocks, "PART_IMAGES", 3)
    data, root = tmp_path / "data", tmp_path / "runs" / "studio"
    for k, name in enumerate(NAMES):
        write_photograph(data / "test" / name, *STUDIO.size, seed=k)
    save_blend(root, [save_member(root, AVERAGE), save_member(root, UNET)], [0.2, 0.8])
    return {"competition": "studio", "data": data, "runs": root.parent, "images": data / "test", "jobs": 1}


def submission(case: dict[str, Any], **options: Any) -> bytes:
    make.main(**case, **options)
    path: Path = case["runs"] / "studio" / "blend" / "submission.csv.gz"
    return path.read_bytes()


def test_a_trained_network_gives_the_same_masks(tmp_path: Path) -> None:
    render_competition(tmp_path / "studio", cars=1, test_cars=1, seed=11, views=4, jobs=1)
    images = tmp_path / "studio" / STUDIO.train_dir
    for backend in ("torch", "openvino"):
        mask_photographs(
            images=images,
            out=tmp_path / backend,
            variant="unet-mobilenetv3-320x512",
            runs=TRAINED,
            backend=backend,  # type: ignore[arg-type]
        )
    for path in (tmp_path / "torch").glob("*.png"):
        one, other = (read_mask(tmp_path / backend / path.name, STUDIO.size) for backend in ("torch", "openvino"))
        # of rendered cars the network is less sure than of photographs
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.995
        assert one.any()
    # what would report home was never imported
    assert sys.modules["openvino_telemetry"] is None


def test_a_submission_is_the_same_with_and_without_stored_logits(case: dict[str, Any]) -> None:
    stored = submission(case, backend="openvino")
    store = LogitStore.open(case["runs"] / "studio" / UNET.name / "test.zarr")
    assert store.attributes["runtime"] == "openvino"
    shutil.rmtree(case["runs"] / "studio" / "blend" / "shards")
    assert submission(case, backend="openvino", stream=True) == stored
    torch_s = submission({**case, "jobs": 1}, backend="torch", stream=True, restart=True)
    assert len(torch_s) > 0


def test_what_was_begun_goes_on_with_its_runtime(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submission(case)
    store = case["runs"] / "studio" / UNET.name / "test.zarr"
    assert LogitStore.open(store).attributes["runtime"] == "torch"
    # as if it were worth while now
    monkeypatch.setattr(models.runtimes, "_WORTH_IMAGES", 1)
    assert choose_runtime("auto", 5) == "openvino"
    submission(case)
    assert LogitStore.open(store).attributes["runtime"] == "torch"
    with pytest.raises(SystemExit, match=r"other runtime \(--backend\) \('torch', now 'openvino'\): remove the folder"):
        submission(case, backend="openvino")
    # the remedy; the average mask has a store too
    for name in (UNET.name, AVERAGE.name):
        shutil.rmtree(case["runs"] / "studio" / name / "test.zarr")
    submission(case, restart=True)
    assert LogitStore.open(store).attributes["runtime"] == "openvino"


def test_what_a_broken_one_has_begun_is_ended_by_the_remedy(case: dict[str, Any], tmp_path: Path) -> None:
    """What it has predicted is submitted without it; what it has not, torch predicts once its stores are removed."""
    whole = submission(case, backend="openvino")
    root = case["runs"] / "studio"
    environment = broken(tmp_path, "openvino", "raise ImportError('libopenvino.so: no such file')")
    flags = [f"--{key}={case[key]}" for key in ("competition", "data", "runs", "images", "jobs")]
    command = [sys.executable, "-m", "submit.make", *flags]

    def submit(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    shutil.rmtree(root / "blend" / "shards")
    assert submit().returncode == 0
    # in shards of another size
    again = (root / "blend" / "submission.csv.gz").read_bytes()
    assert gzip.decompress(again) == gzip.decompress(whole)
    # of one image's logits nothing is left; with a stream, of none
    (root / UNET.name / "test.zarr" / "c.2.0.0.0").unlink()
    for more in ([], ["--stream"]):
        refused = submit(*more)
        assert refused.returncode == 1
        found = re.search(
            r"error: OpenVINO cannot be imported .*-cpu.txt, or remove (\S+) and (\S+), which it has begun,",
            refused.stderr,
        )
        assert found, refused.stderr
        assert set(found.groups()) == {str(root / name / "test.zarr") for name in (UNET.name, AVERAGE.name)}
    # the remedy
    for name in (UNET.name, AVERAGE.name):
        shutil.rmtree(root / name / "test.zarr")
    ended = submit("--restart")
    assert ended.returncode == 0, ended.stderr
    assert LogitStore.open(root / UNET.name / "test.zarr").attributes["runtime"] == "torch"


SIGNALLED = """
import os, signal
import torch
from models.build import build
from models.openvino_runtime import openvino_network
from tests.synthetic_runs import UNET

network = build(UNET, pretrained=False)
for order in ([0, 1], [1, 0]):
    compiled = {k: openvino_network(network, UNET, torch.device("cpu")) for k in range(2)}
    for k in order:
        del compiled[k]
signal.signal(signal.SIGINT, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_signal_is_handled_after_networks_were_released_in_any_order() -> None:
    ended = subprocess.run([sys.executable, "-c", SIGNALLED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr


def test_it_is_chosen_where_it_is_there_and_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [choose_runtime("auto", n) for n in (1, 499, 500, 100_064)] == ["torch", "torch", "openvino", "openvino"]
    assert choose_runtime("openvino", 1) == "openvino"
    with monkeypatch.context() as patch:
        patch.setattr(models.runtimes.torch.cuda, "is_available", lambda: True)
        assert choose_runtime("auto", 100_064) == "torch"
    monkeypatch.setattr(models.openvino_runtime, "fault_of", lambda library, needs: "is not installed")
    assert choose_runtime("auto", 100_064) == "torch"
    with pytest.raises(Exception, match=r"pip install -r requirements-cpu.txt, or leave --backend out"):
        choose_runtime("openvino", 1)


def test_a_blend_says_what_it_was_computed_by(case: dict[str, Any]) -> None:
    blend = find_blend(case["runs"] / "studio", "blend")
    assert "runtimes" not in blend.state()
    assert blend.on("openvino").state()["runtimes"] == {UNET.name: "openvino", AVERAGE.name: "openvino"}
    assert np.array_equal(blend.on("torch").weights, blend.weights)
