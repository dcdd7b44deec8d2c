"""HEIC, the format that iPhones write: by pillow-heif, where somebody has installed it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from command_line import UserError


def heif_pixels(path: Path, data: bytes) -> np.ndarray:
    """Decode a HEIC file.

    Args:
        path: for messages.
        data: its content.

    Returns:
        (H, W, 3) uint8 RGB, upright; what it has beyond 8 bits is for bright screens, and is left out.

    Raises:
        UserError: pillow-heif is not installed, or the file is damaged.
    """
    try:
        import pillow_heif
    except ImportError:
        raise UserError(
            f"{path} is a HEIC file, which needs a package more: pip install pillow-heif, or save it as JPEG."
        ) from None
    try:
        # turned upright by its own transformations, which outrank its EXIF
        picture = pillow_heif.open_heif(io.BytesIO(data)).to_pillow().convert("RGB")
    except (OSError, SyntaxError, ValueError, RuntimeError, EOFError, LookupError):
        raise UserError(
            f"{path} is a HEIC file that cannot be decoded: copy it again, or take it out of the folder."
        ) from None
    return np.asarray(picture)
