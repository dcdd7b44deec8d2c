"""`python -m ensemble.export`: a blend as one file that takes an image and gives its mask, without this repository.

As ONNX for any runtime, and as `torch.export` for PyTorch. The file is compared with this project's own masks before it
takes its place.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

import atomic
import provenance
from command_line import UserError, program
from ensemble.blend import find_blend
from ensemble.blend_file import blend_folder
from ensemble.exported import FORMATS, OPSET, Run, graph_of, require_libraries
from ensemble.mask_agreement import (
    NOT_COMPARED,
    Agreement,
    ComparedCount,
    ComparedImages,
    agree,
    example_images,
    own_logits,
)
from ensemble.whole_network import WholeNetwork
from folder_lock import fill
from folds.outputs import digest
from models.image_file import decode
from program_flags import BlendName, CompetitionName, DataFolder, FoldCount, RunsFolder, places

Kinds = Literal["onnx", "torch", "both"]

# what is put before the suffix of a file whose masks differ from ours
DIFFERS = ".differs"


def card_of(path: Path) -> Path:
    """The file beside an export that says what it is."""
    return path.with_name(path.name + ".json")


def timed_masks(run: Run, paths: Sequence[Path]) -> tuple[list[np.ndarray], float]:
    """An export's masks of some images, (H, W) bool, and the median of the ms that one took."""
    masks, took = [], []
    for path in paths:
        image = decode(path)
        start = time.perf_counter()
        masks.append(run(image))
        took.append(time.perf_counter() - start)
    return masks, float(np.median(took)) * 1e3


def _save(
    kind: str, content: bytes, folder: Path, card: dict[str, Any], paths: Sequence[Path], own: Sequence[np.ndarray]
) -> str:
    """Compare an export with our own masks, then write it and its card: beside an older one where they differ.

    Args:
        kind: a key of `FORMATS`.
        content: of the file.
        folder: for the file.
        card: what is said of it beside the comparison; not modified.
        paths, own: images, and the blend's logits of them, (H, W) float32.

    Returns:
        What is wrong with it, as a part of a sentence; empty where nothing is.
    """
    file = FORMATS[kind].file
    run = FORMATS[kind].load(content)
    fault, path = "", folder / file
    compared = f"not compared, {NOT_COMPARED}"
    if run is None:
        compared = "not compared, as onnxruntime is not installed (requirements-export.txt)"
    elif paths:
        masks, ms = timed_masks(run, paths)
        found = Agreement.of(masks, [logits > 0 for logits in own])
        figures = (
            f"Dice {found.mean:.6f}, {found.worst:.6f} at worst, {found.changed_mean:.4%} of the pixels differ, "
            f"{found.changed:.4%} at worst"
        )
        if not agree(masks, own):
            path = folder / f"{Path(file).stem}{DIFFERS}{Path(file).suffix}"
            fault = f"the {kind} export gives other masks than this project ({figures}), so it is kept as {path.name}"
        compared = f"{ms:.0f} ms an image; with our own masks of {len(paths)} images: {figures}"
        card = {
            **card,
            "agreement": found.mean,
            "worst": found.worst,
            "changed": found.changed_mean,
            "ms": round(ms, 1),
        }
    with atomic.replacing(path, needed_bytes=len(content)) as temporary:
        temporary.write_bytes(content)
    atomic.write_json(card_of(path), {**card, "bytes": len(content), "digest": digest(content)})
    print(f"{path}: {len(content) / 1e6:.1f} MB, {compared}")
    return fault


def _remedy(members: int, networks: int) -> str:
    if members > 1:
        return "export one variant alone (V=...) to find the network at fault"
    if networks > 1:
        return "export one network alone (--folds 1) to see whether that one agrees"
    return "look at its masks of more images (--images, --check), or use the other format (--format)"


@program
def main(
    competition: CompetitionName = "carvana",
    name: BlendName = "blend",
    variant: str = "",
    out: Path | None = None,
    format: Kinds = "both",
    folds: FoldCount = 0,
    images: ComparedImages = None,
    check: ComparedCount = 8,
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Write a blend as one file, with everything before and after its networks inside, and compare its masks with ours.

    It takes images of any size, and gives masks of theirs.

    Args:
        variant: one trained variant instead of the blend.
        out: folder for the files; `export` in the blend's (or the variant's) folder by default.
        format: ONNX, torch.export, or both.
        folds: networks of each member, of which fewer are faster; 0 takes all its folds.
    """
    facts, data, root = places(competition, data, runs)
    blend = find_blend(root, name, variant)
    folder = out or (blend.members[0].folder if variant else blend_folder(root, name)) / "export"
    fill(folder)
    kinds = [*FORMATS] if format == "both" else [format]
    require_libraries(kinds)
    network = WholeNetwork(blend, folds)
    if network.left_out:
        print(f"left out, as it works on whole masks: {', '.join(network.left_out)}")
    paths = example_images(images, data, facts, check)
    own = own_logits(blend, paths, folds)
    networks = sum(len(member.folds[: folds or None]) for member in blend.members)
    card = {
        "competition": facts.name,
        "blend": variant or name,
        "input": "image: (H, W, 3) uint8 RGB, of any size",
        "outputs": ["mask: (H, W) uint8, 0 or 255", "logits: (H, W) float32, above 0 where the mask is"],
        "opset": OPSET,
        "networks": networks,
        "left_out": network.left_out,
        "git_commit": provenance.git_commit(),
        "versions": provenance.versions(),
    }
    graph = graph_of(network)
    faults = [_save(kind, FORMATS[kind].encode(graph), folder, card, paths, own) for kind in kinds]
    found = [fault for fault in faults if fault]
    if found:
        raise UserError(
            f"{', and '.join(found)} in {folder}, beside what was there: {_remedy(len(blend.members), networks)}."
        )


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
