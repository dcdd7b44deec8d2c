import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from command_line import UserError
from competition import COMPETITIONS, Size
from models import checkpoint
from models.build import at_size_of, build, check_size, divisor, parameter_count
from models.tta import find_transforms
from models.variant import Head, Variant
from models.variants import VARIANTS, find_variant, parse_variants

SMALL = ("average-mask", "unet-mobilenetv3", "fpn-regnetx", "unet-resnet18", "a-cnn-128")


@pytest.mark.parametrize("name", SMALL)
def test_a_variant_comes_back_from_disk(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    network = build(variant, pretrained=False).eval()
    batch = torch.rand(2, variant.in_channels, *variant.size)
    with torch.inference_mode():
        logits = network(batch)
    assert logits.shape == (2, variant.out_channels, *variant.size)
    checkpoint.save(tmp_path, network, variant)
    again, same = checkpoint.load(tmp_path)
    assert same == variant
    assert parameter_count(again) == parameter_count(network)
    with torch.inference_mode():
        torch.testing.assert_close(again(batch), logits)


def _suits(variant: Variant, full: Size) -> bool:
    try:
        check_size(variant, full)
    except UserError:
        return False
    return True


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.fit == "pad"])
def test_a_variant_that_pads_has_the_size_of_the_frames_at_hand(name: str) -> None:
    variant = VARIANTS[name]
    # the registry's own size is the first competition's
    assert at_size_of(variant, next(iter(COMPETITIONS.values())).size) is variant
    for competition in COMPETITIONS.values():
        assert _suits(at_size_of(variant, competition.size), competition.size)
    assert at_size_of(VARIANTS["unet-resnet18"], (101, 101)) is VARIANTS["unet-resnet18"]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_gives_logits_for_other_planes_and_augmented_sizes_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on the meta device nothing is computed, only shapes; one encoder reads numbers from a linspace while it is built
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    variant = VARIANTS[name]
    assert any(_suits(variant, competition.size) for competition in COMPETITIONS.values())
    if not variant.fitted:
        variant = replace(variant, in_channels=6, heads=(Head("mask"), Head("depth", 2)))
    with torch.device("meta"):
        network = build(variant, pretrained=False).eval()
        for transform in find_transforms(() if variant.fitted else ("scale0.9*rot90", "scale1.1")):
            size = transform.resized(variant.size)
            with torch.inference_mode():
                logits = network(torch.empty(1, variant.in_channels, *size))
            assert logits.shape == (1, variant.out_channels, *size)


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if divisor(variant) > 1])
def test_a_size_that_does_not_fit_is_refused_with_one_that_does(name: str) -> None:
    variant = VARIANTS[name]
    step = divisor(variant)
    wrong = replace(variant, size=(step * 3 + 1, step * 4))
    with pytest.raises(UserError, match=f"size {step * 4}x{step * 4} "):
        check_size(wrong)
    with pytest.raises(UserError, match="divisible"):
        build(wrong, pretrained=False)
    check_size(replace(variant, fit="resize", size=(step * 4, step * 4)), (1280, 1918))


def test_padding_to_less_than_the_frame_is_refused_with_a_size_that_works() -> None:
    variant = replace(VARIANTS["dilated-unet-full"], size=(1280, 1912))
    with pytest.raises(UserError, match=r"these are 1280x1918.*size 1280x1920"):
        check_size(variant, (1280, 1918))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_survives_json(name: str) -> None:
    assert Variant.from_json(json.loads(json.dumps(VARIANTS[name].to_json()))) == VARIANTS[name]


def test_bad_names_list_the_known_ones() -> None:
    for text in ("unet-xyz", "average-mask,unet-xyz"):
        with pytest.raises(UserError, match="average-mask, "):
            parse_variants(text)
    with pytest.raises(UserError, match="no variant given"):
        parse_variants(" , ")
    with pytest.raises(UserError, match="twice"):
        parse_variants("average-mask,average-mask")
    assert parse_variants("all") == list(VARIANTS.values())
    assert find_variant("average-mask").fitted


def test_damaged_and_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"variant\.json is missing"):
        checkpoint.load(tmp_path)
    variant = VARIANTS["average-mask"]
    checkpoint.save(tmp_path, build(variant), variant)
    weights = tmp_path / checkpoint.WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be loaded"):
        checkpoint.load(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="is missing"):
        checkpoint.load(tmp_path)
