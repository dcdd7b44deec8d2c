"""Slow, obvious references that the compiled loops and the frame geometry are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np


def encode(mask: np.ndarray, order: str = "row") -> list[list[int]]:
    """Runs [start_px, length_px] of a (H, W) mask, pixel by pixel; 1-based."""
    pixels = [mask[y, x] for y in range(mask.shape[0]) for x in range(mask.shape[1])]
    if order == "column":
        pixels = [mask[y, x] for x in range(mask.shape[1]) for y in range(mask.shape[0])]
    runs: list[list[int]] = []
    before = False
    for number, pixel in enumerate(pixels, 1):
        if pixel and not before:
            runs.append([number, 0])
        if pixel:
            runs[-1][1] += 1
        before = bool(pixel)
    return runs


def decode(runs: list[list[int]], size: tuple[int, int], order: str = "row") -> np.ndarray:
    """(H, W) bool of runs [start_px, length_px]."""
    pixels = np.zeros(size[0] * size[1], bool)
    for start, length in runs:
        pixels[start - 1 : start - 1 + length] = True
    return pixels.reshape(size) if order == "row" else pixels.reshape(size[::-1]).T


def parse(text: str) -> list[list[int]]:
    """Runs of the submission's text."""
    numbers = [int(word) for word in text.split()]
    return [list(run) for run in zip(numbers[::2], numbers[1::2], strict=True)]


def text(runs: list[list[int]]) -> bytes:
    """The submission's text of runs."""
    return " ".join(f"{start} {length}" for start, length in runs).encode()


def counts(a: np.ndarray, b: np.ndarray) -> tuple[int, int, int]:
    """(intersection_px, a_px, b_px) of two masks."""
    return int(np.sum((a != 0) & (b != 0))), int(np.sum(a != 0)), int(np.sum(b != 0))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two masks; 1 for two empty ones."""
    both, first, second = counts(a, b)
    return 1.0 if first + second == 0 else 2 * both / (first + second)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks; 1 for two empty ones."""
    union = int(np.sum((a != 0) | (b != 0)))
    return 1.0 if union == 0 else counts(a, b)[0] / union


def mean_precision(predicted: np.ndarray, truth: np.ndarray) -> float:
    """One mask as one object: the mean, over ten thresholds on IoU, of true positives / (true positives + false
    positives + false negatives). Without an object in truth, 1 where none is predicted, else 0."""
    if not truth.any():
        return 0.0 if predicted.any() else 1.0
    both, first, second = counts(predicted, truth)
    overlap = Fraction(both, first + second - both)
    scores = []
    for percent in range(50, 100, 5):
        hit = first > 0 and overlap > Fraction(percent, 100)
        missed, invented = int(not hit), int(first > 0 and not hit)
        scores.append(int(hit) / (int(hit) + invented + missed))
    return float(np.mean(scores))


# by the names of kernels.metrics.METRICS
METRICS = {"dice": dice, "iou": iou, "mean_precision": mean_precision}


def area_weights(pixels: int, covered: float, cells: int) -> np.ndarray:
    """(cells, pixels) float64: what each pixel contributes to the mean over each of `cells` equal parts of the first
    `covered` pixels."""
    weights = np.zeros((cells, pixels))
    for cell in range(cells):
        low, high = cell * covered / cells, (cell + 1) * covered / cells
        for pixel in range(pixels):
            weights[cell, pixel] = max(0.0, min(high, pixel + 1) - max(low, pixel))
    return weights / weights.sum(1, keepdims=True)


def interpolation_weights(pixels: int, cells: int) -> np.ndarray:
    """(cells, pixels) float64: what each pixel contributes to the value at the centre of each of `cells` equal parts of
    the side, by linear interpolation between pixel centres; past the outer ones, theirs."""
    weights = np.zeros((cells, pixels))
    for cell in range(cells):
        at = (cell + 0.5) * pixels / cells - 0.5
        below = math.floor(at)
        weights[cell, max(below, 0)] += below + 1 - at
        weights[cell, min(below + 1, pixels - 1)] += at - below
    return weights


def bilinear(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A plane (h, w) at another size, (H, W) float64."""
    down, across = (interpolation_weights(old, new) for old, new in zip(plane.shape, size, strict=True))
    return down @ plane.astype(np.float64) @ across.T


def in_tiles(image: np.ndarray, side_px: int, forward: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(H, W) mean of what `forward` makes of square tiles that overlap by a quarter at least; at each pixel, a tile
    counts as much as the squared sine of where the pixel lies in it, down and across."""
    bell = np.sin(np.pi * (np.arange(side_px) + 0.5) / side_px) ** 2
    total, weight = np.zeros(image.shape[:2]), np.zeros(image.shape[:2])
    corners = []
    for side in image.shape[:2]:
        steps = math.ceil((side - side_px) / (side_px - side_px // 4))
        corners.append([round(k * (side - side_px) / max(steps, 1)) for k in range(steps + 1)])
    for top in corners[0]:
        for left in corners[1]:
            tile = np.s_[top : top + side_px, left : left + side_px]
            total[tile] += np.outer(bell, bell) * forward(image[tile])
            weight[tile] += np.outer(bell, bell)
    return total / weight


def stored(logits: np.ndarray, knee: float = 1.0, scale: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Codes and values of logits as FORMATS.md says they are stored: the nearest step of an inverse hyperbolic sine,
    within +-16."""
    codes = np.round(scale * np.arcsinh(np.clip(logits.astype(np.float64), -16, 16) / knee))
    return codes, knee * np.sinh(codes / scale)
