"""Runs folders made on the spot: networks with random weights, with all that makes them members of an ensemble."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors.torch
import torch

import atomic
from competition import COMPETITIONS, Size
from ensemble import pixels_file
from ensemble.blend_file import REFINER_DIR, REFINER_FILE
from ensemble.boundary import boundary_for
from ensemble.boundary_file import after_refiner, coarse_digest, digest_of, entries_of
from ensemble.conv_stacker import ConvStacker
from ensemble.patches import Patches
from ensemble.pixels import BoostedPixels, names_of_features
from ensemble.trees import Growth, grow
from folds.outputs import LOGITS_DIGEST, digest
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


def save_stacker(root: Path, members: list[Member], *, image: bool) -> ConvStacker:
    """Fit a stacker of these members to noise, and write it as the blend."""
    rng = np.random.default_rng(0)
    windows = Patches(
        rng.normal(scale=4, size=(4, len(members), 16, 16)).astype(np.float16),
        rng.integers(0, 256, (4, 16, 16)).astype(np.uint8),
        np.arange(4),
        rng.integers(0, 256, (4, 16, 16, 3)).astype(np.uint8),
    )
    weights = np.full(len(members), 1 / len(members))
    stacker = ConvStacker(steps=20, batch=4, image=image).fit(windows, np.arange(4), weights)
    stacker.save(root / "blend", [member.name for member in members])
    vote = "conv-stacker-image" if image else "conv-stacker"
    save_blend(root, members, weights.tolist(), vote=vote, stacker_digest=stacker.digest())
    return stacker


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


def save_refiner(folder: Path, full: Size, *, kept: bool = True, trained: bool = True, folds: int = 2) -> None:
    """Write a boundary refiner with random weights into the folder of a blend, and tell blend.json of it.

    Args:
        folder: of a blend that `save_blend` wrote.
        full: (H, W) of the images.
        kept: as if it had gained.
        trained: the weights are random ones; otherwise those of before any training, which change nothing.
    """
    boundary = boundary_for(full, tile_px=32, widths=(4, 4, 8))
    fitted = json.loads((folder / "blend.json").read_text())
    digests = []
    for k in range(folds):
        torch.manual_seed(k)
        state = build(boundary.variant(), pretrained=False).state_dict()
        if trained:
            state["logits.weight"] = torch.randn_like(state["logits.weight"]) * 5
        path = folder / REFINER_DIR / f"fold{k}" / checkpoint.WEIGHTS_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(state, path)
        digests.append(digest(path.read_bytes()))
    figures = {"dice": 0.5, "interval": [0.4, 0.6], "worst": 0.3}
    record = {
        "name": "boundary",
        "boundary": asdict(boundary),
        "coarse_digest": coarse_digest(fitted),
        "weights_digests": digests,
        "digest": digest_of(boundary, digests),
        **after_refiner(fitted),
        "before": figures,
        "after": figures,
        "gain": 0.01,
        "interval": [0.001, 0.02],
        "kept": kept,
    }
    atomic.write_json(folder / REFINER_DIR / REFINER_FILE, record)
    atomic.write_json(folder / "blend.json", {**fitted, **entries_of(folder, fitted)})


def write_photograph(path: Path, height: int, width: int, seed: int = 0) -> None:
    """Write a smooth colour picture."""
    spots = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC))
