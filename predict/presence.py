"""What networks with a head of whole images say: one number a network and image, from a plane of that one number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from folds.logit_code import rounded
from folds.store import LogitStore
from models.variant import PRESENCE_HEAD, Variant

# of each network, the logit that there is something in an image; None of a network without such a head
Said = Sequence[float | None]


def said_by_plane(plane: np.ndarray) -> float:
    """What a network says of an image as a whole, of the plane (h, w) that its head's logit was spread over."""
    return float(plane.mean(dtype=np.float64))


def mask_and_said(planes: np.ndarray, variant: Variant) -> tuple[np.ndarray, float | None]:
    """A network's logits of the mask, (h, w), and what it says of the image as a whole, of all its planes (K, h, w).

    What it says is rounded as a store would round it.
    """
    mask = planes[variant.planes_of("mask")][0]
    if not any(head.name == PRESENCE_HEAD for head in variant.heads):
        return mask, None
    return mask, said_by_plane(rounded(planes[variant.planes_of(PRESENCE_HEAD)][0]))


def said_of(stores: Sequence[LogitStore], name: str) -> list[float | None]:
    """What networks say of an image, from their stored logits."""
    return [said_by_plane(store.head(name, PRESENCE_HEAD)) if store.has(PRESENCE_HEAD) else None for store in stores]
