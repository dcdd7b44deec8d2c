"""`python -m report.photographs`: a page of photographs and their masks, those first on which networks agree least.

Reads what `python -m ensemble.photographs` has written. `make predict` calls it.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tyro
from tqdm import tqdm

from command_line import UserError, program
from ensemble.photograph_files import MASK_SUFFIX, list_photographs
from ensemble.photograph_table import TABLE_FILE, Told, read_told
from models.image_file import decode
from program_flags import Positive
from report import page
from report.thumbnail import Thumbnail, jpeg_uri

PAGE_FILE = "photographs.html"
_WIDE_PX = 480
# what is background is shown at this share of its brightness, in this colour
_LEFT, _COLOUR = 0.25, np.array([24, 64, 120])


def _masked(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: the photograph, blue where the mask (h, w) has background."""
    shown: np.ndarray = np.where(mask[..., None], image, (image * _LEFT + _COLOUR).astype(np.uint8))
    return shown


def _note(told: Told) -> str:
    said = "agreement not known" if told.agreement is None else f"agreement {told.agreement:.3f}"
    return f"{said}; {told.foreground:.1%} foreground"


def pictures(folder: Path, masks: Path, name: str, told: Told) -> list[Thumbnail]:
    """A photograph, and the same with what its mask leaves out in blue; nothing where either cannot be read."""
    try:
        image, mask = decode(folder / name), decode(masks / (Path(name).stem + MASK_SUFFIX))
    except UserError:
        return []
    if image.shape[:2] != mask.shape[:2]:
        return []
    height = max(1, round(_WIDE_PX * image.shape[0] / image.shape[1]))
    if image.shape[1] > _WIDE_PX:
        image, mask = (cv2.resize(own, (_WIDE_PX, height), interpolation=cv2.INTER_AREA) for own in (image, mask))
    both = image, _masked(image, mask[..., 0] > 127)
    titles = (name, _note(told)), ("its mask", "the rest in blue")
    return [Thumbnail(jpeg_uri(own, _WIDE_PX), *title) for own, title in zip(both, titles, strict=True)]


@program
def main(images: Path, out: Path, worst: Positive = 60) -> None:
    """Write a page of photographs with their masks, those first on which the networks agree least.

    Args:
        images: the folder of photographs, or one file.
        out: the folder of their masks; the page is written into it.
        worst: photographs on the page, at most.
    """
    folder, names, _ = list_photographs(images, report=False)
    told = read_told(out)
    known = [name for name in names if name in told]
    if not known:
        raise UserError(f"{out / TABLE_FILE} names none of the photographs in {images}: make predict.")
    known.sort(key=lambda name: (told[name].agreement is not None, told[name].agreement or 0.0, name))
    drawn = tqdm(known[:worst], desc="draw", unit="image", disable=None)
    rows = [(told[name].below, found) for name in drawn if (found := pictures(folder, out, name, told[name]))]
    page.write(
        out / PAGE_FILE,
        "photographs.html.j2",
        title="Photographs and their masks",
        count=len(known),
        shown=len(rows),
        below=sum(told[name].below for name in known),
        unknown=sum(told[name].agreement is None for name in known),
        limit=told[known[0]].limit,
        rows=rows,
    )
    print(f"page  {out / PAGE_FILE}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
