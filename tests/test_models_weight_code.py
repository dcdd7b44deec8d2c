"""Weights in fewer bits are the weights, to half a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from command_line import UserError
from folds.run_layout import WEIGHTS_FILE
from models import checkpoint
from models.build import build
from models.variants import VARIANTS
from models.weight_code import restored, stored

# one network of each kind, from scratch
KINDS = {variant.network: replace(variant, weights="none") for variant in reversed(VARIANTS.values())}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_is_restored_to_half_a_step(kind: str) -> None:
    state = build(KINDS[kind], pretrained=False).state_dict()
    small = {bits: stored(state, bits) for bits in (32, 16, 8)}
    sizes = {bits: len(safetensors.torch.save(tensors)) for bits, tensors in small.items()}
    # names and shapes are a part of the file
    assert sizes[8] < 0.6 * sizes[16] < 0.4 * sizes[32] or sizes[32] < 3e6
    for bits, tensors in small.items():
        back = restored(safetensors.torch.load(safetensors.torch.save(tensors)))
        assert back.keys() == state.keys()
        for name, tensor in state.items():
            if bits == 32 or not tensor.is_floating_point():
                assert torch.equal(back[name], tensor), name
            elif bits == 8 and tensor.ndim < 2:
                assert torch.all((back[name].float() - tensor).abs() <= 2.0**-8 * tensor.abs()), name
            elif bits == 8:
                steps = tensor.abs().flatten(1).amax(1).view(-1, *[1] * (tensor.ndim - 1)) / 127
                assert torch.all((back[name] - tensor).abs() <= 0.51 * steps), name
    # what was stored in 8 bits is stored so again without another loss
    again = stored(restored(small[8]), 8)
    assert all(torch.equal(again[name].float(), tensor.float()) for name, tensor in small[8].items())


@pytest.mark.parametrize("size", [1e-30, 1e-6, 0.3, 7e4, 1e30])
def test_values_of_every_size_keep_8_bits(size: float) -> None:
    drawn = torch.randn(5, 1023, generator=torch.Generator().manual_seed(1)) * size
    back = restored(safetensors.torch.load(safetensors.torch.save(stored({"kernel": drawn, "bias": drawn[:, 0]}, 8))))
    assert torch.all((back["bias"].float() - drawn[:, 0]).abs() <= 2.0**-8 * drawn[:, 0].abs())
    # half a step, and what the scale was rounded by
    assert torch.all((back["kernel"] - drawn).abs() <= 0.51 / 127 * drawn.abs().amax(1, keepdim=True))


def test_channels_of_zeros_stay_zeros() -> None:
    weights = torch.zeros(3, 1501, 1, 1)
    weights[1, 0] = -2.0
    small = stored({"a": weights}, 8)
    assert small["a"].dtype == torch.int8
    back = restored(small)["a"]
    assert torch.equal(back == 0, weights == 0)
    torch.testing.assert_close(back, weights, rtol=2.0**-11, atol=0)


def test_a_tensor_of_few_values_has_16_bits_of_each() -> None:
    weights = torch.randn(41, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    weights[3] = 0
    # too small for float16 by itself, next to nothing in its kernel
    weights[5, 0, 1, 1] = 1e-9
    for drawn, lost in ((weights, 2.0**-11), (weights * 1e6, 2.0**-8)):
        small = stored({"a": drawn}, 8)
        assert small.keys() == {"a"} and small["a"].element_size() == 2
        largest = drawn.abs().amax((1, 2, 3), keepdim=True)
        assert torch.all((restored(small)["a"].float() - drawn).abs() <= lost * largest)


def test_a_parameter_named_scale_is_one_of_the_network() -> None:
    state = {"norm.scale": torch.arange(3.0), "norm": torch.arange(3.0), "other.scale": torch.ones(2, 2)}
    for bits in (32, 16, 8):
        back = restored(stored(state, bits))
        assert back.keys() == state.keys()
        assert all(torch.allclose(back[name].float(), tensor, rtol=2.0**-11) for name, tensor in state.items())


def test_scales_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    codes = torch.ones(3, 2, dtype=torch.int8)
    data = safetensors.torch.save({"a": codes, "a.scale": torch.ones(2)})
    with pytest.raises(
        UserError, match=rf"{WEIGHTS_FILE} cannot be loaded \(a.scale does not fit a\): put it back, or train"
    ):
        checkpoint.parse_weights(data, tmp_path)
