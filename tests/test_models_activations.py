"""Looking into networks: each family has stages, and evidence is what a change of a stage would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from command_line import UserError
from models.activations import foreground_score, look_inside, pixel_score
from models.build import build, divisor
from models.networks.windowed_unet import unwindowed
from models.variant import Variant
from models.variants import VARIANTS


def small(variant: Variant) -> Variant:
    """It with an input of 64 px, or little more, by half as many again."""
    step = max(divisor(variant), 8)
    height = -(-64 // step) * step
    return replace(variant, size=(height, -(-96 // step) * step))


def families() -> list[Variant]:
    """A variant of each architecture and kind of encoder of the registry, the first of several sizes."""
    found: dict[tuple[Any, ...], Variant] = {}
    for variant in VARIANTS.values():
        key = (
            variant.network,
            variant.architecture,
            variant.encoder[:6],
            len(variant.heads),
            str(variant.options)[-20:],
        )
        # networks of more than 30 million parameters take seconds to draw, and are of families that are here
        if "vgg" not in variant.name and not variant.fitted and max(variant.options.get("widths", (0,))) < 1024:
            found.setdefault(key, variant)
    return list(found.values())


def untrained(variant: Variant) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    network = unwindowed(build(variant, pretrained=False).eval())
    return network, torch.randn(1, variant.in_channels, *variant.size)


def test_the_families_are_many() -> None:
    networks = {(v.network, v.architecture) for v in families()}
    assert {("smp", "Unet"), ("smp", "FPN"), ("unet", ""), ("folded-unet", ""), ("residual-unet", "")} <= networks
    assert any(len(v.heads) > 1 for v in families()) and any(v.in_channels == 6 for v in families())


@pytest.mark.parametrize("variant", families(), ids=lambda v: v.name)
def test_every_family_has_stages_and_stays_as_it_was(variant: Variant) -> None:
    network, inputs = untrained(small(variant))
    with torch.inference_mode():
        alone = network(inputs)[0].numpy()
    logits, stages = look_inside(network, inputs, foreground_score(0))
    assert np.array_equal(logits, alone)
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    # one at every level, and evidence in those that lead to the first head
    assert len(stages) >= 2 and len({stage.name for stage in stages}) == len(stages)
    assert sum(stage.evidence is not None for stage in stages) >= 2
    height, width = inputs.shape[2:]
    for stage in stages:
        _, h, w = stage.values.shape
        assert abs(h * width - w * height) <= max(height, width)
        assert np.isfinite(stage.values).all() and np.all(np.diff(stage.strength()[stage.strongest(10**6)]) <= 0)
        if stage.evidence is not None:
            assert stage.evidence.shape == (h, w) and stage.evidence.min() >= 0
    # what is shown last is no logits
    assert stages[-1].values.shape[1:] != logits.shape[1:] or not np.array_equal(stages[-1].values, logits)


def test_a_head_has_no_evidence_in_the_other_heads_decoder() -> None:
    network, inputs = untrained(small(VARIANTS["compact-96"]))
    for plane in (0, 1):
        stages = look_inside(network, inputs, foreground_score(plane))[1]
        of = {k: [s.evidence is not None for s in stages if s.name.startswith(f"decoders.{k}.")] for k in (0, 1)}
        assert all(of[plane]) and of[plane] and not any(of[1 - plane])


def changed(network: torch.nn.Module, name: str, inputs: torch.Tensor, channel: int, by: float) -> torch.Tensor:
    """The logits where one channel of a module's output is larger everywhere."""

    def hook(module: torch.nn.Module, given: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, channel] += by
        return output

    handle = network.get_submodule(name).register_forward_hook(hook)
    try:
        with torch.no_grad():
            result: torch.Tensor = network(inputs)
            return result
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["a-unet-128", "folded-unet-fine-128"])
def test_evidence_is_what_a_change_of_each_channel_would_do(name: str) -> None:
    """Weights by finite differences in double precision instead of gradients."""
    variant = VARIANTS[name]
    # narrow, as each channel of a stage costs two forward passes
    narrow = replace(variant, options={**variant.options, "widths": (4, 6, 8)}, size=(32, 48))
    network, inputs = untrained(narrow)
    network, inputs = network.double(), inputs.double()
    score = pixel_score(0, 10, 33)
    stages = {stage.name: stage for stage in look_inside(network, inputs, score)[1]}
    for stage in (stages["down.1"], stages["up.0"]):
        channels, h, w = stage.values.shape
        slopes: Sequence[float] = [
            float(
                score(changed(network, stage.name, inputs, k, 1e-6))
                - score(changed(network, stage.name, inputs, k, -1e-6))
            )
            / 2e-6
            for k in range(channels)
        ]
        expected = np.maximum(np.einsum("c,chw->hw", np.array(slopes) / (h * w), stage.values), 0)
        assert stage.evidence is not None and expected.max() > 0
        np.testing.assert_allclose(stage.evidence, expected, atol=1e-3 * expected.max())


def test_a_network_without_layers_is_refused() -> None:
    network, inputs = untrained(replace(VARIANTS["average-mask"], size=(40, 60)))
    with pytest.raises(UserError, match="has no layers to look into"):
        look_inside(network, inputs, foreground_score(0))
