"""Which jobs were pushed and which of them were fetched: `runs/<competition>/kaggle/<kernel>.json`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import atomic
from folds.run_layout import JOBS_DIR
from json_file import Schema, closed


@closed
@dataclass(frozen=True)
class Pushed:
    """One job.

    Attributes:
        kernel: "owner/slug".
        when: it was pushed, UTC, ISO 8601.
        git_commit: of the code.
        code_sha256: of the packed code.
        fetched: whether its results are here.
    """

    kernel: str
    when: str
    git_commit: str
    code_sha256: str
    fetched: bool = False

    def path(self, root: Path) -> Path:
        """Where it is recorded under `runs/<competition>`."""
        return root / JOBS_DIR / f"{self.kernel.rpartition('/')[2]}.json"

    def write(self, root: Path) -> None:
        """Record it."""
        atomic.write_json(self.path(root), dataclasses.asdict(self))


_PUSHED = Schema(Pushed, "remove it; the job can still be fetched from Kaggle by hand")


def read_all(root: Path) -> list[Pushed]:
    """All jobs of `runs/<competition>`, oldest first."""
    return sorted(map(_PUSHED.read, (root / JOBS_DIR).glob("*.json")), key=lambda job: job.when)
