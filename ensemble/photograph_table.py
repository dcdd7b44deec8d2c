"""The table beside photographs' masks: how far the networks agree on each, and how much of it is foreground."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from command_line import UserError, plain
from folds.csv_table import read_table, write_table

TABLE_FILE = "agreement.csv"
_COLUMNS = ("image", "agreement", "foreground", "limit", "below")
# rows that a killed run may lose: their masks are made once more
_EVERY = 64


@dataclass(frozen=True)
class Told:
    """One photograph's row.

    Attributes:
        agreement: of the networks, 0..1; None where one alone was asked.
        foreground: share of its mask, 0..1.
        limit: on pictures that they know, the networks agree at least so far; None where that is not known.
    """

    agreement: float | None
    foreground: float
    limit: float | None = None

    @property
    def below(self) -> bool:
        """Whether the networks agree less than on pictures that they know."""
        return self.agreement is not None and self.limit is not None and self.agreement < self.limit


def read_told(folder: Path) -> dict[str, Told]:
    """The table of a folder of masks, by photograph; empty where there is none.

    Raises:
        UserError: it is damaged.
    """
    path, hint = folder / TABLE_FILE, "remove it, and the masks are made once more"
    if not path.exists():
        return {}
    table = read_table(path, ["image"], hint, numbers=["foreground"])
    told: dict[str, list[float | None]] = {}
    for column in ("agreement", "limit"):
        if column not in table.columns:
            raise UserError(f"{path} is damaged (it has no column {column}): {hint}.")
        figures = pd.to_numeric(table[column], errors="coerce")
        told[column] = [None if np.isnan(figure) else float(figure) for figure in figures]
    rows = zip(table["image"], told["agreement"], table["foreground"], told["limit"], strict=True)
    return {str(name): Told(agreement, float(share), limit) for name, agreement, share, limit in rows}


@dataclass
class PhotographTable:
    """The table of a folder of masks while they are made; rows may come from several threads.

    Attributes:
        folder: of the masks.
        told: what is known, by photograph.
        limit: of the networks that are asked; it becomes that of all rows.
    """

    folder: Path
    told: dict[str, Told]
    limit: float | None
    _new: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.told = {name: replace(told, limit=self.limit) for name, told in self.told.items()}

    def add(self, name: str, agreement: float | None, foreground: float) -> None:
        """Add a photograph whose mask is written; every so often the table is written too."""
        with self._lock:
            self.told[name] = Told(agreement, foreground, self.limit)
            self._new += 1
            if self._new % _EVERY == 0:
                self._write()

    def write(self) -> None:
        """Write the table, whole or not at all, if it has rows."""
        with self._lock:
            if self.told:
                self._write()

    def _write(self) -> None:
        rows = [(name, t.agreement, t.foreground, t.limit, int(t.below)) for name, t in sorted(self.told.items())]
        write_table(self.folder / TABLE_FILE, pd.DataFrame(rows, columns=list(_COLUMNS)))


def warning_of(told: Mapping[str, Told], names: Sequence[str], table: Path) -> str:
    """One sentence on how far networks agree on photographs: which are probably none that they know.

    Args:
        told: their rows.
        names: of the photographs.
        table: where the rows are.
    """
    figures = {name: told[name].agreement for name in names if name in told}
    known = {name: figure for name, figure in figures.items() if figure is not None}
    if not known:
        return (
            "how far networks agree is not known, as one network alone was asked: nothing tells whether it knows such "
            "pictures."
        )
    worst = min(known, key=lambda name: known[name])
    below, limit = sum(told[name].below for name in known), told[worst].limit
    least = f"least on {plain(worst)} ({known[worst]:.4f})"
    if limit is None:
        return (
            f"the networks agree {least}; how far they do on pictures that they know was not measured, as it is when a "
            "blend is chosen (make fit)."
        )
    if limit == 0:
        return (
            f"the networks agree {least}; on some training images they agree with nothing of the truth, so that it "
            "tells nothing of whether they know such pictures."
        )
    if not below:
        return f"the networks agree on all as on pictures that they know, {least}."
    return (
        f"warning: on {below} of {len(known)} the networks agree less than with the truth on nearly every training "
        f"image ({limit:.4f}), {least}: they may know no such pictures, so look at these masks ({table})."
    )
