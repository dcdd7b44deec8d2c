"""How far out-of-fold logits bear out a label: one confidence an image, and the region that speaks most against it.

The confidence follows the idea of cleanlab's score for labels of segmentations (Lad and Mueller, "Estimating label
quality and errors in semantic segmentation data via any model", 2023): each pixel has the probability that the network
gives to its own label, and the image a soft minimum of these, so that one wrong part counts and not the mean of all
that is right. The code is ours; what is added is that a label's edge may lie a pixel of the network to either side.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# of the soft minimum: a pixel that is wrong for sure weighs as much as exp(1 / 0.1) that are right for sure
TEMPERATURE = 0.1
# pixels of the network by which an edge may be off
_TOLERANCE_PX = 1
# of a region: twice the largest distance to its edge, in pixels of the network; below it is a thin one
_THIN_PX = 5
_SQUARE = np.ones((2 * _TOLERANCE_PX + 1, 2 * _TOLERANCE_PX + 1), np.uint8)


@dataclass(frozen=True)
class Region:
    """A connected part of the frame in which label and network contradict each other.

    Attributes:
        kind: "hole" or "missing part" of the label, "thin part lost", "island" apart from the rest, "part too much".
        pixels: of the network, edges within the tolerance left out.
        evidence: sum over them of how sure the network is, 0 for a half, 1 for certainty.
        box: (top, left, bottom, right) in shares 0..1 of the network's frame.
    """

    kind: str
    pixels: int
    evidence: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class LabelConfidence:
    """What the network says of one label.

    Attributes:
        confidence: 0..1, the soft minimum; low where some part of the label is contradicted.
        regions: that contradict it, the strongest first.
    """

    confidence: float
    regions: list[Region]

    @property
    def kind(self) -> str:
        """Of the strongest region; "" where there is none."""
        return self.regions[0].kind if self.regions else ""


def self_confidence(logits: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """The probability that the network gives to the label, pixel by pixel.

    Args:
        logits: (h, w) float32.
        coverage: (h, w) uint8, of the label, 0..255.

    Returns:
        (h, w) float32, 0..1. Within a pixel of the label's edge, the larger one of both labels'.
    """
    probability = 1 / (1 + np.exp(-logits))
    says = np.where(coverage > 127, probability, 1 - probability)
    either = np.maximum(probability, 1 - probability)
    return np.where(_at_edge(coverage), either, says).astype(np.float32)


def _at_edge(coverage: np.ndarray) -> np.ndarray:
    """(h, w) bool: pixels at or beside the label's edge."""
    label = (coverage > 127).astype(np.uint8)
    return cv2.dilate(label, _SQUARE) != cv2.erode(label, _SQUARE)


def soft_minimum(values: np.ndarray, temperature: float = TEMPERATURE) -> float:
    """Mean of values 0..1, in which each weighs exp((1 - value) / temperature).

    >>> soft_minimum(np.ones(5)), soft_minimum(np.array([1.0] * 99 + [0.0])) < 0.01
    (1.0, True)
    """
    weights = np.exp((1 - values.astype(np.float64)) / temperature)
    return float((values * weights).sum() / weights.sum())


def _kind(label: np.ndarray, region: np.ndarray) -> str:
    """What is wrong in a region (h, w) uint8 0/1 by a label (h, w) uint8 0/1."""
    thick = 2 * float(cv2.distanceTransform(region, cv2.DIST_L2, 3).max())
    inside = bool(label[region > 0].mean() > 0.5)
    if inside:
        _, pieces = cv2.connectedComponents(label, connectivity=8)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        own = np.bincount(pieces[(region > 0) & (label > 0)]).argmax()
        return "part too much" if own == sizes.argmax() else "island"
    _, ground = cv2.connectedComponents(1 - label, connectivity=4)
    edge = set(np.concatenate([ground[0], ground[-1], ground[:, 0], ground[:, -1]]).tolist()) - {0}
    around = set(np.unique(ground[(region > 0) & (label == 0)]).tolist())
    if around and not around & edge:
        return "hole"
    return "thin part lost" if thick < _THIN_PX else "missing part"


def label_confidence(logits: np.ndarray, coverage: np.ndarray, *, most: int = 5) -> LabelConfidence:
    """Ask a network's out-of-fold logits after a label.

    Args:
        logits: (h, w) float32, mean over networks that have not seen the image.
        coverage: (h, w) uint8, 0..255, of the label, at the same size.
        most: regions that are described.
    """
    confident = self_confidence(logits, coverage)
    label = (coverage > 127).astype(np.uint8)
    height, width = label.shape
    count, numbers, stats, _ = cv2.connectedComponentsWithStats((confident < 0.5).astype(np.uint8), connectivity=8)
    evidence = np.bincount(
        numbers.ravel(), np.maximum(1 - 2 * confident, 0).ravel().astype(np.float64), minlength=count
    )
    ranked = sorted(range(1, count), key=lambda number: -evidence[number])[:most]
    regions = []
    for number in ranked:
        left, top, wide, high, pixels = (int(value) for value in stats[number])
        box = top / height, left / width, (top + high) / height, (left + wide) / width
        regions.append(Region(_kind(label, (numbers == number).astype(np.uint8)), pixels, float(evidence[number]), box))
    return LabelConfidence(soft_minimum(confident), regions)
