import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from huggingface_hub import constants

from command_line import UserError
from models import pretrained
from models.build import build
from models.image_file import decode
from models.variant import TIMM, Variant
from models.variants import VARIANTS

RESNET = replace(VARIANTS["unet-resnet18"], weights="imagenet")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize("encoder", ["resnet18", "tu-regnetx_002"])
def test_offline_is_one_sentence_at_once(encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(UserError, match="--weights none") as caught:
        build(replace(RESNET, encoder=encoder))
    assert str(tmp_path) in str(caught.value)
    assert pretrained.repository(replace(RESNET, encoder=encoder)).replace("/", "--") in str(caught.value)
    build(replace(RESNET, encoder=encoder), pretrained=False)


def test_a_network_that_does_not_answer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # accepts and never speaks
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        # it would never return if it waited for the answer
        assert not pretrained.hub_answers(0.3)
    # refuses
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="does not answer"):
        build(RESNET)


def test_weights_in_the_cache_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(pretrained, "hub_answers", lambda: pytest.fail("asked the network"))
    network = torch.nn.Identity()

    def make() -> torch.nn.Module:
        assert constants.HF_HUB_OFFLINE
        return network

    assert pretrained.with_weights(make, RESNET) is network
    assert not constants.HF_HUB_OFFLINE


def test_an_encoder_without_such_weights_is_named() -> None:
    with pytest.raises(UserError, match="no imagenet weights for 'tu-nothing'"):
        build(replace(RESNET, encoder="tu-nothing"))
    with pytest.raises(UserError, match="no imagenet weights for 'resnet1'"):
        build(replace(RESNET, encoder="resnet1"))


def packaged(name: str) -> Variant:
    """A small network with an encoder whose weights a package holds."""
    return replace(LITE, encoder=TIMM + name)


LITE = replace(
    VARIANTS["windowed-unet-lite0-full"],
    network="folded-unet",
    options={"widths": (4, 4, 6, 6, 8), "fold": 4},
    size=(64, 64),
    fit="resize",
)


@pytest.mark.parametrize("name", pretrained.PACKAGES)
def test_weights_from_a_package_need_no_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "with_weights", lambda *_: pytest.fail("asked for more than the package"))
    variant = packaged(name)
    state = pretrained.timm_weights(variant)
    network = build(variant)
    encoder = {
        name.removeprefix("encoder.network."): t for name, t in network.state_dict().items() if "encoder" in name
    }
    assert len(encoder) > 150 and all(torch.equal(tensor, state[name]) for name, tensor in encoder.items())
    other = build(variant, pretrained=False).state_dict()
    assert not torch.equal(other["encoder.network.conv_stem.weight"], state["conv_stem.weight"])


@pytest.mark.parametrize("name", pretrained.PACKAGES)
def test_weights_from_a_package_know_cars(name: str) -> None:
    data = os.environ.get("CARVANA_DATA")
    if not data:
        pytest.skip("CARVANA_DATA does not name a folder with Carvana's train")
    # ImageNet's: wagon, cab, convertible, jeep, limousine, minibus, minivan, Model T, pickup, racer, sports car
    cars = {436, 468, 511, 609, 627, 654, 656, 661, 717, 751, 817}
    import models.torchvision_compat  # noqa: F401

    import timm

    network = timm.create_model(name).eval()
    network.load_state_dict(pretrained.timm_weights(packaged(name)))
    paths = sorted((Path(data) / "train").glob("*_04.jpg"))[:12]
    seen = []
    for path in paths:
        image = decode(path)[:, 319:1599]
        reduced = cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        with torch.inference_mode():
            logits = network(torch.from_numpy((reduced - LITE.mean) / LITE.std).float().permute(2, 0, 1)[None])
        seen.append(int(logits.argmax()) in cars)
    assert seen and np.mean(seen) > 0.8


def test_without_the_package_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pretrained, "PACKAGES", {"tf_efficientnet_lite0": "no_such_package_as_this"})
    with pytest.raises(UserError, match="tf_efficientnet_lite0 are not on this machine") as caught:
        build(LITE)
    assert str(tmp_path) in str(caught.value)


def test_a_package_with_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "other_weights" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    state = pretrained.timm_weights(LITE)
    torch.save(dict(zip([*list(state)[1:], "one"], state.values(), strict=True)), folder / "weights.pth")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pretrained, "PACKAGES", {"tf_efficientnet_lite0": "other_weights"})
    with pytest.raises(UserError, match="other_weights holds other weights"):
        build(LITE)
