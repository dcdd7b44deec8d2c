"""Runs folders made on the spot: networks with random weights, with all that makes them members of an ensemble."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import atomic
from competition import COMPETITIONS, Size
from ensemble import pixels_file
from ensemble.pixels import BoostedPixels, names_of_features
from ensemble.trees import Growth, grow
from folds.outputs import LOGITS_DIGEST
from folds.run_layout import MANIFEST_FILE
from models import checkpoint
from models.build import build
from models.frame import frame_of
from models.variant import Variant
from predict.members import Member, find_members

UNET = Variant(
    name="tiny-unet",
    network="smp",
    architecture="Unet",
    encoder="tu-mobilenetv3_small_050",
    options={"decoder_channels": (16, 8, 8, 8, 8)},
    size=(64, 96),
    recipe="demo",
)
AVERAGE = Variant(name="tiny-average", network="average-mask", size=(40, 60), recipe="fitted", tta=(), fitted=True)


def save_member(root: Path, variant: Variant, folds: int = 2, **manifest: object) -> Member:
    """Write a variant with random weights into `root` and find it as a member."""
    for k in range(folds):
        torch.manual_seed(k)
        network = build(variant, pretrained=False)
        if variant.fitted:
            mask = np.zeros(variant.size, np.uint8)
            cv2.circle(mask, (variant.size[1] // 2, variant.size[0] // 2), variant.size[0] // 3 + k, 255, -1)
            network.fit([mask])  # type: ignore[operator]
        folder = root / variant.name / f"fold{k}"
        checkpoint.save(folder, network, variant)
        facts = {
            "variant": variant.to_json(),
            "fold": k,
            "images": {"train": 2, "held_out": 1},
            "folds_digest": "f",
            "data_digest": "d",
            "frame_version": frame_of(variant).version(COMPETITIONS["carvana"].size),
            **({} if variant.fitted else {"precision": "bf16"}),
            **manifest,
        }
        atomic.write_json(folder / "manifest.json", facts)
    return find_members(root, [variant.name], folds)[0]


def forget_logits_digests(root: Path) -> None:
    """Make the manifests of `runs/<competition>` be of before logits had digests, so that tests may write others."""
    for path in root.glob(f"*/fold*/{MANIFEST_FILE}"):
        manifest = json.loads(path.read_text())
        manifest.pop(LOGITS_DIGEST, None)
        path.write_text(json.dumps(manifest))


def fitted_blend(
    digests: Mapping[str, str], weights: Sequence[float], threshold: float = 0.0, **entries: object
) -> dict[str, Any]:
    """The least that a blend.json holds, with figures that nobody measured; `entries` are more of it.

    Args:
        digests: of the members' weights, by name.
        weights, threshold: of the blend.
    """
    figures = {"dice": 0.5, "interval": [0.4, 0.6], "worst": 0.3}
    return {
        "name": "blend",
        "kind": "dice-weights",
        "members": list(digests),
        "weights": list(weights),
        "threshold": threshold,
        "cv": figures,
        "member_cv": dict.fromkeys(digests, figures),
        "candidates": {"dice-weights": figures},
        "threshold_fit": None,
        "weights_digests": dict(digests),
        "folds_digest": "f",
        "data_digest": "d",
        **entries,
    }


def save_blend(
    root: Path, members: list[Member], weights: list[float], threshold: float = 0.0, **entries: object
) -> None:
    """Write a blend of these members; `entries` are more of blend.json."""
    blend = fitted_blend({m.name: m.weights_digest for m in members}, weights, threshold, **entries)
    atomic.write_json(root / "blend" / "blend.json", blend)


def save_pixels(root: Path, members: list[Member], trained_on: Size) -> BoostedPixels:
    """Boost pixels of these members on noise, and write them as the blend."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, len(names_of_features(len(members))))).astype(np.float32)
    trees = grow(features, features[:, 0] + features[:, 20] > 0, Growth(trees=7, leaves=5))
    weights = [1 / len(members)] * len(members)
    boosted = BoostedPixels(trees, tuple(weights), 2.5, trained_on)
    pixels_file.save(root / "blend", boosted, [member.name for member in members])
    save_blend(root, members, weights, vote="pixels", stacker_digest=boosted.digest())
    return boosted


def write_photograph(path: Path, height: int, width: int, seed: int = 0) -> None:
    """Write a smooth colour picture."""
    spots = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC))
