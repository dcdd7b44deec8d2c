"""From the pixels of a mask's file to its foreground, and what leaves open which pixels are meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from command_line import UserError
from competition import Competition
from models.image_header import header_of

_SAVE = "save it in the levels 0 and 255, of one channel"


def _greys(colours: np.ndarray) -> np.ndarray:
    """(N,) uint8: the grey of each of (N, 3) uint8 colours."""
    return np.asarray(Image.fromarray(colours[None]).convert("L"))[0]


def _refuse_one_grey(colours: np.ndarray, path: Path) -> None:
    """Raise UserError where two of (N, 3) uint8 colours, all different, have one grey."""
    greys = _greys(colours)
    for grey in np.unique(greys):
        if len(same := colours[greys == grey]) > 1:
            shown = " and ".join(str(tuple(map(int, colour))) for colour in same[:2])
            raise UserError(
                f"{path} holds colours of one grey (red, green, blue {shown}), so nobody can tell which is the "
                f"foreground: {_SAVE}."
            )


def _some_colours(pixels: np.ndarray) -> np.ndarray:
    """(N, 3) uint8: the colours of (H, W, 3) pixels, of more than three any three."""
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    found: list[int] = []
    left = packed.ravel()
    while len(left) and len(found) < 3:
        found.append(int(left[0]))
        left = left[left != left[0]]
    return np.array([[c >> 16, c >> 8 & 255, c & 255] for c in found], np.uint8)


def _refuse_ambiguous(file: Image.Image, path: Path) -> None:
    if file.mode != "P":
        _refuse_one_grey(_some_colours(np.asarray(file.convert("RGB"))), path)
        return
    palette = np.array(file.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    if not len(palette):
        return
    colours = np.unique(palette, axis=0)
    # as most palettes are: of greys alone
    if len(np.unique(_greys(colours))) < len(colours):
        used = np.unique(np.asarray(file))
        _refuse_one_grey(np.unique(palette[used[used < len(palette)]], axis=0), path)


def levels_of(file: Image.Image, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The pixels of a mask file as levels, (H, W) of any number type; and its alpha, (H, W) uint8, where it counts.

    Raises:
        UserError: two of its colours have one grey, so that nobody can tell which is the foreground; or it holds
            several pictures.
    """
    if file.mode in ("L", "1", "I", "F") or file.mode.startswith("I;16"):
        # as numbers: Pillow's own conversion cuts off what exceeds 255
        pixels = np.asarray(file)
    else:
        _refuse_ambiguous(file, path)
        # through the palette: which index is foreground is the writer's choice (a full mask may hold only 0)
        pixels = np.asarray(file.convert("L"))
    alone = file.mode in ("LA", "PA", "RGBA")
    if file.mode == "P" and pixels.min() == pixels.max():
        # one colour from several indices: the file has no palette worth the name
        indices = np.asarray(file)
        pixels = indices if indices.min() != indices.max() else pixels
        alone = "transparency" in file.info
    alpha = np.asarray(file.convert("RGBA").getchannel("A")) if alone else None
    if getattr(file, "is_animated", False):
        raise UserError(f"{path} holds several pictures, and a mask is one: {_SAVE}, with the one that is meant.")
    # Pillow's 1-bit pixels are bool in bytes of 255, which not everything takes for True
    return (pixels.view(np.uint8) if pixels.dtype == bool else pixels), alpha


def refuse_deep_colours(data: bytes, path: Path) -> None:
    """Raise UserError for a mask in colour of more than 8 bits a channel, of which Pillow reads the upper 8 alone."""
    header = header_of(data)
    if header.bits > 8 and header.channels > 1:
        raise UserError(f"{path} has {header.channels} channels of {header.bits} bits: {_SAVE}.")


def foreground_of(levels: np.ndarray, path: Path) -> np.ndarray:
    """(H, W) bool: where the higher of two levels is; one level alone is foreground unless it is 0."""
    low, high = levels.min(), levels.max()
    mask: np.ndarray = levels == high if high else np.zeros(levels.shape, bool)
    if not ((levels == low) | mask).all():
        shown = ", ".join(map(str, np.unique(levels)[:5]))
        raise UserError(
            f"{path} holds more than two levels ({shown} ...), so it is not a binary mask: put the competition's own "
            "mask back."
        )
    return mask


def unexpected(area_px: int | np.integer, path: Path, competition: Competition) -> str:
    """A sentence on a mask that is empty or full where the competition's entry expects none such; else empty.

    Args:
        area_px: of the foreground.
        path: the mask's, for the message.
        competition: whose.
    """
    kinds = (
        ("empty (no foreground)", "empty_masks", area_px == 0),
        ("full (foreground alone)", "full_masks", area_px == competition.size[0] * competition.size[1]),
    )
    for kind, field, found in kinds:
        if found and not getattr(competition, field):
            return (
                f"{path} is {kind}, which no mask of the {competition.name} competition should be: put its own mask "
                f"back, or set {field} in its entry in competition.py."
            )
    return ""
