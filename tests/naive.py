"""Slow, obvious references that the compiled loops and the frame geometry are compared with."""

from __future__ import annotations

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
    height, width = size
    mask = np.zeros(size, bool)
    for start, length in runs:
        for number in range(start - 1, start - 1 + length):
            if order == "row":
                mask[number // width, number % width] = True
            else:
                mask[number % height, number // height] = True
    return mask


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


def area_weights(pixels: int, covered: float, cells: int) -> np.ndarray:
    """(cells, pixels) float64: what each pixel contributes to the mean over each of `cells` equal parts of the first
    `covered` pixels."""
    weights = np.zeros((cells, pixels))
    for cell in range(cells):
        low, high = cell * covered / cells, (cell + 1) * covered / cells
        for pixel in range(pixels):
            weights[cell, pixel] = max(0.0, min(high, pixel + 1) - max(low, pixel))
    return weights / weights.sum(1, keepdims=True)
