"""`python -m report.activations`: what each stage of a trained network answers to images, and where its evidence lies.

Writes one self-contained page. `make activations` calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
import tyro
from tqdm import tqdm

from command_line import UserError, program
from ensemble.blend import find_blend
from ensemble.photograph_files import list_photographs
from folds.run_layout import ACTIVATIONS_DIR, fold_number
from models import checkpoint
from models.activations import Score, Stage, foreground_score, look_inside, pixel_score
from models.frame import Frame, frame_of
from models.image_file import decode
from models.network_input import normalise
from models.networks.windowed_unet import unwindowed
from models.variant import Variant
from program_flags import NonNegative, Positive, RunsFolder, SizePx, places
from report import page
from report.pictures import picture_uri

# pixels of a channel's picture, at least; larger ones are reduced to about this
_CHANNEL_WIDTH_PX = 144
_PICTURE_WIDTH_PX = 576
_GAP_PX = 2
# images that the page may hold: each takes about half a megabyte
_MOST_IMAGES = 12


@dataclass(frozen=True)
class Pane:
    """One picture of the page, a data URI."""

    title: str
    picture: str


@dataclass(frozen=True)
class StagePictures:
    """One stage of a photograph's section: its channels and its evidence as data URIs; empty where it has none."""

    name: str
    note: str
    grid: str
    evidence: str


@dataclass(frozen=True)
class Section:
    """What the page says of one photograph."""

    name: str
    note: str
    panes: list[Pane]
    stages: list[StagePictures]


def network_input(images: Sequence[np.ndarray], frame: Frame) -> np.ndarray:
    """Images of one size as one network's input, whatever their size.

    Args:
        images: (H, W, 3) uint8 RGB each; several are stacked, as networks of background and composite take them.
        frame: the network's. One that pads has larger images reduced first, as tiles would show no more than parts.

    Returns:
        (h, w, 3 x images) uint8.
    """
    fitted = []
    for image in images:
        height, width = image.shape[:2]
        frame = frame.of((height, width))
        if frame.exceeded_by((height, width)):
            inner = frame.enlarged((height, width))
            scale = min(frame.size[0] / inner[0], frame.size[1] / inner[1])
            small = max(1, int(width * scale)), max(1, int(height * scale))
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        fitted.append(frame.apply(image))
    return np.concatenate(fitted, axis=2)


def _coloured(values: np.ndarray, colours: str) -> np.ndarray:
    """(h, w) of any range, from its lowest to its highest as (h, w, 3) uint8 of a colour map."""
    low, high = float(values.min()), float(values.max())
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    picture: np.ndarray = (matplotlib.colormaps[colours](share)[..., :3] * 255).astype(np.uint8)
    return picture


def _sized(picture: np.ndarray, width: int) -> np.ndarray:
    """A picture brought to a width: pixels stay squares where it grows."""
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    grows = width > picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST if grows else cv2.INTER_AREA)


def channel_grid(stage: Stage, count: int) -> np.ndarray:
    """The strongest channels of a stage, row by row, strongest first: (H, W, 3) uint8, transparent gaps left black."""
    tiles = [_sized(_coloured(stage.values[k], "viridis"), _CHANNEL_WIDTH_PX) for k in stage.strongest(count)]
    columns = min(len(tiles), 4)
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    grid = np.zeros((rows * (height + _GAP_PX) - _GAP_PX, columns * (width + _GAP_PX) - _GAP_PX, 3), np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + _GAP_PX), i % columns * (width + _GAP_PX)
        grid[top : top + height, left : left + width] = tile
    return grid


def evidence_picture(evidence: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A stage's evidence over the image: (H, W, 3) uint8, the image in grey, dark where there is none.

    Args:
        evidence: (h, w) float32, 0 and above.
        image: (H, W, 3) uint8 RGB, as the network sees it.
    """
    height, width = image.shape[:2]
    share = evidence / max(float(evidence.max()), np.finfo(np.float32).tiny)
    full = cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR)
    heat = matplotlib.colormaps["inferno"](full)[..., :3]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] / 255
    picture: np.ndarray = ((0.35 * grey + 0.65 * heat) * 255).astype(np.uint8)
    return picture


def _section(
    name: str, network: torch.nn.Module, variant: Variant, pixels: np.ndarray, score: Score, plane: int, count: int
) -> Section:
    # of stacked images the last is the one that is masked
    image = np.ascontiguousarray(pixels[..., -3:])
    logits, stages = look_inside(network, normalise(torch.from_numpy(pixels[None]), variant), score)
    shown = _sized(image, _PICTURE_WIDTH_PX)
    answer = logits[plane]
    panes = [
        Pane("as the network sees it", picture_uri(shown, ".jpg")),
        Pane("logits, dark to bright", picture_uri(_sized(_coloured(answer, "magma"), _PICTURE_WIDTH_PX), ".jpg")),
        Pane("above 0", picture_uri(_sized((answer > 0) * np.uint8(255), _PICTURE_WIDTH_PX), ".png")),
    ]
    pictures = []
    for stage in stages:
        channels, height, width = stage.values.shape
        silent = int(np.count_nonzero(stage.strength() == 0))
        strongest = ", ".join(map(str, stage.strongest(count)))
        note = f"{channels} channels of {height}x{width}; here {strongest}"
        has_evidence = stage.evidence is not None and bool(stage.evidence.any())
        pictures.append(
            StagePictures(
                stage.name,
                note + (f"; {silent} the same everywhere" if silent else ""),
                picture_uri(channel_grid(stage, count), ".jpg"),
                picture_uri(evidence_picture(stage.evidence, shown), ".jpg") if has_evidence else "",  # type: ignore[arg-type]
            )
        )
    share = float((answer > 0).mean())
    return Section(
        name, f"{share:.1%} of the pixels above 0; logits {answer.min():.1f} … {answer.max():.1f}", panes, pictures
    )


@program
def main(
    images: Path,
    competition: str = "carvana",
    blend: str = "blend",
    variant: str = "",
    fold: NonNegative = 0,
    head: str = "mask",
    pixel: SizePx | None = None,
    background: Path | None = None,
    channels: Positive = 16,
    out: Path | None = None,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Write a page of what each stage of a network answers to images, and where the evidence of an output lies.

    Args:
        images: a folder of photographs of any sizes, or one file; of a folder the first 12.
        competition: whose trained networks; a name from competition.py.
        blend: the fitted blend whose heaviest member is looked into where no variant is named.
        variant: the trained variant.
        fold: which of its folds' networks.
        head: the output whose evidence is asked for, by name; mask, depth or presence.
        pixel: ask for the evidence of one pixel, row and column of the network's input, instead of all foreground.
        background: the empty background of the images, for networks that take it beside them.
        channels: of each stage that are shown.
        out: the page; runs/<competition>/activations/<variant>.html by default.
    """
    facts, _, root = places(competition, None, runs)
    chosen = find_blend(root, blend, variant)
    member = chosen.members[int(np.argmax(chosen.weights))]
    member.require_network()
    folders = {fold_number(folder): folder for folder in member.folds}
    if fold not in folders:
        raise UserError(f"{member.folder} has no fold {fold}; trained there: {', '.join(map(str, folders))} (--fold).")
    network, trained = checkpoint.load(folders[fold])
    network = unwindowed(network)
    frame = frame_of(trained)
    plane = trained.planes_of(head).start
    if pixel is not None and not (0 <= pixel[0] < frame.size[0] and 0 <= pixel[1] < frame.size[1]):
        size = f"{frame.size[0]}x{frame.size[1]}"
        raise UserError(f"the pixel {pixel[0]} {pixel[1]} is outside the network's input of {size}: give one inside.")
    if channels < 1:
        raise UserError(f"{channels} channels are too few: give --channels 1 or more.")
    two = trained.in_channels > 3
    if two != (background is not None):
        needs = "takes the background too: name its file (--background)" if two else "takes one image: no --background"
        raise UserError(f"{trained.name} {needs}.")
    folder, names, _ = list_photographs(images)
    under = [] if background is None else [decode(background)]
    score = foreground_score(plane) if pixel is None else pixel_score(plane, *pixel)
    sections = []
    for name in tqdm(names[:_MOST_IMAGES], desc="look inside", unit="image", disable=None):
        image = decode(folder / name)
        if under and under[0].shape != image.shape:
            raise UserError(f"{folder / name} and {background} differ in size: give the background of that image.")
        pixels = network_input([*under, image], frame)
        sections.append(_section(name, network, trained, pixels, score, plane, channels))
    path = out or root / ACTIVATIONS_DIR / f"{member.folder.name}.html"
    page.write(
        path,
        "activations.html.j2",
        title=f"{facts.title}: inside {member.folder.name}",
        network=f"{member.folder.name}, fold {fold}",
        size=f"{frame.size[0]}x{frame.size[1]}",
        channels=channels,
        asked=f"the {head} where it is above 0"
        if pixel is None
        else f"the {head} at row {pixel[0]}, column {pixel[1]}",
        photographs=sections,
    )
    left = f", the first {_MOST_IMAGES} of {len(names)}" if len(names) > _MOST_IMAGES else ""
    print(f"{len(sections)} images{left}, {len(sections[0].stages)} stages of {member.folder.name}\npage  {path}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
