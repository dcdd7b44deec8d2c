"""`python -m ensemble.photographs`: masks and cut-outs of any photographs, by a blend or a variant; `make predict`."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

import atomic
from command_line import UserError, program
from competition import Size, find_competition
from ensemble.blend import Mixture, find_mixture
from ensemble.conv_stacker import image_frame
from ensemble.photograph_files import cut_out, list_photographs, write_png
from ensemble.postprocess import apply_kept
from models.frame import Frame
from models.image_file import ImageFile, decode
from predict.blocks import Place, places, raise_unreadable, stacked
from predict.pipeline import overlapped
from predict.predictor import DECODERS
from predict.replicas import Lanes
from predict.tiles import predict_in_tiles

# what the folder's masks were made with
STATE_FILE = "made_with.json"
# tiles of one photograph a forward pass
_TILES = 4
# a logit of certain foreground
_SURE = np.float32(16)


@dataclass(frozen=True)
class Photograph:
    """What is decoded of one photograph.

    Attributes:
        size: its own (height, width).
        inputs: per frame, (h, w, 3) uint8 RGB: the network's input, or all its pixels where it goes in tiles.
    """

    size: Size
    inputs: dict[Frame, np.ndarray]


def _in_tiles(frame: Frame, size: Size) -> bool:
    return frame.fit == "pad" and (size[0] > frame.size[0] or size[1] > frame.size[1])


def load(path: Path, frames: Sequence[Frame]) -> Photograph:
    """Read a photograph for networks of these frames.

    Raises:
        UserError: it cannot be read; the message names it.
    """
    file = ImageFile(path)
    inputs = {frame: file.image() if _in_tiles(frame, file.size) else frame.input_of(file) for frame in set(frames)}
    return Photograph(file.size, inputs)


@dataclass(frozen=True)
class NetworkLogits:
    """One photograph's logits as the members' networks gave them.

    Attributes:
        name: of the photograph.
        size: its own (height, width).
        planes, frames: per member, float32 logits and the frame they lie in.
        images: per member, (h, w, 3) uint8 RGB: the photograph in that frame.
    """

    name: str
    size: Size
    planes: list[np.ndarray]
    frames: list[Frame]
    images: list[np.ndarray]

    def blended(self, mixture: Mixture) -> np.ndarray:
        """(H, W) float32 at the photograph's own size, the threshold taken off: foreground is above 0.

        What the blend's repairs add or take away becomes a sure thing.
        """
        frame = image_frame(mixture.combine, self.frames)
        image = None if frame is None else self.images[self.frames.index(frame)]
        full = mixture.combine(self.planes, self.frames, mixture.weights, self.size, image)
        logits = full - np.float32(mixture.threshold)
        if mixture.repairs:
            repaired = apply_kept(logits > 0, mixture.repairs)
            logits = np.where(repaired == (logits > 0), logits, np.where(repaired, _SURE, -_SURE))
        return logits


def network_logits(lanes: Lanes, photographs: Sequence[tuple[Place, Photograph]]) -> list[NetworkLogits]:
    """Pass some photographs of one block through every member's networks, in tiles where one needs that."""
    results = [NetworkLogits(place.name, photograph.size, [], [], []) for place, photograph in photographs]
    block_names = [""] * photographs[0][0].length
    for place, _ in photographs:
        block_names[place.slot] = place.name
    with lanes.take() as predictors:
        for predictor in predictors:
            frame = predictor.frame
            whole = [(place, p.inputs[frame]) for place, p in photographs if not _in_tiles(frame, p.size)]
            logits = predictor.logits(stacked(whole), block_names) if whole else np.empty(0)
            for result, (place, photograph) in zip(results, photographs, strict=True):
                if _in_tiles(frame, photograph.size):
                    forward = partial(predictor.logits, names=[place.name] * _TILES)
                    tiled = predict_in_tiles(photograph.inputs[frame], frame.size, forward, batch=_TILES)
                    result.planes.append(tiled[0])
                    result.frames.append(Frame(photograph.size))
                else:
                    result.planes.append(logits[place.slot, 0])
                    result.frames.append(frame)
                result.images.append(photograph.inputs[frame])
    return results


@program
def main(
    images: Path,
    out: Path,
    competition: str = "carvana",
    blend: str = "blend",
    variant: str = "",
    cutout: bool = False,
    runs: Path = Path("runs"),
    batch: int = 0,
) -> None:
    """Masks (PNG, 0 and 255) of photographs, each at its own size; run again, only what is missing is done.

    Args:
        images: a folder of photographs of any sizes, or one file.
        out: folder for `<name>_mask.png` and, with --cutout, `<name>_cutout.png`.
        competition: whose trained networks; a name from competition.py.
        blend: a fitted blend (ensemble.fit).
        variant: one trained variant instead of the blend.
        cutout: also write the photographs with their background transparent.
        runs: where trained variants and the blend are.
        batch: photographs a forward pass; 0 chooses.
    """
    mixture = find_mixture(runs / find_competition(competition).name, blend, variant)
    folder, names, strangers = list_photographs(images)
    if out.resolve() == folder.resolve():
        raise UserError(f"{out} holds the photographs themselves: choose another folder for the masks (OUT=...).")
    if (out / STATE_FILE).exists():
        cure = "choose another folder (OUT=...), or empty it"
        if atomic.read_json(out / STATE_FILE, cure) != mixture.state():
            raise UserError(f"{out} holds masks of another blend or variant: {cure}.")
    atomic.write_json(out / STATE_FILE, mixture.state())
    frames = [member.frame for member in mixture.members]

    def outputs(name: str) -> list[Path]:
        stem = Path(name).stem
        return [out / f"{stem}_mask.png", *([out / f"{stem}_cutout.png"] if cutout else [])]

    missing = [name for name in names if not all(path.exists() for path in outputs(name))]
    faults: list[tuple[Place, UserError]] = []
    if missing:
        lanes = Lanes(mixture.members)

        def keep(result: NetworkLogits) -> None:
            logits = result.blended(mixture)
            paths = outputs(result.name)
            if cutout:
                write_png(paths[1], cut_out(decode(folder / result.name), logits))
            write_png(paths[0], (logits > 0).astype(np.uint8) * np.uint8(255))

        with tqdm(total=len(missing), desc="mask", unit="image", disable=None) as bar, lanes.running():
            faults = overlapped(
                places(names, missing, batch or min(lanes.batch(m.variant) for m in mixture.members)),
                load=lambda place: load(folder / place.name, frames),
                forward=lambda photographs: network_logits(lanes, photographs),
                keep=keep,
                advance=bar.update,
                lanes=lanes.count,
                decoders=DECODERS,
                writers=2 if cutout else 1,
                lane_setup=lanes.set_up,
            )
    unreadable = [*strangers, *((place.name, fault) for place, fault in faults)]
    done = len(names) - len(faults)
    print(f"{out}: {done} mask{'' if done == 1 else 's'}, {len(names) - len(missing)} of them from before")
    raise_unreadable(unreadable, len(names) + len(strangers), "done")


if __name__ == "__main__":
    tyro.cli(main)
