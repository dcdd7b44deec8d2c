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
from predict.agreement import Poll, grid_of
from predict.blocks import Place, names_by_slot, stacked
from predict.presence import mask_and_said
from predict.replicas import Replica, ReplicaPool
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
        frames: the networks', of which the photograph's size makes those that it goes through.
        further: frames that the image is needed in besides, given its size.

    Raises:
        UserError: it cannot be read; the message names it.
    """
    file = ImageFile(path)
    wanted = dict.fromkeys((*(frame.of(file.size) for frame in frames), *further(file.size)))
    inputs = {
        frame: frame.enlarge(file.image()) if frame.exceeded_by(file.size) else frame.input_of(file) for frame in wanted
    }
    return Photograph(file.size, inputs)


def photograph_of(image: np.ndarray, frames: Sequence[Frame]) -> Photograph:
    """What networks of these frames need of a photograph, from its own pixels, which no codec has reduced.

    Args:
        image: (H, W, 3) uint8 RGB; not modified.
        frames: the networks'.
    """
    size = image.shape[0], image.shape[1]
    inputs = {
        frame: frame.enlarge(image) if frame.exceeded_by(size) else frame.apply(image)
        for frame in dict.fromkeys(frame.of(size) for frame in frames)
    }
    return Photograph(size, inputs)


@dataclass(frozen=True)
class PhotographLogits:
    """One photograph's logits as the members' networks gave them.

    Attributes:
        name: of the photograph.
        size: its own (height, width).
        planes, frames: per member, float32 logits and the frame they lie in.
        images: per frame, (h, w, 3) uint8 RGB: the photograph in that frame.
        said: per member, the logit that there is something in it; None of one without a head for that.
        poll: the votes of all networks, where they were asked for.
    """

    name: str
    size: Size
    planes: list[np.ndarray] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    images: dict[Frame, np.ndarray] = field(default_factory=dict)
    said: list[float | None] = field(default_factory=list)
    poll: Poll | None = None


def _poll(asked: Sequence[Replica], size: Size) -> Poll:
    return Poll(grid_of([replica.frame.of(size) for replica in asked], size), size)


def network_logits(
    pool: ReplicaPool, photographs: Sequence[tuple[Place, Photograph]], *, polled: bool = False
) -> list[PhotographLogits]:
    """Pass some photographs of one block through every member's networks, in tiles where one needs that.

    Args:
        pool: the networks.
        photographs: of one block, each with its place.
        polled: also count what each network by itself calls foreground; fitted ones, which ignore the image, are not
            asked.
    """
    block_names = names_by_slot([place for place, _ in photographs])
    with pool.take() as replicas:
        asked = [replica for replica in replicas if polled and not replica.variant.fitted]
        results = [
            PhotographLogits(
                place.name,
                photograph.size,
                images=dict(photograph.inputs),
                poll=_poll(asked, photograph.size) if asked else None,
            )
            for place, photograph in photographs
        ]
        for replica in replicas:
            apart = replica in asked
            frames = [replica.frame.of(p.size) for _, p in photographs]
            whole = [
                (place, p.inputs[frame])
                for frame, (place, p) in zip(frames, photographs, strict=True)
                if not frame.exceeded_by(p.size)
            ]
            logits = replica.logits(stacked(whole), block_names, apart=apart) if whole else np.empty(0)
            for result, frame, (place, photograph) in zip(results, frames, photographs, strict=True):
                if frame.exceeded_by(photograph.size):
                    forward = partial(replica.logits, names=[place.name] * _TILES, apart=apart)
                    planes = predict_in_tiles(photograph.inputs[frame], frame.size, forward, batch=_TILES)
                    # tiles are put together at the photograph's own size, or twice that
                    used = Frame(frame.enlarged(photograph.size))
                    result.images[used] = photograph.inputs[frame]
                else:
                    planes, used = logits[place.slot], frame
                plane, said = mask_and_said(planes, replica.variant)
                result.frames.append(used)
                result.planes.append(plane)
                result.said.append(said)
                if result.poll is not None and apart:
                    result.poll.add(planes[len(planes) - replica.networks :], used)
    return results
