"""Depthwise convolutions are trained in float32 on CPUs, and everything else stays as it was."""

from __future__ import annotations

import copy

import torch
from torch import nn

from models.build import build
from models.depthwise import in_float32
from models.variants import find_variant

NARROW = torch.bfloat16


def test_a_network_predicts_the_same_and_keeps_the_names_of_its_weights() -> None:
    torch.manual_seed(0)
    network = build(find_variant("unet-mobilenetv3"), pretrained=False).eval()
    images, names = torch.randn(1, 3, 96, 64), list(network.state_dict())
    with torch.autocast("cpu", NARROW), torch.inference_mode():
        before = network(images)
        in_float32(network)
        assert torch.equal(network(images), before)
    assert list(network.state_dict()) == names
    # only depthwise ones are of another kind
    of_another = [m for m in network.modules() if isinstance(m, nn.Conv2d) and type(m) is not nn.Conv2d]
    assert len(of_another) > 5
    assert all(m.groups == m.in_channels > 1 for m in of_another)
    assert not any(m.groups > 1 for m in network.modules() if type(m) is nn.Conv2d)


def test_what_is_trained_has_the_bits_of_float32_and_hands_on_what_it_was_given() -> None:
    torch.manual_seed(1)
    layer = nn.Sequential(nn.Conv2d(6, 6, 5, 2, 2, groups=6)).train()
    images = torch.randn(2, 6, 13, 11).to(NARROW).requires_grad_()
    in_float32(layer)
    for each in (layer, copy.deepcopy(layer)):
        with torch.autocast("cpu", NARROW):
            found = each(images)
        assert found.dtype == NARROW
        weight, bias = each.parameters()
        wanted = nn.functional.conv2d(images.float(), weight, bias, 2, 2, groups=6).to(NARROW)
        assert torch.equal(found, wanted)
        ours, theirs = (torch.autograd.grad(y.float().sum(), weight)[0] for y in (found, wanted))
        assert torch.equal(ours, theirs)
    # without autocast there is nothing to widen
    assert layer(images.float()).dtype == torch.float32


def test_those_padded_as_in_tensorflow_are_too() -> None:
    import models.torchvision_compat  # noqa: F401

    from timm.layers.conv2d_same import Conv2dSame

    torch.manual_seed(2)
    plain = Conv2dSame(6, 6, 5, 2, groups=6).train()
    layer = copy.deepcopy(plain)
    in_float32(layer)
    images = torch.randn(2, 6, 13, 11).to(NARROW)
    with torch.autocast("cpu", NARROW):
        found, narrow = layer(images), plain(images)
    assert torch.equal(found, plain(images.float()).to(NARROW)) and not torch.equal(found, narrow)
    with torch.autocast("cpu", NARROW):
        assert torch.equal(layer.eval()(images), plain.eval()(images))


def test_derived_and_grouped_convolutions_are_left_alone() -> None:
    class Own(nn.Conv2d):
        pass

    network = nn.Sequential(Own(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(1, 1, 3))
    kinds = [type(m) for m in network]
    in_float32(network)
    assert [type(m) for m in network] == kinds
