"""What a training costs: elapsed and processor seconds, over all the processes that it took."""

from __future__ import annotations

import resource
import time
from typing import NamedTuple


class Spent(NamedTuple):
    """Seconds elapsed, and seconds of processors: of this process and of those that it has started and seen end."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @staticmethod
    def so_far() -> Spent:
        """Up to now; only differences mean anything."""
        used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return Spent(time.perf_counter(), sum(each.ru_utime + each.ru_stime for each in used))

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
