"""A pass over many images, or over anything else, in processes of this machine, with a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, TypeVar

import joblib
from tqdm import tqdm

Part = TypeVar("Part")
Result = TypeVar("Result")
Items = TypeVar("Items", bound=Sequence[Any])

# so many images are done before processes have started
_FEW = 64


def cut(items: Items, size: int) -> list[Items]:
    """Consecutive parts of `size` items, the last one of what is left.

    >>> cut(range(5), 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [items[start : start + size] for start in range(0, len(items), size)]  # type: ignore[misc]


def in_parallel(
    call: Callable[[Part], Result],
    parts: Iterable[Part],
    count: int,
    *,
    label: str,
    unit: str = "image",
    size: Callable[[Part], int] = len,  # type: ignore[assignment]
    few: int = _FEW,
    jobs: int = -1,
) -> Iterator[Result]:
    """Call a function on each part, in processes; the results come in the order of the parts.

    The processes end with the program (`command_line.program`). Parts are taken when processes are about to need them,
    and no result is kept here. The bar, with its rate, is drawn where the output is a terminal. What `call` raises ends
    the pass, and the processes, at once.

    Args:
        call: from a part to its result; both, and the function, pickle.
        parts: what the processes are given, one at a time.
        count: of units in all parts, for the bar.
        label, unit: of the bar.
        size: from a part to how many units it has.
        few: up to so many units in all are done in this process.
        jobs: processes, as joblib counts them.

    >>> list(in_parallel(sum, cut(range(5), 2), 5, label="add", unit="number"))
    [1, 5, 4]
    """
    if not count:
        return
    sizes: list[int] = []

    def calls() -> Iterator[Any]:
        for part in parts:
            sizes.append(size(part))
            yield joblib.delayed(call)(part)

    parallel = joblib.Parallel(n_jobs=jobs if count > few else 1, return_as="generator")
    with tqdm(total=count, desc=label, unit=unit, disable=None) as bar, closing(parallel(calls())) as results:
        for k, result in enumerate(results):
            bar.update(sizes[k])
            yield result
