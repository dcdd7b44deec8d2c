"""Small competitions drawn from numbers: the index that networks' logits would give, a few open pixels an image."""

from __future__ import annotations

import numpy as np

from ensemble.index import DisagreementIndex

BAND = (-0.5, 0.5)


def networks_of_equal_worth(
    rng: np.random.Generator, *, groups: int = 20, members: int = 5, pixels: int = 41, spread: float = 0.3
) -> DisagreementIndex:
    """One image a group, on which no blend of the networks is worth more than another.

    Each network shifts a group's logits by an amount of its own, 0 on average, and so does a blend of them: by the
    weighted mean of theirs. Logits are spread evenly, so that the number of pixels above the threshold follows the
    shift, and whether more of them is better is a coin's throw for every group. On average, no weights, vote or
    threshold gain anything over any others; in 20 groups, some seem to.

    Args:
        rng: of all draws.
        groups: images.
        members: networks.
        pixels: open ones an image.
        spread: standard deviation of a network's shift; the logits lie in -1.5 .. 1.5.
    """
    logits, truths, agreed = [], [], []
    for _ in range(groups):
        shifts = spread * rng.normal(size=(members, 1))
        more_is_better = int(rng.random() < 0.5)
        logits.append((np.linspace(-1.5, 1.5, pixels) + shifts).astype(np.float32))
        truths.append(np.full(pixels, more_is_better, np.uint8))
        agreed.append((400, 400, 400 + pixels * more_is_better))
    return DisagreementIndex(np.array(agreed), logits, truths, BAND)


def networks_of_all_kinds(rng: np.random.Generator, images: int, *, pixels: int = 50) -> DisagreementIndex:
    """Four networks: two good ones with errors of their own, a near copy of the first, and a bad one."""
    logits, truths, agreed = [], [], []
    for _ in range(images):
        truth = rng.random(pixels) < 0.5
        noise = rng.normal(size=(4, pixels)) * np.array([1.6, 1.6, 0.1, 8.0])[:, None]
        noise[2] += noise[0]
        logits.append((np.where(truth, 2.0, -2.0) + noise).astype(np.float32))
        truths.append(truth.astype(np.uint8))
        agreed.append((90, 100, 110 + int(truth.sum())))
    sample = [np.where(rng.random((4, 6)) < 0.5, 4, -4).astype(np.float32) for _ in range(images)]
    return DisagreementIndex(
        np.array(agreed), logits, truths, BAND, sample, [(s[0] > 0).astype(np.uint8) for s in sample]
    )
