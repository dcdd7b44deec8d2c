import json
from pathlib import Path

import pytest
import torch

from command_line import UserError
from models import checkpoint
from models.build import build, parameter_count
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
