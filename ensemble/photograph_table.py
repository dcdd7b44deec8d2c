"""The table beside photographs' masks: how far the networks agree on each, and how much of it is foreground."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

import atomic
from command_line import UserError, plain
from folds.csv_table import read_table
from predict.agreement import OUT_OF_DEPTH

TABLE_FILE = "agreement.csv"
_COLUMNS = ("image", "agreement", "foreground", "below")
# rows that a killed run may lose: their masks are made once more
_EVERY = 64


@dataclass(frozen=True)
class Told:
    """One photograph's row.

    Attributes:
        agreement: of the networks, 0..1; None where one alone was asked.
        foreground: share of its mask, 0..1.
    """

    agreement: float | None
    foreground: float

    @property
    def below(self) -> bool:
        """Whether the networks agree less than on ordinary pictures."""
        return self.agreement is not None and self.agreement < OUT_OF_DEPTH


def read_told(folder: Path) -> dict[str, Told]:
    """The table of a folder of masks, by photograph; empty where there is none.

    Raises:
        UserError: it is damaged.
    """
    path, hint = folder / TABLE_FILE, "remove it, and the masks are made once more"
    if not path.exists():
        return {}
    table = read_table(path, ["image"], hint, numbers=["foreground"])
    if "agreement" not in table.columns:
        raise UserError(f"{path} is damaged (it has no column agreement): {hint}.")
    figures = pd.to_numeric(table["agreement"], errors="coerce")
    return {
        str(name): Told(None if np.isnan(figure) else float(figure), float(share))
        for name, figure, share in zip(table["image"], figures, table["foreground"], strict=True)
    }


@dataclass
class PhotographTable:
    """The table of a folder of masks while they are made; rows may come from several threads.

    Attributes:
        folder: of the masks.
        told: what is known, by photograph.
    """

    folder: Path
    told: dict[str, Told]
    _new: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, told: Told) -> None:
        """Add a photograph whose mask is written; every so often the table is written too."""
        with self._lock:
            self.told[name] = told
            self._new += 1
            if self._new % _EVERY == 0:
                self._write()

    def write(self) -> None:
        """Write the table, whole or not at all, if it has rows."""
        with self._lock:
            if self.told:
                self._write()

    def _write(self) -> None:
        rows = [(name, t.agreement, t.foreground, int(t.below)) for name, t in sorted(self.told.items())]
        with atomic.replacing(self.folder / TABLE_FILE) as temporary:
            pd.DataFrame(rows, columns=list(_COLUMNS)).to_csv(temporary, index=False, float_format="%.6f")


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
    below = sum(told[name].below for name in known)
    least = f"least on {plain(worst)} ({known[worst]:.4f})"
    if not below:
        return f"the networks agree on all as on ordinary pictures, {least}."
    return (
        f"warning: on {below} of {len(known)} the networks agree less than on ordinary pictures ({OUT_OF_DEPTH}), "
        f"{least}: they may know no such pictures, so look at these masks ({table})."
    )
