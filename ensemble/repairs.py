"""Repairs of a thresholded mask: holes filled, islands dropped, the largest piece kept, thin structures joined; and,
where images may be empty, masks emptied that are too small to be true.

A car is one piece with few holes and no crumbs beside it; whether cutting crumbs off gains anything depends on the
networks, so nothing here is applied unless `repair_gain.measure` has found that it pays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from competition import Size
from kernels import rle
from kernels.topology import Parts, background, runs_of_lines

# half the length of the lines that close thin structures: aerials and mirror stalks break by a few pixels, not by more
_REACH_PX = 4
# (rows, columns) from the middle of a line to its end: eight directions, as aerials lean
_DIRECTIONS = ((0, 4), (2, 4), (4, 4), (4, 2), (4, 0), (4, -2), (4, -4), (2, -4))


def _components(mask: np.ndarray, connectivity: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W) int32, 0 outside the mask, and the area in pixels of every label, (L,)."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=connectivity)
    return labels, stats[:, cv2.CC_STAT_AREA]


def fill_holes(mask: np.ndarray, under_px: int) -> np.ndarray:
    """Fill the holes of less than `under_px` pixels.

    A hole is a 4-connected piece of background that does not touch the frame's border.

    Args:
        mask: (H, W) bool, C-contiguous; not modified.
        under_px: holes of this area or more stay.

    Returns:
        (H, W) bool.
    """
    labels, areas = _components(~mask, 4)
    small = areas < under_px
    small[0] = False
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        small[edge] = False
    return mask | small[labels] if small.any() else mask.copy()


def drop_islands(mask: np.ndarray, under_px: int) -> np.ndarray:
    """Remove the 8-connected pieces of less than `under_px` pixels; the largest piece always stays.

    Args and Returns as `fill_holes`.
    """
    labels, areas = _components(mask, 8)
    small = areas < under_px
    small[0] = False
    if len(areas) > 1:
        small[1 + int(areas[1:].argmax())] = False
    return mask & ~small[labels] if small.any() else mask.copy()


def keep_largest(mask: np.ndarray) -> np.ndarray:
    """Keep the largest 8-connected piece alone, (H, W) bool to (H, W) bool; of equal ones, the first in row order."""
    labels, areas = _components(mask, 8)
    if len(areas) <= 2:
        return mask.copy()
    return labels == 1 + int(areas[1:].argmax())


def repair_thin(mask: np.ndarray, under_px: int) -> np.ndarray:
    """Close gaps of up to seven pixels, as where an aerial broke, but only where little is added.

    A morphological close with lines, since a disc needs structures wider than itself. It also fills narrow windows
    and notches; each connected patch that it would add is therefore taken only if it has less than `under_px` pixels
    and joins pieces that were apart.

    Args and Returns as `fill_holes`.
    """
    labels, areas = _components(mask, 8)
    if len(areas) <= 2:
        return mask.copy()
    # the border must not count as foreground when closing, or masks would grow along it
    reach = _REACH_PX
    padded = cv2.copyMakeBorder(mask.view(np.uint8), reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=0)
    closed: np.ndarray = padded
    for down, right in _DIRECTIONS:
        line = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
        cv2.line(line, (reach - right, reach - down), (reach + right, reach + down), 1)
        closed = np.maximum(closed, cv2.morphologyEx(padded, cv2.MORPH_CLOSE, line))
    closed = closed[reach:-reach, reach:-reach].astype(bool)
    patches, patch_areas = _components(np.ascontiguousarray(closed & ~mask), 8)
    # the lowest and the highest piece that each patch touches: they differ where it joins two
    near = np.ones((3, 3), np.uint8)
    pieces = labels.astype(np.float32)
    highest = cv2.dilate(pieces, near)
    pieces[labels == 0] = np.inf
    lowest = cv2.erode(pieces, near)
    at = np.flatnonzero(patches)
    of = patches.flat[at]
    top, bottom = np.zeros(len(patch_areas), np.float32), np.full(len(patch_areas), np.inf, np.float32)
    np.maximum.at(top, of, highest.flat[at])
    np.minimum.at(bottom, of, lowest.flat[at])
    taken = (top > bottom) & (patch_areas < under_px)
    taken[0] = False
    return mask | taken[patches]


def empty_small(mask: np.ndarray, under_px: int) -> np.ndarray:
    """Empty a mask of less than `under_px` pixels altogether: so little is more often nothing.

    Args and Returns as `fill_holes`.
    """
    return mask.copy() if int(mask.sum()) >= under_px else np.zeros_like(mask)


# from runs (R, 2) and the frame's size (H, W) to what gives the runs after the step at a size; None if pixels must tell
OnRuns = Callable[[np.ndarray, Size], "Callable[[int], np.ndarray] | None"]


def _fill_holes_on_runs(runs: np.ndarray, full: Size) -> Callable[[int], np.ndarray]:
    holes = Parts.of(background(runs, full), full, diagonal=False)
    starts, lengths = runs.T
    mask = np.stack([starts - 1, starts - 1 + lengths], axis=1)

    def at(under_px: int) -> np.ndarray:
        return runs_of_lines(np.concatenate([mask, holes.flat(~holes.at_border & (holes.areas < under_px))]))

    return at


def _drop_islands_on_runs(runs: np.ndarray, full: Size) -> Callable[[int], np.ndarray] | None:
    pieces = Parts.of(runs, full, diagonal=True)
    largest = pieces.areas == pieces.areas.max(initial=0)
    # which of equal ones stays is for OpenCV's order to say
    if largest.sum() > 1:
        return None
    return lambda under_px: runs_of_lines(pieces.flat(largest | (pieces.areas >= under_px)))


def _keep_largest_on_runs(runs: np.ndarray, full: Size) -> Callable[[int], np.ndarray] | None:
    at = _drop_islands_on_runs(runs, full)
    return None if at is None else lambda size_px: at(full[0] * full[1] + 1)


def _repair_thin_on_runs(runs: np.ndarray, full: Size) -> Callable[[int], np.ndarray] | None:
    # every pixel of a patch has a piece within reach of its line; where the patch joins two, neighbours in it have
    # different ones
    return None if Parts.of(runs, full, diagonal=True).any_near(2 * _REACH_PX + 1) else lambda under_px: runs


@dataclass(frozen=True)
class Repair:
    """A repair and the sizes of it that are tried, the smallest first; a larger size changes at least as much.

    It leaves alone what has not at least two pieces, or no hole, or no pixel: whichever `needs` says.

    Attributes:
        name: as blend.json has it.
        apply: takes a mask and a size.
        sizes_px: areas, or 0 where size means nothing.
        shares: of the frame's area, instead of `sizes_px`.
        needs: what a mask must have for the step to change it.
        adds: it makes background foreground; otherwise foreground background.
        empties: the step makes whole masks empty, and is tried only where empty masks are ordinary.
        on_runs: the same on runs, in a fraction of the time; None where there is no such way.
    """

    name: str
    apply: Callable[[np.ndarray, int], np.ndarray]
    sizes_px: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    needs: Literal["pieces", "holes", "mask"] = "pieces"
    adds: bool = False
    empties: bool = False
    on_runs: OnRuns | None = None

    def sizes(self, full: Size) -> tuple[int, ...]:
        """The sizes that are tried on frames of size `full`, in pixels of area.

        >>> REPAIRS["fill-holes"].sizes((101, 101)), REPAIRS["empty-small"].sizes((101, 101))[:3]
        ((100, 1000, 10000), (10, 20, 41))
        """
        return self.sizes_px or tuple(round(share * full[0] * full[1]) for share in self.shares)

    def at_worst(self, counts: np.ndarray, size_px: int) -> np.ndarray:
        """What masks' counts would be if it changed as much of each as it may in one place, and wrongly.

        Args:
            counts: (N, 3) pixels in common with the truth, of the mask and of the truth.
            size_px: of the step.

        Returns:
            (N, 3): with `size_px` more that are wrong, or as many fewer that were right; half of the mask where the
            step knows no size, all of it where it empties masks.

        >>> counts = np.array([[900, 1000, 950]])
        >>> [REPAIRS[name].at_worst(counts, 100).tolist() for name in ("fill-holes", "drop-islands", "empty-small")]
        [[[900, 1100, 950]], [[800, 900, 950]], [[0, 0, 950]]]
        """
        common, mask, truth = counts.T
        if self.adds:
            return np.stack([common, mask + size_px, truth], axis=1)
        most = mask if self.empties else mask // 2 if not size_px else np.minimum(mask, size_px)
        return np.stack([np.maximum(common - most, 0), mask - most, truth], axis=1)

    def concerns(self, pieces: int, holes: int) -> bool:
        """Whether it might change a mask of so many 8-connected pieces and holes; if not, it does not."""
        return {"pieces": pieces > 1, "holes": holes > 0, "mask": pieces > 0}[self.needs]


# in the order in which they are applied: joining first, so that a broken-off aerial is not dropped
REPAIRS = {
    s.name: s
    for s in (
        Repair("repair-thin", repair_thin, (50, 200), adds=True, on_runs=_repair_thin_on_runs),
        Repair("fill-holes", fill_holes, (100, 1000, 10000), needs="holes", adds=True, on_runs=_fill_holes_on_runs),
        Repair("drop-islands", drop_islands, (100, 1000, 10000), on_runs=_drop_islands_on_runs),
        Repair("keep-largest", lambda mask, under_px: keep_largest(mask), (0,), on_runs=_keep_largest_on_runs),
        # last: what is left is weighed as a whole
        Repair(
            "empty-small",
            empty_small,
            shares=(0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064),
            needs="mask",
            empties=True,
        ),
    )
}


def apply_kept(mask: np.ndarray, kept: Sequence[tuple[str, int]]) -> np.ndarray:
    """Apply repairs, each a (name in `REPAIRS`, size in pixels), to a mask (H, W) bool; returns (H, W) bool.

    Only the mask's surroundings are looked at: what lies outside them is background, whatever the repair.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not kept or not len(rows):
        return mask
    # one row and column of background around the mask, where the frame has them, so that the outside stays outside
    box = np.s_[max(0, rows[0] - 1) : rows[-1] + 2, max(0, columns[0] - 1) : columns[-1] + 2]
    part = np.ascontiguousarray(mask[box])
    for name, size_px in kept:
        part = REPAIRS[name].apply(part, size_px)
    result = np.zeros_like(mask)
    result[box] = part
    return result


def after_repair(step: Repair, runs: np.ndarray, full: Size) -> Iterator[tuple[int, np.ndarray]]:
    """A mask after a step at each of its sizes, the largest first, on its runs where that is possible.

    Args:
        step: that concerns the mask.
        runs: (R, 2) of the mask.
        full: (H, W) of the frame.

    Yields:
        The position of a size and the runs after it. What the largest size leaves alone the smaller ones do: it ends
        before the first size that changes nothing.
    """
    runs = np.asarray(runs, np.int64)
    at = None if step.on_runs is None else step.on_runs(runs, full)
    mask = rle.decode(runs, full).astype(bool) if at is None else None
    for position, size in sorted(enumerate(step.sizes(full)), key=lambda pair: -pair[1]):
        if at is not None:
            after = at(size)
        else:
            assert mask is not None
            after = rle.encode(apply_kept(mask, [(step.name, size)]))
        if np.array_equal(after, runs):
            return
        yield position, after
