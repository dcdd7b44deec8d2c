"""`python -m folds.label_depth --function module:name`: depth maps of backgrounds and foregrounds by a user's function.

The function takes a picture, (h, w, 3) uint8 RGB, and returns its nearness, (h, w) of any number type, larger where it
is nearer; a pretrained monocular network behind it is the user's own dependency. Foregrounds are shown on grey.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

import atomic
from command_line import UserError, program
from folder_lock import fill
from folds.composite_parts import (
    BACKGROUND_DEPTH_DIR,
    BACKGROUNDS_DIR,
    FOREGROUND_DEPTH_DIR,
    FOREGROUNDS_DIR,
    list_parts,
    read_background,
    read_foreground,
)

DepthFunction = Callable[[np.ndarray], np.ndarray]
_GREY = 128


def find_function(text: str) -> DepthFunction:
    """The function that `module:name` names; the module may lie in the working folder.

    Raises:
        UserError: it cannot be imported, or is no function.
    """
    module, _, name = text.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--function {text!r} cannot be imported ({error}): give module:name.") from None
    if not callable(found):
        raise UserError(f"--function {text!r} is no function: give one that takes an image and returns its nearness.")
    return found  # type: ignore[no-any-return]


def label(function: DepthFunction, data: Path) -> int:
    """Write the depth maps that are not there yet, each scaled to 0..255 by its own range; returns how many.

    Raises:
        UserError: a picture cannot be read, or the function returns something else than a map of its size.
    """
    written = 0
    for pictures, depths in ((BACKGROUNDS_DIR, BACKGROUND_DEPTH_DIR), (FOREGROUNDS_DIR, FOREGROUND_DEPTH_DIR)):
        for path in tqdm(list_parts(data / pictures), depths, unit="picture", disable=None):
            target = data / depths / f"{path.stem}.png"
            if target.exists():
                continue
            if pictures == BACKGROUNDS_DIR:
                image = read_background(path)
            else:
                pixels = read_foreground(path)
                alpha = pixels[..., 3:] / 255
                image = np.rint(pixels[..., :3] * alpha + _GREY * (1 - alpha)).astype(np.uint8)
            near = np.asarray(function(image))
            if near.shape != image.shape[:2] or not np.isfinite(near).all():
                raise UserError(
                    f"the function's answer for {path} has the shape {near.shape}, or holds no numbers: let it return "
                    f"finite numbers of shape {image.shape[:2]}."
                )
            spread = float(near.max() - near.min()) or 1.0
            with atomic.replacing(target, durable=False) as temporary:
                Image.fromarray(np.rint((near - near.min()) / spread * 255).astype(np.uint8)).save(temporary)
            written += 1
    return written


@program
def main(function: str, data: Path = Path("data/composites")) -> None:
    """Make the depth maps that a folder of parts lacks.

    Args:
        function: `module:name` of a function from an image (h, w, 3) uint8 RGB to its nearness (h, w).
        data: the folder of parts.
    """
    fill(data)
    print(f"{label(find_function(function), data)} depth maps written in {data}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
