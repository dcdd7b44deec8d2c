"""The published systems' networks against what their documents say of them."""

from dataclasses import replace

import pytest
import torch

from models.build import build
from models.networks.dilated_unet import DilatedUNet
from models.networks.residual_unet import ResidualUNet
from models.networks.simple_cnn import SimpleCNN
from models.networks.unet import UNet
from models.variant import Variant
from models.variants import VARIANTS
from tests.test_folds_resume import families

FOLDED = [variant.name for variant in VARIANTS.values() if variant.network == "folded-unet"]


def on_meta(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return build(VARIANTS[name], pretrained=False)


def values(network: torch.nn.Module) -> tuple[int, int]:
    """Trainable values, and running means and variances."""
    running = sum(b.numel() for n, b in network.named_buffers() if n.endswith(("running_mean", "running_var")))
    return sum(p.numel() for p in network.parameters() if p.requires_grad), running


def convolutions(network: torch.nn.Module, size: int) -> list[torch.nn.Conv2d]:
    return [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (size, size)]


def test_c_has_the_published_number_of_values() -> None:
    trainable, running = values(on_meta("c-unet-128"))
    assert trainable == 34_527_041
    assert running == 13_696
    assert trainable + running == 34_540_737


def test_a_has_17_convolutions_a_head_and_a_centre_of_512() -> None:
    network = on_meta("a-unet-128")
    convs = convolutions(network, 3)
    assert len(convs) == 17
    assert max(c.out_channels for c in convs) == 512
    assert len(convolutions(network, 1)) == 1


def test_a_baseline_is_three_convolutions() -> None:
    shapes = [
        (c.out_channels, *c.kernel_size) for c in on_meta("a-cnn-128").modules() if isinstance(c, torch.nn.Conv2d)
    ]
    assert shapes == [(16, 3, 3), (32, 3, 3), (1, 5, 5)]


@pytest.mark.parametrize("name", ["b-unet-768", "b-dense-unet-768"])
def test_b_has_18_convolutions(name: str) -> None:
    network = on_meta(name)
    assert len(convolutions(network, 3)) == 18
    # nine blocks, each with its way past the convolutions
    assert len(convolutions(network, 1)) == (10 if "dense" in name else 1)


def test_e_is_a_plain_unet_of_64_to_1024_on_six_channels() -> None:
    network = on_meta("e-unet-192")
    convs = convolutions(network, 3)
    assert [c.out_channels for c in convs][:10:2] == [64, 128, 256, 512, 1024]
    assert convs[0].in_channels == 6 and len(convs) == 18
    up = [m for m in network.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in up] == [(1024, 512), (512, 256), (256, 128), (128, 64)]


def test_d_has_a_decoder_for_each_head_and_nothing_pools() -> None:
    network = on_meta("d-resunet-64")
    kinds = [type(m).__name__ for m in network.modules()]
    assert not [kind for kind in kinds if "Pool" in kind or "Upsample" in kind]
    assert len([c for c in convolutions(network, 3) if c.stride == (2, 2)]) == 3
    assert abs(values(network)[0] - 11_234_066) < 200
    assert kinds.count("Decoder") == 2 and kinds.count("ConvTranspose2d") == 6


@pytest.mark.parametrize("name", FOLDED)
def test_a_folded_unet_is_the_same_function_in_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training takes other convolutions than prediction, on planes that were not doubled."""
    torch.manual_seed(3)
    variant = VARIANTS[name]
    network = build(variant, pretrained=False).double()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        for tensor in norm.state_dict().values():
            if tensor.is_floating_point():
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
    step = variant.options["fold"] * 2 ** (len(variant.options["widths"]) - 1)
    image = torch.rand(2, variant.in_channels, step, 3 * step, dtype=torch.double)

    def logits_and_gradients() -> tuple[torch.Tensor, list[torch.Tensor]]:
        network.zero_grad()
        logits = network(image)
        logits.square().mean().backward()
        return logits.detach(), [p.grad.clone() for p in network.parameters() if p.grad is not None]

    network.eval()
    predicting, wanted = logits_and_gradients()
    network.train()
    for norm in norms:
        norm.eval()
    monkeypatch.delattr(torch.nn.functional, "interpolate")
    training, gradients = logits_and_gradients()
    torch.testing.assert_close(training, predicting)
    assert len(wanted) == len(list(network.parameters()))
    torch.testing.assert_close(gradients, wanted)


@pytest.mark.parametrize("name", ["d-resunet-64", "depth-resnet18-192"])
def test_a_heads_own_decoder_is_no_part_of_the_others(name: str) -> None:
    variant = replace(VARIANTS[name], size=(64, 64))
    network = build(variant, pretrained=False).eval()
    logits = network(torch.rand(1, 6, 64, 64))
    assert logits.shape == (1, 2, 64, 64)
    logits[:, variant.planes_of("mask")].square().mean().backward()
    untouched = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    others = {n for n, _ in network.named_parameters() if n.startswith(("decoders.1.", "logits.1."))}
    assert others and untouched == others


def test_the_dilated_net_has_8_5_million_values_and_no_batch_norm() -> None:
    network = on_meta("dilated-unet-full")
    trainable, running = values(network)
    assert round(trainable / 1e6, 1) == 8.5
    assert running == 0
    assert sorted({c.dilation[0] for c in convolutions(network, 3)}) == [1, 2, 4, 8, 16, 32]


def test_without_batch_norm_the_signal_still_has_a_scale() -> None:
    torch.manual_seed(0)
    network = DilatedUNet(3, 1, widths=(8, 16, 32, 64))
    with torch.inference_mode():
        logits = network(torch.rand(2, 3, 96, 96) - 0.5)
    assert 1e-3 < logits.std() < 10


@pytest.mark.parametrize(
    "network",
    [
        SimpleCNN(3, 1),
        UNet(3, 1, widths=(4, 8, 8)),
        UNet(3, 1, widths=(4, 8, 8), block="dense"),
        UNet(3, 1, widths=(4, 8, 8), upsampling="transposed"),
        DilatedUNet(3, 1),
        ResidualUNet(3, (1, 1), widths=(4, 8, 8)),
    ],
    ids=["cnn", "unet", "dense", "transposed", "dilated", "residual"],
)
def test_every_weight_learns_and_a_shift_of_the_input_shifts_the_logits(network: torch.nn.Module) -> None:
    network.eval()
    batch = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    network(batch).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    # eight pixels are whole steps of every pooling; the border sees padding, so only the middle is compared
    with torch.inference_mode():
        moved = network(batch.roll(8, 3))
        still = network(batch)
    if not isinstance(network, DilatedUNet):  # sees the border from everywhere
        torch.testing.assert_close(moved[..., 28:44, 32:40], still[..., 28:44, 24:32], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", [*families()], ids=lambda variant: variant.name)
def test_a_network_trains_as_it_was_built_and_no_other_way_where_train_is_called(variant: Variant) -> None:
    # Lightning never calls it: what a module does there does not happen in a training, but in what measures one
    network = build(variant)
    built = {name: module.training for name, module in network.named_modules()}
    assert all(built.values())
    network.train()
    assert {name: module.training for name, module in network.named_modules()} == built
