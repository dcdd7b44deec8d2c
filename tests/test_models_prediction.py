"""Every runtime computes the networks that torch has trained."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from models.build import build
from models.network_input import normalise
from models.openvino_runtime import is_installed
from models.runtimes import OPENVINO, RUNTIMES, Backend, choose_runtime
from models.tta import IDENTITY
from models.variant import Head
from models.variants import VARIANTS


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_gives_the_network_s_own_logits(name: str) -> None:
    if name == OPENVINO and not is_installed():
        pytest.skip("OpenVINO is not installed (requirements-cpu.txt)")
    heads = (Head("mask"), Head("depth", 2))
    variant = replace(VARIANTS["a-unet-128"], size=(30, 46), options={"widths": (4, 8)}, heads=heads)
    torch.manual_seed(0)
    network = build(variant).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, *variant.size, 3)).astype(np.uint8)
    with torch.inference_mode():
        wanted = network(normalise(torch.from_numpy(images), variant)).numpy()
    ready = RUNTIMES[name](network, variant, torch.device("cpu"))
    logits = ready.mean_logits(ready.inputs(images), [IDENTITY])
    assert logits.dtype is torch.float32
    # narrow floats keep two to three digits
    np.testing.assert_allclose(logits.cpu().numpy(), wanted, atol=0.03 * np.abs(wanted).max())


def test_every_runtime_can_be_asked_for() -> None:
    assert set(get_args(Backend)) == {"auto", *RUNTIMES}
    for name in RUNTIMES:
        if name != OPENVINO or is_installed():
            assert choose_runtime(name, 1) == name  # type: ignore[arg-type]
