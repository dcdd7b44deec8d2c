"""Batch norm over several ranks: the same gradients and statistics as on one, and the same network afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from folds.batch_norm import share_statistics
from folds.ranks import Rank, run_ranks
from models.build import build
from models.variant import Variant
from tests.test_folds_resume import families

# torch's own batch norm; timm's, which holds an activation, beside it
STEPPED = ("a-unet-128", "unet-mobilenetv3")


@pytest.mark.parametrize("variant", [*families()], ids=lambda variant: variant.name)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_sharing_leaves_the_network_as_it_was(variant: Variant, on_gpu: bool) -> None:
    network = build(variant).eval()
    shared = share_statistics(copy.deepcopy(network), on_gpu=on_gpu)
    assert not any(type(module) is torch.nn.BatchNorm2d for module in shared.modules())
    images = torch.randn(1, variant.in_channels, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(shared(images), network(images))
    state, expected = shared.state_dict(), network.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    assert [name for name, _ in shared.named_parameters()] == [name for name, _ in network.named_parameters()]


def after_a_step(network: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients and statistics after one step on (N, 3, 64, 64) images, with nothing but batch norm in training."""
    for module in network.eval().modules():
        module.training = isinstance(module, _BatchNorm)
    network(images).square().sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return gradients | dict(network.named_buffers())


def differences(rank: Rank) -> dict[str, float]:
    """By tensor: the greatest difference between two ranks and one, as a share of its greatest value."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank.index, world_size=rank.count)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = {}
    for variant in (each for each in families() if each.name in STEPPED):
        torch.manual_seed(0)
        network = build(variant).double()
        shared = share_statistics(copy.deepcopy(network), on_gpu=False)
        # the ranks' parts need not be alike
        seen = after_a_step(shared, images[:3] if rank.index == 0 else images[3:])
        for parameter in shared.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
        for name, tensor in after_a_step(network, images).items():
            # the gradient of a bias before a batch norm is 0, and what stands there is rounding
            found[f"{variant.name} {name}"] = float((seen[name] - tensor).abs().max() / tensor.abs().max().clamp(1e-3))
    dist.destroy_process_group()
    return found


def test_two_ranks_step_as_one_does() -> None:
    found = run_ranks(differences, count=2)
    assert {name.split()[0] for name in found} == set(STEPPED)
    assert max(found.values()) < 1e-7, max(found, key=found.__getitem__)
