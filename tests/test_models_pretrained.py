import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from command_line import UserError
from models import pretrained
from models.build import build
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
