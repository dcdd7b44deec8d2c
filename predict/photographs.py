"""Photographs of any size through members' networks: whole, or in tiles where they exceed a network that pads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from competition import Size
from models.frame import Frame
from models.image_file import ImageFile
from predict.blocks import Place, names_by_slot, stacked
from predict.presence import mask_and_said
from predict.replicas import ReplicaPool
from predict.tiles import predict_in_tiles

# tiles of one photograph a forward pass
_TILES = 4


@dataclass(frozen=True)
class Photograph:
    """What is decoded of one photograph.

    Attributes:
        size: its own (height, width).
        inputs: per frame, (h, w, 3) uint8 RGB: the network's input, or all its pixels where it goes in tiles.
    """

    size: Size
    inputs: dict[Frame, np.ndarray]


def load(
    path: Path, frames: Sequence[Frame], further: Callable[[Size], Sequence[Frame]] = lambda size: ()
) -> Photograph:
    """Read a photograph for networks of these frames.

    Args:
        path: image file.
        frames: the networks'.
        further: frames that the image is needed in besides, given its size.

    Raises:
        UserError: it cannot be read; the message names it.
    """
    file = ImageFile(path)
    wanted = dict.fromkeys((*frames, *further(file.size)))
    inputs = {
        frame: frame.enlarge(file.image()) if frame.exceeded_by(file.size) else frame.input_of(file) for frame in wanted
    }
    return Photograph(file.size, inputs)


@dataclass(frozen=True)
class PhotographLogits:
    """One photograph's logits as the members' networks gave them.

    Attributes:
        name: of the photograph.
        size: its own (height, width).
        planes, frames: per member, float32 logits and the frame they lie in.
        images: per frame, (h, w, 3) uint8 RGB: the photograph in that frame.
        said: per member, the logit that there is something in it; None of one without a head for that.
    """

    name: str
    size: Size
    planes: list[np.ndarray] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    images: dict[Frame, np.ndarray] = field(default_factory=dict)
    said: list[float | None] = field(default_factory=list)


def network_logits(pool: ReplicaPool, photographs: Sequence[tuple[Place, Photograph]]) -> list[PhotographLogits]:
    """Pass some photographs of one block through every member's networks, in tiles where one needs that."""
    results = [PhotographLogits(place.name, p.size, images=dict(p.inputs)) for place, p in photographs]
    block_names = names_by_slot([place for place, _ in photographs])
    with pool.take() as replicas:
        for replica in replicas:
            frame = replica.frame
            whole = [(place, p.inputs[frame]) for place, p in photographs if not frame.exceeded_by(p.size)]
            logits = replica.logits(stacked(whole), block_names) if whole else np.empty(0)
            for result, (place, photograph) in zip(results, photographs, strict=True):
                if frame.exceeded_by(photograph.size):
                    forward = partial(replica.logits, names=[place.name] * _TILES)
                    tiled = predict_in_tiles(photograph.inputs[frame], frame.size, forward, batch=_TILES)
                    # tiles are put together at the photograph's own size, or twice that
                    whole_frame = Frame(frame.enlarged(photograph.size))
                    plane, said = mask_and_said(tiled, replica.variant)
                    result.frames.append(whole_frame)
                    result.images[whole_frame] = photograph.inputs[frame]
                else:
                    plane, said = mask_and_said(logits[place.slot], replica.variant)
                    result.frames.append(frame)
                result.planes.append(plane)
                result.said.append(said)
    return results
