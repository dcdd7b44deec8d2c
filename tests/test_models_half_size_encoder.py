"""An encoder at half the size joins a folded U-Net; training leaves its first stages' weights alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from competition import Size
from folds.batch_norm import share_statistics
from models.build import build
from models.depthwise import in_float32
from models.networks.folded_unet import FoldedUNet
from models.networks.half_size_encoder import HalfSizeEncoder
from models.openvino_runtime import is_installed
from models.runtimes import OPENVINO, RUNTIMES
from models.tta import find_transforms
from models.variant import Variant
from models.variants import VARIANTS

NAME = "tf_efficientnet_lite0"


def variant() -> Variant:
    options = {"widths": (4, 6, 8, 8, 10), "fold": 4}
    whole = VARIANTS["windowed-unet-lite0-full"]
    return replace(whole, network="folded-unet", options=options, size=(128, 192), fit="resize", weights="none")


def folded() -> FoldedUNet:
    torch.manual_seed(3)
    network = build(variant())
    assert isinstance(network, FoldedUNet)
    return network


def images(size: Size, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(4))


@torch.inference_mode()
def test_its_planes_are_those_of_the_whole_encoder() -> None:
    import models.torchvision_compat  # noqa: F401

    import timm

    torch.manual_seed(5)
    encoder = HalfSizeEncoder(NAME, 3).eval()
    whole = timm.create_model(NAME, features_only=True).eval()
    missing, unexpected = whole.load_state_dict(encoder.network.state_dict(), strict=False)
    assert not unexpected and all(name.split(".")[1] in ("5", "6") for name in missing)
    batch = images((128, 192))
    found = encoder(batch)
    assert (
        {step: planes.shape[1] for step, planes in found.items()} == encoder.planes == {4: 16, 8: 24, 16: 40, 32: 112}
    )
    for step, wanted in zip(found, whole(F.avg_pool2d(batch, 2)), strict=False):
        assert found[step].shape[-2:] == (128 // step, 192 // step)
        torch.testing.assert_close(found[step], wanted)


@pytest.mark.parametrize("ranks", ["one", "several on CPUs", "several on GPUs"])
@pytest.mark.parametrize("called", [False, True])
def test_training_moves_all_statistics_and_leaves_the_first_stages_weights_alone(called: bool, ranks: str) -> None:
    # Lightning trains a network as it was built; who measures one may call its `train`
    network = folded().train() if called else folded()
    in_float32(network)
    if ranks != "one":
        share_statistics(network, on_gpu="GPUs" in ranks)
        if "GPUs" in ranks:
            # they compute nothing on a CPU
            norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
            assert len(norms) > 33 and all(norm.training for norm in norms)
            return
    before = {name: tensor.clone() for name, tensor in network.encoder.state_dict().items()}  # type: ignore[union-attr]
    optimiser = torch.optim.AdamW(network.parameters(), 0.01, weight_decay=0.1)
    for _ in range(2):
        network(images((128, 192))).square().mean().backward()
        optimiser.step()
    after = network.encoder.state_dict()  # type: ignore[union-attr]
    fixed = ("network.conv_stem.", "network.bn1.", "network.blocks.0.", "network.blocks.1.")
    for name, tensor in after.items():
        stays = name.startswith(fixed) and not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(tensor, before[name]) == stays, name


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("size", [(128, 192), (64, 64), (192, 320)], ids=str)
@torch.inference_mode()
def test_every_runtime_gives_the_same_logits_at_every_size(name: str, size: Size) -> None:
    if name == OPENVINO and not is_installed():
        pytest.skip("OpenVINO is not installed (requirements-cpu.txt)")
    network, batch = folded().eval(), images(size).contiguous(memory_format=torch.channels_last)
    wanted = network(batch)
    assert wanted.shape == (2, 1, *size)
    found = RUNTIMES[name](network, variant(), torch.device("cpu")).mean_logits(batch, find_transforms(()))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.03 * float(wanted.abs().max()))


@torch.inference_mode()
def test_sizes_that_pooling_does_not_divide_are_masked_too() -> None:
    # as a scale of test-time augmentation makes them
    assert folded().eval()(images((148, 212))).shape == (2, 1, 148, 212)


@pytest.mark.parametrize("fold", [2, 4, 8])
@torch.inference_mode()
def test_planes_join_the_levels_of_their_size(fold: int) -> None:
    network = FoldedUNet(3, 2, widths=(4, 6, 8), fold=fold, encoder=NAME).eval()
    assert network.encoder is not None
    planes = [network.encoder.planes.get(fold * 2**level, 0) for level in range(3)]
    taken = [tensor.shape[1] for name, tensor in network.state_dict().items() if name.endswith("first.0.weight")]
    assert taken == [before + more for before, more in zip((4, 4, 6), planes, strict=True)]
    side = FoldedUNet.divisor((4, 6, 8), fold) * 3
    assert network(images((side, side))).shape == (2, 2, side, side)
