"""`python -m ensemble.export`: a blend as one file that takes an image and gives its mask, without this repository.

As ONNX for any runtime, and as `torch.export` for PyTorch. The file is compared with this project's own masks before it
takes its place.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

import atomic
import provenance
from command_line import UserError, program
from competition import Size
from ensemble.blend import find_blend
from ensemble.blend_file import blend_folder
from ensemble.mask_agreement import (
    NOT_COMPARED,
    Agreement,
    ComparedCount,
    ComparedImages,
    example_images,
    own_masks,
)
from ensemble.whole_network import WholeNetwork
from folder_lock import fill
from models.image_file import decode
from models.optional_library import fault_of, install_command
from program_flags import BlendName, CompetitionName, DataFolder, RunsFolder, places

Format = Literal["onnx", "torch", "both"]
Run = Callable[[np.ndarray], np.ndarray]

# of ONNX; every runtime since 2023 has it
OPSET = 18
FILES: dict[str, str] = {"onnx": "blend.onnx", "torch": "blend.pt2"}
CARD_FILE = "export.json"
# below this agreement of masks something is wrong
_LEAST_DICE = 0.9995
# a window begins at another phase of a network's strides than the whole frame does
_LEAST_DICE_WINDOWED = 0.998


def write_onnx(network: WholeNetwork, full: Size, path: Path) -> None:
    """Write `network` as ONNX: input `image` (H, W, 3) uint8 RGB, outputs `mask` (H, W) uint8 and `logits` float32.

    Raises:
        UserError: onnx or onnxscript is missing or broken.
    """
    for library in ("onnx", "onnxscript"):
        if fault := fault_of(library):
            raise UserError(
                f"{library}, which ONNX needs, {fault}: {install_command(fault, 'requirements-export.txt')}, or use "
                "--format torch."
            )
    example = (torch.zeros(*full, 3, dtype=torch.uint8),)
    with atomic.replacing(path) as temporary, warnings.catch_warnings(), torch.inference_mode():
        # of the exporter's own making
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            example,
            temporary,
            input_names=["image"],
            output_names=["mask", "logits"],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def write_torch(network: WholeNetwork, full: Size, path: Path) -> None:
    """Write `network` as `torch.export` has it; `torch.export.load(path).module()(image)` gives (mask, logits)."""
    with atomic.replacing(path) as temporary, torch.no_grad():
        exported = torch.export.export(network, (torch.zeros(*full, 3, dtype=torch.uint8),))
        with temporary.open("wb") as file:
            torch.export.save(exported, file)


def runner(path: Path) -> Run | None:
    """From an image (H, W, 3) uint8 to its mask (H, W) bool, by an exported file; None without its runtime."""
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()

        def by_torch(image: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                mask: np.ndarray = module(torch.from_numpy(image))[0].numpy() > 0
            return mask

        return by_torch
    if fault_of("onnxruntime", ["InferenceSession"]):
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def by_onnxruntime(image: np.ndarray) -> np.ndarray:
        mask: np.ndarray = session.run(["mask"], {"image": image})[0] > 0
        return mask

    return by_onnxruntime


def timed_masks(run: Run, paths: Sequence[Path]) -> tuple[list[np.ndarray], float]:
    """An export's masks of some images, (H, W) bool, and the median of the ms that one took."""
    masks, took = [], []
    for path in paths:
        image = decode(path)
        start = time.perf_counter()
        masks.append(run(image))
        took.append(time.perf_counter() - start)
    return masks, float(np.median(took)) * 1e3


@program
def main(
    competition: CompetitionName = "carvana",
    name: BlendName = "blend",
    variant: str = "",
    out: Path | None = None,
    format: Format = "both",
    folds: int = 0,
    images: ComparedImages = None,
    check: ComparedCount = 8,
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Write a blend as one file, with everything before and after its networks inside, and compare its masks with ours.

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
    network = WholeNetwork(blend, facts.size, folds).eval()
    if network.left_out:
        print(f"left out, as it works on whole masks: {', '.join(network.left_out)}")
    if network.had_windows:
        print("computed on whole frames, where predictions here use windows: masks differ a little more")
    least = _LEAST_DICE_WINDOWED if network.had_windows else _LEAST_DICE
    paths = example_images(images, data, facts, check)
    masks = own_masks(blend, paths, facts.size, folds)
    card = {
        "competition": facts.name,
        "blend": variant or name,
        "input": f"image: ({facts.size[0]}, {facts.size[1]}, 3) uint8 RGB",
        "outputs": [f"mask: {facts.size[0]}x{facts.size[1]} uint8, 0 or 255", "logits: the same in float32, above 0"],
        "opset": OPSET,
        "networks": sum(len(member.folds[: folds or None]) for member in blend.members),
        "left_out": network.left_out,
        "git_commit": provenance.git_commit(),
        "versions": provenance.versions(),
    }
    write = {"onnx": write_onnx, "torch": write_torch}
    for kind in FILES if format == "both" else (format,):
        path = folder / FILES[kind]
        write[kind](network, facts.size, path)
        line = f"{path}: {path.stat().st_size / 1e6:.1f} MB"
        run = runner(path)
        if run is None:
            line += "; not compared, as onnxruntime is not installed (requirements-export.txt)"
        elif paths:
            found, ms = timed_masks(run, paths)
            agreement = Agreement.of(found, masks)
            if agreement.worst < least:
                path.unlink()
                raise UserError(
                    f"the {kind} export gives other masks than this project (Dice {agreement.worst:.5f} at worst), and "
                    "was removed: export one variant alone (V=...) to find the network at fault."
                )
            card[kind] = {"agreement": agreement.mean, "worst": agreement.worst, "ms": round(ms, 1)}
            line += (
                f", {ms:.0f} ms an image; Dice with our own masks {agreement.mean:.6f}, "
                f"{agreement.worst:.6f} at worst, of {len(paths)} images"
            )
        else:
            line += f"; not compared, {NOT_COMPARED}"
        print(line)
    atomic.write_json(folder / CARD_FILE, card)


if __name__ == "__main__":
    tyro.cli(main)
