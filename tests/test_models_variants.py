import json
from pathlib import Path

import pytest
import torch

from command_line import UserError
from models import checkpoint
from models.build import build, parameter_count
from models.tta import TRANSFORMS, find_transforms, mean_logits
from models.variants import VARIANTS, Variant, find_variant, parse_variants


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_builds_predicts_and_comes_back_from_disk(name: str, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_is_undone_by_its_inverse(name: str) -> None:
    x = torch.rand(2, 3, 8, 10)
    assert torch.equal(TRANSFORMS[name].invert(TRANSFORMS[name].apply(x)), x)


def test_mean_logits_averages_undone_transforms() -> None:
    ramp = torch.arange(6.0).reshape(1, 1, 1, 6)

    class Add(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch + ramp

    x = torch.rand(1, 1, 1, 6)
    expected = x + (ramp + ramp.flip(-1)) / 2
    torch.testing.assert_close(mean_logits(Add(), x, find_transforms(("hflip",))), expected)
    torch.testing.assert_close(mean_logits(Add(), x, find_transforms(())), x + ramp)
    with pytest.raises(UserError, match="hflip"):
        find_transforms(("spin",))
