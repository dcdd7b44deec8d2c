"""What a training costs: elapsed and processor seconds, over all the processes that it took."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import NamedTuple

import psutil


class Spent(NamedTuple):
    """Seconds elapsed, and seconds of processors: of this process and of all that it has started, and they in turn."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @staticmethod
    def so_far() -> Spent:
        """Up to now; only differences mean anything."""
        own = psutil.Process()
        used = 0.0
        # those that have ended are told by the one that they belonged to, those that load images live on to the end
        for process in (own, *own.children(recursive=True)):
            with suppress(psutil.Error):
                used += sum(process.cpu_times()[:4])
        return Spent(time.perf_counter(), used)

    def since(self, start: Spent) -> Spent:
        """What lies between."""
        return Spent(self.seconds - start.seconds, self.cpu_seconds - start.cpu_seconds)

    def after(self, before: Spent) -> Spent:
        """Both together."""
        return Spent(self.seconds + before.seconds, self.cpu_seconds + before.cpu_seconds)

    def rounded(self) -> dict[str, float]:
        """As manifests have it.

        >>> Spent(1.23, 0.98).rounded()
        {'seconds': 1.2, 'cpu_seconds': 1.0}
        """
        return {name: round(value, 1) for name, value in self._asdict().items()}
