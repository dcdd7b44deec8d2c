"""How far the masks of a blend that is handed on, or written as one file, are those of the blend it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from competition import Competition
from ensemble.blend import Blend
from ensemble.photograph_files import list_photographs
from folds.images import list_images
from folds.logit_code import rounded
from kernels.metrics import DICE
from models.image_file import decode
from models.runtimes import FLOAT32
from predict.blocks import Place
from predict.photographs import Photograph, PhotographLogits, load, network_logits, photograph_of
from predict.replicas import ReplicaPool
from program_flags import NonNegative

# the flags of every program that compares masks
ComparedImages = Annotated[
    Path | None, arg(help="folder of images to compare on; by default the competition's, where they are there.")
]
ComparedCount = Annotated[NonNegative, arg(help="how many of them.")]
NOT_COMPARED = "as there are no images: name a folder (--images)"


# Below both of a pair, masks differ: in Dice and in the share of their pixels, of all images and of one. A small mask
# loses more Dice by one pixel than a large one by a hundred
_LEAST_MEAN, _MOST_CHANGED_MEAN = 0.9999, 2e-5
_LEAST_WORST, _MOST_CHANGED = 0.9995, 1e-4
# logits nearer to 0 are decided by rounding: a store's steps are 0.002 there, and bytes of a resized image differ by 1
_UNDECIDED = 0.01


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


def agree(masks: Sequence[np.ndarray], logits: Sequence[np.ndarray]) -> bool:
    """Whether masks are those of the same networks computed elsewhere, but for rounding.

    Args:
        masks: (H, W) bool, at least one.
        logits: the networks' own, (H, W) float32 each.

    >>> own = np.array([[4.0, 3.0, -0.001, -5.0]])
    >>> agree([np.array([[True, True, True, False]])], [own]), agree([np.array([[True, False, False, False]])], [own])
    (True, False)
    """
    own = [plane > 0 for plane in logits]
    decided = [np.abs(plane) >= _UNDECIDED for plane in logits]
    counted = [np.where(sure, mask, other) for sure, mask, other in zip(decided, masks, own, strict=True)]
    each = [Agreement.of([one], [other]) for one, other in zip(counted, own, strict=True)]
    together = Agreement.of(counted, own)
    return (together.mean >= _LEAST_MEAN or together.changed_mean <= _MOST_CHANGED_MEAN) and all(
        one.worst >= _LEAST_WORST or one.changed <= _MOST_CHANGED for one in each
    )


def example_images(images: Path | None, data: Path, facts: Competition, count: int) -> list[Path]:
    """Images to compare on, evenly spaced; none where there are none.

    Args:
        images: the folder of photographs that was asked for, if any; or one photograph.
        data: the competition's files.
        facts: the competition.
        count: how many.
    """
    if images is not None:
        folder, names, _ = list_photographs(images)
    else:
        folders = [folder for folder in (data / facts.test_dir, data / facts.train_dir) if folder.is_dir()]
        if not folders:
            return []
        folder, names = folders[0], list_images(folders[0], facts)
    some = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).astype(int))
    return [folder / names[k] for k in some]


def logits_of(blend: Blend, photograph: PhotographLogits) -> np.ndarray:
    """(H, W) float32: a blend's logits of a photograph of any size, above 0 exactly where its mask is."""
    # as a store rounds them: on such logits blends are fitted
    planes = [rounded(plane) for plane in photograph.planes]
    there = replace(blend, frames=tuple(photograph.frames))
    return there.logits(planes, photograph.size, photograph.images, photograph.said)


def _photograph_logits(
    blend: Blend, photographs: Iterable[tuple[Path, Photograph]], folds: int = 0
) -> Iterator[PhotographLogits]:
    """The logits of a blend's networks, in float32, photograph by photograph."""
    pool = ReplicaPool(blend.on(FLOAT32).members, 1, folds=folds)
    with pool.running():
        for path, photograph in photographs:
            yield from network_logits(pool, [(Place(path.name, 0, 1), photograph)])


def own_logits(blend: Blend, paths: Sequence[Path], folds: int = 0) -> list[np.ndarray]:
    """A blend's logits of some images, (H, W) float32 of each one's own size, above 0 where its mask is.

    They are computed as an export does: in float32, from the images' own pixels, without repairs and what empties
    masks. Predictions here use bfloat16 on machines that have it, and let the JPEG codec do the first halvings.

    Args:
        blend: whose combination needs no image.
        paths: of the images.
        folds: networks of each member; 0 takes all.
    """
    plain = replace(blend, repairs=(), gate=None)
    decoded = ((path, photograph_of(decode(path), plain.frames)) for path in paths)
    return [logits_of(plain, logits) for logits in _photograph_logits(plain, decoded, folds)]


def whole_masks(blend: Blend, paths: Sequence[Path]) -> list[np.ndarray]:
    """A blend's masks of some images, (H, W) bool of each one's own size, with all that the blend does; in float32."""
    read = ((path, load(path, blend.frames, blend.image_frames)) for path in paths)
    return [logits_of(blend, logits) > 0 for logits in _photograph_logits(blend, read)]
