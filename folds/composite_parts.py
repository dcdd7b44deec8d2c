"""The files that composites are made of: backgrounds, foregrounds with transparency, and the depth of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from command_line import UserError
from folder_listing import list_folder
from folds.images import image_digest
from kernels.composition import Parts
from kernels.paste import OPAQUE
from models.image_file import ImageFile, decode

BACKGROUNDS_DIR, FOREGROUNDS_DIR = "bg", "fg"
BACKGROUND_DEPTH_DIR, FOREGROUND_DEPTH_DIR = "bg_depth", "fg_depth"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def list_parts(folder: Path) -> list[Path]:
    """The pictures in a folder of parts, by name.

    Raises:
        UserError: it is missing, holds fewer than two, or holds one twice.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: put the pictures there (python -m studio.composites renders some).")
    listing = list_folder(folder, _SUFFIXES)
    if note := listing.note(f"picture ({', '.join(_SUFFIXES)})"):
        print(f"warning: {note}")
    found = [folder / name for name in listing.names]
    if len(found) < 2:
        raise UserError(f"{folder} holds {len(found)} pictures ({', '.join(_SUFFIXES)}): put at least two there.")
    stems: dict[str, Path] = {}
    digests: dict[str, Path] = {}
    for path in found:
        other = stems.setdefault(path.stem.lower(), path)
        if other is not path:
            raise UserError(f"{folder} holds both {other.name} and {path.name}: rename one of them.")
        twin = digests.setdefault(image_digest(path.read_bytes()), path)
        if twin is not path:
            # it would be trained on under one name and held out under the other
            raise UserError(f"{twin} and {path} are the same file: remove one of them.")
    return found


def read_background(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Raises UserError where it cannot be read."""
    return decode(path)


def read_foreground(path: Path) -> np.ndarray:
    """(h, w, 4) uint8, RGB and alpha.

    Raises:
        UserError: it cannot be read, has no transparency, or is transparent everywhere.
    """
    pixels = ImageFile(path).as_stored()
    if pixels.ndim < 3 or pixels.shape[2] < 4:
        raise UserError(
            f"{path} has no transparency, so nobody can tell the foreground: save it as a PNG with an alpha channel "
            "(make predict cuts out cars)."
        )
    if pixels[..., 3].max() < OPAQUE:
        raise UserError(f"{path} is transparent everywhere: take it out of the folder, or cut it out again.")
    return pixels


def read_depth(path: Path, picture: Path, size: tuple[int, int]) -> np.ndarray:
    """The depth map of a picture, (h, w) uint8, 0 far .. 255 near.

    Raises:
        UserError: it is missing, cannot be read, is of another size than the picture, or not of 8 bits and one channel.
    """
    if not path.exists():
        raise UserError(
            f"{path} is missing: every picture needs its depth map; put it there, have it made (python -m "
            "folds.label_depth), or train a variant without depth (compact-mask-96)."
        )
    file = ImageFile(path)
    pixels = file.as_stored()
    if file.mode != "L":
        raise UserError(
            f"{path} is a picture of mode {file.mode}, and depth maps have one channel of 8 bits: scale it to 0 (far) "
            ".. 255 (near) and save it as mode L."
        )
    if pixels.shape != size:
        raise UserError(
            f"{path} has {pixels.shape[0]}x{pixels.shape[1]} pixels (height x width), and {picture.name} has "
            f"{size[0]}x{size[1]}: give it its picture's size."
        )
    return pixels


def _read_depths(folder: Path, pictures: Sequence[Path], read: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [
        read_depth(folder / f"{path.stem}.png", path, (pixels.shape[0], pixels.shape[1]))
        for path, pixels in zip(pictures, read, strict=True)
    ]


def read_parts(data: Path, backgrounds: Sequence[Path], foregrounds: Sequence[Path]) -> Parts:
    """Read all parts, and their depth where there is any.

    Args:
        data: the folder of the parts' folders.
        backgrounds, foregrounds: as `list_parts` gives them.

    Raises:
        UserError: a picture or a depth map cannot be used; the message names it.
    """
    under = [read_background(path) for path in backgrounds]
    size = under[0].shape[:2]
    for path, pixels in zip(backgrounds, under, strict=True):
        if pixels.shape[:2] != size:
            raise UserError(
                f"{path} has {pixels.shape[0]}x{pixels.shape[1]} pixels (height x width), and {backgrounds[0].name} "
                f"has {size[0]}x{size[1]}: bring all backgrounds to one size."
            )
    over = [read_foreground(path) for path in foregrounds]
    for path, pixels in zip(foregrounds, over, strict=True):
        if pixels.shape[0] > size[0] or pixels.shape[1] > size[1]:
            raise UserError(
                f"{path} has {pixels.shape[0]}x{pixels.shape[1]} pixels (height x width) and exceeds the backgrounds' "
                f"{size[0]}x{size[1]}: reduce it."
            )
    folders = data / BACKGROUND_DEPTH_DIR, data / FOREGROUND_DEPTH_DIR
    if not any(folder.is_dir() for folder in folders):
        return Parts(np.stack(under), over)
    near = _read_depths(folders[0], backgrounds, under), _read_depths(folders[1], foregrounds, over)
    return Parts(np.stack(under), over, np.stack(near[0]), near[1])
