"""How far the masks of a blend that is handed on, or written as one file, are those of the blend it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from competition import Competition, Size
from ensemble.blend import Blend
from folds.images import list_images
from folds.logit_code import rounded
from kernels.metrics import DICE
from models.image_file import decode
from models.runtimes import FLOAT32
from predict.blocks import Place
from predict.photographs import PhotographLogits, load, network_logits
from predict.replicas import ReplicaPool

# the flags of every program that compares masks
ComparedImages = Annotated[
    Path | None, arg(help="folder of images to compare on; by default the competition's, where they are there.")
]
ComparedCount = Annotated[int, arg(help="how many of them.")]
NOT_COMPARED = "as there are no images: name a folder (--images)"


@dataclass(frozen=True)
class Agreement:
    """How far masks agree with others of the same images.

    Attributes:
        mean, worst: Dice of each mask with its other one.
        changed: largest share (0..1) of an image's pixels that differ.
        changed_mean: mean over images of that share.
    """

    mean: float
    worst: float
    changed: float
    changed_mean: float

    @staticmethod
    def of(masks: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> Agreement:
        """From at least one pair of masks, (H, W) bool; ValueError where there are more of the one than of the other.

        >>> some = np.array([[True, True, False, False]])
        >>> Agreement.of([some, some], [some, np.array([[True, False, False, False]])])
        Agreement(mean=0.8333333333333333, worst=0.6666666666666666, changed=0.25, changed_mean=0.125)
        """
        pairs = list(zip(masks, others, strict=True))
        dice = [DICE.of((int((one & other).sum()), int(one.sum()), int(other.sum()))) for one, other in pairs]
        changed = [float((one != other).mean()) for one, other in pairs]
        return Agreement(float(np.mean(dice)), min(dice), max(changed), float(np.mean(changed)))


def example_images(images: Path | None, data: Path, facts: Competition, count: int) -> list[Path]:
    """Images to compare on, evenly spaced; none where there are none.

    Args:
        images: the folder that was asked for, if any.
        data: the competition's files.
        facts: the competition.
        count: how many.
    """
    for folder in (images, data / facts.test_dir, data / facts.train_dir):
        if folder is not None and folder.is_dir():
            names = list_images(folder, facts)
            some = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).astype(int))
            return [folder / names[k] for k in some]
    return []


def own_masks(blend: Blend, paths: Sequence[Path], full: Size, folds: int = 0) -> list[np.ndarray]:
    """A blend's masks of some images, (H, W) bool, without its refiners, repairs and what empties masks.

    They are computed as an export does: in float32, and from the images' own pixels. Predictions here use bfloat16 on
    machines that have it, and let the JPEG codec do the first halvings.

    Args:
        blend: whose combination needs no image.
        paths: of the images.
        full: (H, W) of the masks.
        folds: networks of each member; 0 takes all.
    """
    pool = ReplicaPool(blend.on(FLOAT32).members, 1, folds=folds)
    masks = []
    with pool.running(), pool.take() as replicas:
        for path in paths:
            planes = []
            for replica in replicas:
                image = replica.frame.apply(decode(path))
                planes.append(rounded(replica.logits(image[None])[0, replica.variant.planes_of("mask")][0]))
            masks.append(blend.combined(planes, full) > blend.threshold)
    return masks


def logits_of(blend: Blend, photograph: PhotographLogits) -> np.ndarray:
    """(H, W) float32: a blend's logits of a photograph of any size, above 0 exactly where its mask is."""
    # as a store rounds them: on such logits blends are fitted
    planes = [rounded(plane) for plane in photograph.planes]
    there = replace(blend, frames=tuple(photograph.frames))
    return there.logits(planes, photograph.size, photograph.images, photograph.said)


def whole_masks(blend: Blend, paths: Sequence[Path]) -> list[np.ndarray]:
    """A blend's masks of some images, (H, W) bool of each one's own size, with all that the blend does; in float32."""
    pool = ReplicaPool(blend.on(FLOAT32).members, 1)
    masks = []
    with pool.running():
        for path in paths:
            photograph = load(path, blend.frames, blend.image_frames)
            (logits,) = network_logits(pool, [(Place(path.name, 0, 1), photograph)])
            masks.append(logits_of(blend, logits) > 0)
    return masks
