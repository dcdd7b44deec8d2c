"""Decode, forward pass and export beside each other, in bounded memory: the slowest stage alone sets the pace."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import cv2

from command_line import UserError

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")


def overlapped(
    blocks: Iterable[Sequence[Item]],
    *,
    load: Callable[[Item], Loaded],
    forward: Callable[[list[tuple[Item, Loaded]]], Iterable[Result]],
    keep: Callable[[Result], None],
    advance: Callable[[int], Any],
    lanes: int = 1,
    decoders: int = 2,
    writers: int = 1,
    lane_setup: Callable[[], None] | None = None,
) -> list[tuple[Item, UserError]]:
    """Take blocks of items through three stages, each in threads of its own.

    At most `2 * lanes + 3` blocks are under way, whatever their number, so memory does not grow with it.

    Args:
        blocks: what one forward pass takes, block after block.
        load: reads one item; a `UserError` that it raises is set aside and the item left out of its block.
        forward: takes the loaded items of a block (at least one); its results go to `keep` one by one.
        keep: stores one result.
        advance: called with the number of items that are through, or set aside.
        lanes: forward passes at once.
        decoders, writers: threads of the first and of the last stage.
        lane_setup: called first in each thread of the middle stage.

    Returns:
        The items that could not be loaded, in order, each with its fault.

    Raises:
        Whatever `forward` or `keep` raise; what is under way is completed first, what waits is dropped.
    """
    faults: list[tuple[Item, UserError]] = []
    loading: deque[list[tuple[Item, Future[Loaded]]]] = deque()
    passing: deque[tuple[int, Future[list[Result]]]] = deque()
    keeping: deque[tuple[int, list[Future[None]]]] = deque()
    decode_pool = ThreadPoolExecutor(decoders)
    lane_pool = ThreadPoolExecutor(lanes, initializer=lane_setup)
    write_pool = ThreadPoolExecutor(writers)

    def through() -> None:
        count, writes = keeping.popleft()
        for write in writes:
            write.result()
        advance(count)

    def passed() -> None:
        count, results = passing.popleft()
        keeping.append((count, [write_pool.submit(keep, result) for result in results.result()]))
        while len(keeping) > 1:
            through()

    def loaded() -> None:
        ready: list[tuple[Item, Loaded]] = []
        for item, future in loading.popleft():
            try:
                ready.append((item, future.result()))
            except UserError as error:
                faults.append((item, error))
                advance(1)
        if ready:
            passing.append((len(ready), lane_pool.submit(lambda: list(forward(ready)))))
        while len(passing) > lanes + 1:
            passed()

    # one image a thread: OpenCV's own threads would fight the network's
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for block in blocks:
            loading.append([(item, decode_pool.submit(load, item)) for item in block])
            while len(loading) > lanes:
                loaded()
        while loading:
            loaded()
        while passing:
            passed()
        while keeping:
            through()
    finally:
        for pool in (decode_pool, lane_pool, write_pool):
            pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)
    return faults
