"""Decode, forward pass and export beside each other, in bounded memory: the slowest stage alone sets the pace."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import cv2

from command_line import UserError

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")
Kept = TypeVar("Kept")


def streamed(
    blocks: Iterable[Sequence[Item]],
    *,
    load: Callable[[Item], Loaded],
    forward: Callable[[list[tuple[Item, Loaded]]], Iterable[Result]],
    keep: Callable[[Result], Kept],
    faults: list[tuple[Item, UserError]],
    advance: Callable[[int], Any] = lambda count: None,
    replicas: int = 1,
    decoders: int = 2,
    writers: int = 1,
    thread_setup: Callable[[], None] | None = None,
) -> Iterator[Kept]:
    """Take blocks of items through three stages, each in threads of its own.

    At most `2 * replicas + 3` blocks are under way, whatever their number, so memory does not grow with it.

    Args:
        blocks: what one forward pass takes, block after block.
        load: reads one item; a `UserError` that it raises is set aside and the item left out of its block.
        forward: takes the loaded items of a block (at least one); its results go to `keep` one by one.
        keep: stores or finishes one result.
        faults: takes the items that could not be loaded, in order, each with its fault.
        advance: called with the number of items that are through, or set aside.
        replicas: forward passes at once.
        decoders, writers: threads of the first and of the last stage.
        thread_setup: called first in each thread of the middle stage.

    Yields:
        What `keep` returns, in the order of the items.

    Raises:
        Whatever `forward` or `keep` raise; what is under way is completed first, what waits is dropped.
    """
    loading: deque[list[tuple[Item, Future[Loaded]]]] = deque()
    passing: deque[tuple[int, Future[list[Result]]]] = deque()
    keeping: deque[tuple[int, list[Future[Kept]]]] = deque()
    decode_pool = ThreadPoolExecutor(decoders)
    forward_pool = ThreadPoolExecutor(replicas, initializer=thread_setup)
    write_pool = ThreadPoolExecutor(writers)

    def through() -> Iterator[Kept]:
        count, writes = keeping.popleft()
        for write in writes:
            yield write.result()
        advance(count)

    def passed() -> Iterator[Kept]:
        count, results = passing.popleft()
        keeping.append((count, [write_pool.submit(keep, result) for result in results.result()]))
        while len(keeping) > 1:
            yield from through()

    def loaded() -> Iterator[Kept]:
        ready: list[tuple[Item, Loaded]] = []
        for item, future in loading.popleft():
            try:
                ready.append((item, future.result()))
            except UserError as error:
                faults.append((item, error))
                advance(1)
        if ready:
            passing.append((len(ready), forward_pool.submit(lambda: list(forward(ready)))))
        while len(passing) > replicas + 1:
            yield from passed()

    # one image a thread: OpenCV's own threads would fight the network's
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for block in blocks:
            loading.append([(item, decode_pool.submit(load, item)) for item in block])
            while len(loading) > replicas:
                yield from loaded()
        while loading:
            yield from loaded()
        while passing:
            yield from passed()
        while keeping:
            yield from through()
    finally:
        for pool in (decode_pool, forward_pool, write_pool):
            pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)


def overlapped(
    blocks: Iterable[Sequence[Item]],
    *,
    load: Callable[[Item], Loaded],
    forward: Callable[[list[tuple[Item, Loaded]]], Iterable[Result]],
    keep: Callable[[Result], None],
    **options: Any,
) -> list[tuple[Item, UserError]]:
    """`streamed` to its end; returns the items that could not be loaded, in order, each with its fault."""
    faults: list[tuple[Item, UserError]] = []
    for _ in streamed(blocks, load=load, forward=forward, keep=keep, faults=faults, **options):
        pass
    return faults
