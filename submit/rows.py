"""From several networks' logits of one image to its row of the submission."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from competition import Order, Size
from ensemble.blend import Mixture
from ensemble.postprocess import apply_kept
from kernels.rle import encode_logits_text, encode_text


def blended_row(
    mixture: Mixture, planes: Sequence[np.ndarray], size: Size, order: Order, image: np.ndarray | None = None
) -> bytes:
    """Blend at full size, repair as the blend says, and encode.

    Args:
        mixture: the blend.
        planes: per member of it (h, w) float32 logits at the network's size.
        size: (height, width) of the full frame.
        order: of the pixels.
        image: (h, w, 3) uint8 RGB in the mixture's `image_frame`, where it has one.

    Returns:
        The run-length text.
    """
    full = mixture.combine(planes, [member.frame for member in mixture.members], mixture.weights, size, image)
    if mixture.repairs:
        return encode_text(apply_kept(full > mixture.threshold, mixture.repairs), order=order)
    return encode_logits_text(full, threshold=mixture.threshold, order=order)
