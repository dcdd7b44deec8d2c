"""Photographs in a folder, and the masks and cut-outs that are written of them."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

import atomic
from command_line import UserError
from folder_listing import list_folder
from path_names import shown, why_not_in_table

SUFFIXES = (
    *(".jpg", ".jpeg", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".jp2", ".gif", ".avif"),
    # by a package of its own (models/heif.py)
    *(".heic", ".heif"),
)
# what replaces a photograph's suffix in the names of its mask and its cut-out
MASK_SUFFIX = "_mask.png"
CUTOUT_SUFFIX = "_cutout.png"
# bytes that file systems take for a name
_LONGEST = 255


def list_photographs(source: Path, *, report: bool = True) -> tuple[Path, list[str], list[tuple[str, UserError]]]:
    """The photographs of a folder, or one file.

    Args:
        source: the folder, or the file.
        report: print what else lies in the folder, and is not junk.

    Returns:
        Their folder, their names sorted, and those that can have no outputs, each with its fault.

    Raises:
        UserError: nothing is there, or two photographs would have outputs of one name.
    """
    if source.is_file():
        if reason := why_not_in_table(source.name):
            raise UserError(f"{source.parent / shown(source.name)}: {reason}; rename it.")
        return source.parent, [source.name], []
    if not source.is_dir():
        raise UserError(f"{source} is missing: name a photograph or a folder of photographs (IMAGES=...).")
    listing = list_folder(source, SUFFIXES)
    note = listing.note(f"photograph ({', '.join(SUFFIXES)})")
    if note and report:
        print(f"warning: {note}")
    # one name must not end the work on thousands
    unfit = {name: reason for name in listing.names if (reason := why_not_in_table(name))}
    others = [(name, UserError(f"{source / shown(name)}: {reason}; rename it.")) for name, reason in unfit.items()]
    names = [name for name in listing.names if name not in unfit]
    long = [name for name in names if len(os.fsencode(Path(name).stem + CUTOUT_SUFFIX)) > _LONGEST]
    names = [name for name in names if name not in long]
    others += [
        (name, UserError(f"{source / name} has a name too long for its mask to have one like it: rename it."))
        for name in long
    ]
    if not names and not long and not unfit:
        raise UserError(f"{source} holds no photograph ({', '.join(SUFFIXES)}): name another folder (IMAGES=...).")
    stems: dict[str, str] = {}
    for name in names:
        other = stems.setdefault(Path(name).stem, name)
        if other != name:
            raise UserError(f"{source} holds both {other} and {name}, whose masks would have one name: rename one.")
    return source, names, others


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W) or (H, W, C) uint8, channels as OpenCV orders them, as PNG, whole or not at all."""
    # run-length strategy: masks become small, photographs are written in a fifth of the time
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    done, data = cv2.imencode(".png", pixels, options)
    if not done:
        raise UserError(f"{path} cannot be written as PNG ({pixels.shape[0]}x{pixels.shape[1]} pixels).")
    with atomic.replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())


def cut_out(image: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """A photograph with its background transparent.

    Args:
        image: (H, W, 3) uint8 RGB.
        logits: (H, W) float32.

    Returns:
        (H, W, 4) uint8, blue, green, red, alpha as OpenCV writes them; alpha is the probability of the foreground, so
        the edges are soft.
    """
    alpha = np.rint(255 / (1 + np.exp(-np.clip(logits, -30, 30)))).astype(np.uint8)
    return np.dstack([image[..., ::-1], alpha])
