"""`python -m ensemble.ship`: a blend and its networks as a folder to hand on, as small as it goes, with a card.

Everything that predicts takes the folder with `--runs`. Logits, states of trainings and scores of images stay behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import tyro

import atomic
from command_line import UserError, program
from ensemble.blend import find_blend
from ensemble.blend_file import (
    BLEND_FILE,
    REFINER_DIR,
    STACKER_FILE,
    STACKER_WEIGHTS_FILE,
    FittedBlend,
    blend_folder,
    read_blend,
)
from ensemble.export import example_images, own_masks
from ensemble.model_card import card, scores_by_view
from folds.outputs import WEIGHTS_DIGEST, digest
from folds.run_layout import (
    LOCK_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    RESUME_DIR,
    SEEN_FILE,
    TRAINED_FILES,
    WEIGHTS_FILE,
)
from folds.task import read_manifest
from kernels.metrics import DICE
from models import checkpoint
from predict.members import Member, find_members
from program_flags import CompetitionName, DataFolder, RunsFolder, places

CARD_FILE = "README.md"
# share of an image's pixels; where more change, half the bits were too few (Dice would judge small masks by one pixel)
_MOST_CHANGED = 5e-4


def _halved(state: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Weights in float16, where they are floating-point numbers.

    Raises:
        UserError: one of them is too large for it.
    """
    halved = {}
    for name, tensor in state.items():
        small = tensor.half() if tensor.is_floating_point() else tensor
        if not torch.isfinite(small).all():
            raise UserError(f"{name} of {path} is too large for float16: leave --half out.")
        halved[name] = small.contiguous()
    return halved


def _copy_fold(source: Path, target: Path, *, half: bool) -> None:
    """One network with what tells what it is: its files are copied, in float16 its weights and their digest are new."""
    target.mkdir(parents=True)
    for name in (*TRAINED_FILES, METRICS_FILE, SEEN_FILE):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    if not half:
        return
    weights = target / WEIGHTS_FILE
    state = _halved(checkpoint.parse_weights(weights.read_bytes(), source), source / WEIGHTS_FILE)
    safetensors.torch.save_file(state, weights)
    manifest = read_manifest(source) or {}
    manifest |= {WEIGHTS_DIGEST: digest(weights.read_bytes()), "stored": "float16"}
    atomic.write_json(target / MANIFEST_FILE, manifest)


def _copy_blend(source: Path, target: Path, fitted: FittedBlend, members: list[Member]) -> FittedBlend:
    """The blend's own files, its blend.json over the members as they were copied."""
    target.mkdir(parents=True)
    for name in (STACKER_FILE, STACKER_WEIGHTS_FILE):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    if fitted.get("refiners"):
        shutil.copytree(
            source / REFINER_DIR, target / REFINER_DIR, ignore=shutil.ignore_patterns(RESUME_DIR, LOCK_FILE)
        )
    copied: Any = {**fitted, "weights_digests": {member.name: member.weights_digest for member in members}}
    atomic.write_json(target / BLEND_FILE, copied)
    return read_blend(target)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _agreement(masks: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> tuple[float, float]:
    """Mean Dice of masks with others of the same images, and the largest share of pixels that differ."""
    pairs = list(zip(masks, others, strict=True))
    dice = [DICE.of((int((one & other).sum()), int(one.sum()), int(other.sum()))) for one, other in pairs]
    return float(np.mean(dice)), max(float((one != other).mean()) for one, other in pairs)


@program
def main(
    competition: CompetitionName = "carvana",
    name: str = "blend",
    out: Path = Path("trained"),
    half: bool = False,
    images: Path | None = None,
    check: int = 8,
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Copy a blend and the networks of its members to OUT/<competition>, with a card, for others to predict with.

    Args:
        name: of the blend (ensemble.fit).
        out: folder that `--runs` will name; it must have nothing of this competition yet.
        half: store weights in float16, half the bytes; the masks are compared with the blend's own first.
        images: folder of images to compare on; by default the competition's, where they are there.
        check: how many of them.
    """
    facts, data, root = places(competition, data, runs)
    target = out / facts.name
    if target.exists():
        raise UserError(f"{target} is there already: remove it, or name another folder (--out).")
    blend = find_blend(root, name)
    fitted = read_blend(blend_folder(root, name))
    for member in blend.members:
        member.require_network()
    if half and fitted.get("refiners"):
        raise UserError("a refiner was trained on the logits of the weights as they are: leave --half out.")
    paths = example_images(images, data, facts, check) if half else []
    with atomic.building(target) as folder:
        for member in blend.members:
            for fold in member.folds:
                _copy_fold(fold, folder / member.name / fold.name, half=half)
        names = [member.name for member in blend.members]
        members = find_members(folder, names, len(blend.members[0].folds))
        copied = _copy_blend(blend_folder(root, name), folder / name, fitted, members)
        agreement = ""
        if paths:
            shipped = find_blend(folder, name)
            mean, changed = _agreement(own_masks(shipped, paths, facts.size), own_masks(blend, paths, facts.size))
            if changed > _MOST_CHANGED:
                raise UserError(
                    f"in float16 the blend gives other masks (up to {changed:.3%} of the pixels, "
                    f"of {len(paths)} images): leave --half out."
                )
            agreement = (
                f"Stored in float16 it masks {len(paths)} images as the blend in float32 does: Dice of the two "
                f"{mean:.6f}, at most {changed:.3%} of the pixels differ."
            )
        stored = "Weights are stored in float16." if half else "Weights are stored as they were trained."
        by_view = scores_by_view(blend_folder(root, name), facts, fitted)
        text = card(facts, copied, members, by_view, weights=stored, agreement=agreement)
        atomic.write_text(folder / CARD_FILE, text)
        megabytes = _size(folder) / 1e6
    print(f"{target}: {megabytes:.1f} MB, {len(members)} x {len(members[0].folds)} networks")
    if half:
        print(agreement or "not compared with the blend, as there are no images: name a folder (--images)")
    print(f'next: make predict C={facts.name} IMAGES=photos OUT=masks ARGS="--runs {out} --name {name}"')


if __name__ == "__main__":
    tyro.cli(main)
