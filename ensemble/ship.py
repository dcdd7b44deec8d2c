"""`python -m ensemble.ship`: a blend and its networks as a folder to share, as small as possible, with a model card.

Everything that predicts takes the folder with `--runs`. Logits, training states and per-image scores are left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import tyro

import atomic
from command_line import UserError, program
from ensemble.blend import find_blend
from ensemble.blend_file import BLEND_FILE, PIXELS_FILE, TREES_FILE, FittedBlend, blend_folder, read_blend
from ensemble.mask_agreement import (
    NOT_COMPARED,
    Agreement,
    ComparedCount,
    ComparedImages,
    example_images,
    whole_masks,
)
from ensemble.model_card import card, networks_of, scores_by_view
from folder_lock import fill
from folds.outputs import WEIGHTS_DIGEST, digest
from folds.run_layout import MANIFEST_FILE, METRICS_FILE, SEEN_FILE, TRAINED_FILES, WEIGHTS_FILE
from folds.task import read_manifest
from models import checkpoint, weight_code
from models.weight_code import Bits
from predict.members import Member, find_members
from program_flags import BlendName, CompetitionName, DataFolder, RunsFolder, places
from remedies import CARD_FILE

# share of an image's pixels; where more change, the bits were too few (Dice would judge small masks by one pixel). In 8
# bits an image whose mask hangs on little may change: that is their mean
_MOST_CHANGED = 5e-4
_STORED = {16: "float16", 8: "8 bits"}
_AS_TRAINED = "float32"


def _without_places(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rounds of self-training, their sets named by blend, set and file: whose disk they lay on is nobody's business.

    >>> _without_places([{"run": "unet-round1", "set": "/home/me/runs/salt/blend/pseudo/pseudo.json"}])
    [{'run': 'unet-round1', 'set': 'blend/pseudo/pseudo.json'}]
    """
    told = []
    for own in rounds:
        teachers = [
            {**teacher, "rounds": _without_places(teacher["rounds"])} if "rounds" in teacher else teacher
            for teacher in own.get("teachers", [])
        ]
        place = "/".join(Path(own["set"]).parts[-3:])
        told.append({**own, "set": place, **({"teachers": teachers} if teachers else {})})
    return told


def _stored_in(members: Sequence[Member]) -> str:
    """What members' weights are stored in, such as "float16": "float32" unless they were handed on in fewer bits."""
    manifests = [read_manifest(fold) or {} for member in members for fold in member.folds]
    return " and ".join(sorted({manifest.get("stored", _AS_TRAINED) for manifest in manifests}))


def _copy_fold(source: Path, target: Path, *, bits: Bits) -> None:
    """One network with what tells what it is: its files; in fewer bits, weights and their digest are new.

    Raises:
        UserError: float16 cannot hold a weight.
    """
    target.mkdir(parents=True)
    for name in (*TRAINED_FILES, METRICS_FILE, SEEN_FILE):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    manifest = read_manifest(source) or {}
    changed: dict[str, Any] = {}
    if manifest.get("rounds"):
        changed["rounds"] = _without_places(manifest["rounds"])
    if bits in _STORED:
        weights = target / WEIGHTS_FILE
        try:
            state = weight_code.stored(checkpoint.parse_weights(weights.read_bytes(), source), bits)
        except OverflowError as error:
            raise UserError(
                f"{error} of {source / WEIGHTS_FILE} is too large for float16: use --bits 8, or 32."
            ) from None
        safetensors.torch.save_file(state, weights)
        changed |= {WEIGHTS_DIGEST: digest(weights.read_bytes()), "stored": _STORED[bits]}
    if changed:
        atomic.write_json(target / MANIFEST_FILE, {**manifest, **changed})


def _copy_blend(source: Path, target: Path, fitted: FittedBlend, members: list[Member]) -> FittedBlend:
    """The blend's own files, its blend.json over the members as they were copied."""
    target.mkdir(parents=True)
    for name in (PIXELS_FILE, TREES_FILE):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    digests = {member.name: member.weights_digest for member in members}
    atomic.write_json(target / BLEND_FILE, {**fitted, "weights_digests": digests})
    return read_blend(target)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@program
def main(
    competition: CompetitionName = "carvana",
    name: BlendName = "blend",
    out: Path = Path("trained"),
    bits: Bits = 32,
    images: ComparedImages = None,
    check: ComparedCount = 8,
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Copy a blend and the networks of its members to OUT/<competition>, with a card, for others to predict with.

    Args:
        out: folder that `--runs` will name; it must have nothing of this competition yet.
        bits: of a stored weight. 16 is float16, half the bytes; 8 is a quarter, with a scale for each output channel.
            The masks are compared with the blend's own first.
    """
    facts, data, root = places(competition, data, runs)
    target = out / facts.name
    fill(out, str(target), name=f".{facts.name}.lock")
    if target.exists():
        raise UserError(f"{target} is there already: remove it, or name another folder (--out).")
    blend = find_blend(root, name)
    fitted = read_blend(blend_folder(root, name))
    for member in blend.members:
        member.require_network()
    before = _stored_in(blend.members)
    if bits == 16 and _STORED[8] in before:
        raise UserError(
            f"{root} has weights in 8 bits already, which float16 makes larger and no better: use --bits 8, or leave "
            "--bits out."
        )
    paths = example_images(images, data, facts, check) if bits in _STORED else []
    with atomic.building(target) as folder:
        for member in blend.members:
            for fold in member.folds:
                _copy_fold(fold, folder / member.name / fold.name, bits=bits)
        names = [member.name for member in blend.members]
        members = find_members(folder, names, len(blend.members[0].folds))
        copied = _copy_blend(blend_folder(root, name), folder / name, fitted, members)
        # refused here, and not where it has been handed on
        shipped = find_blend(folder, name)
        agreement = ""
        if paths:
            same = Agreement.of(whole_masks(shipped, paths), whole_masks(blend, paths))
            share = same.changed if bits == 16 else same.changed_mean
            if share > _MOST_CHANGED:
                raise UserError(
                    f"with weights in {_STORED[bits]}, the blend's masks change too much ({share:.3%} of the pixels "
                    f"{'of one' if bits == 16 else 'on average'} of {len(paths)} images): use --bits {2 * bits}."
                )
            compared = f"{len(paths)} image{'s' * (len(paths) != 1)}"
            agreement = (
                f"On {compared}, masks by the weights in {_STORED[bits]} agree with those in {before}: Dice "
                f"{same.mean:.6f}, {same.changed_mean:.3%} of the pixels differ (at most {same.changed:.3%} in one "
                "image)."
            )
        now = _stored_in(members)
        stored = f"Weights are stored {'as they were trained' if now == _AS_TRAINED else f'in {now}'}."
        by_view = scores_by_view(blend_folder(root, name), facts, fitted)
        # where it lies on this disk is nobody's business
        given = out.name if out.is_absolute() else out.as_posix()
        text = card(facts, copied, members, by_view, runs=given, weights=stored, agreement=agreement)
        atomic.write_text(folder / CARD_FILE, text)
        megabytes = _size(folder) / 1e6
    print(f"{target}: {megabytes:.1f} MB, {networks_of(members)}")
    if bits in _STORED:
        print(agreement or f"not compared with the blend, {NOT_COMPARED}")
    print(f'next: make predict C={facts.name} IMAGES=photos OUT=masks ARGS="--runs {out} --blend {name}"')


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
