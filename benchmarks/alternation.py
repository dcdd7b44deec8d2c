"""Measuring several ways to do one thing in alternation, so that a busy machine is equally unkind to all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Contender:
    """A way to do it: its name for the table, and the function of one item."""

    name: str
    run: Callable[[Any], Any]


def medians_s(
    contenders: Sequence[Contender], items: Sequence[Any], rounds: int, warm: Callable[[Any], Any] | None = None
) -> list[float]:
    """Median seconds of each contender.

    In each round every contender works on an item of its own, and over the rounds all of them on every item: no
    contender finds in the cache what the one before it has read.

    Args:
        contenders: the first call of each, which may compile, is not counted.
        items: more than the processor's caches hold, or the figures are not those of data in memory.
        rounds: measurements of each.
        warm: called with the item before each measurement, not timed, to bring it into the cache.
    """
    times: list[list[float]] = [[] for _ in contenders]
    for contender in contenders:
        contender.run(items[0])
    # far apart, so that no item comes back while it may still be in the cache
    stride = max(1, len(items) // len(contenders))
    for turn in range(rounds):
        for k, contender in enumerate(contenders):
            item = items[(turn + k * stride) % len(items)]
            if warm is not None:
                warm(item)
            begin = time.perf_counter()
            contender.run(item)
            times[k].append(time.perf_counter() - begin)
    return [statistics.median(t) for t in times]


def print_table(title: str, contenders: Sequence[Contender], medians: Sequence[float]) -> None:
    """Print milliseconds and ratios; contender 0 is the floor (one read), contender 1 is ours."""
    print(f"\n{title}")
    print(f"  {'':<54}{'ms':>8}{'x read':>9}{'x ours':>9}")
    for contender, median in zip(contenders, medians, strict=True):
        print(f"  {contender.name:<54}{median * 1e3:>8.3f}{median / medians[0]:>9.2f}{median / medians[1]:>9.2f}")
