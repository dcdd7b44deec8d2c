"""CSV tables that were written by a program: read whole, or refused in one sentence that names file and fault."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from command_line import UserError

# what pandas raises for bytes that are no table
_DAMAGED = (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError, ValueError, OverflowError)


def read_table(path: Path, texts: Iterable[str], hint: str, *, numbers: Iterable[str] | None = None) -> pd.DataFrame:
    """Read a table.

    Args:
        path: the file.
        texts: columns that it must have, of text.
        hint: what to do where it is damaged, as the end of a sentence.
        numbers: columns that it must have, of finite numbers; None for all that are there beside `texts`.

    Returns:
        Its rows, one or more; further columns as pandas takes them.

    Raises:
        FileNotFoundError: it is missing.
        UserError: it is damaged.
    """
    texts = list(texts)
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(texts, str))
    except _DAMAGED as error:
        said = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged ({said}): {hint}.") from None
    wanted = [c for c in table.columns if c not in texts] if numbers is None else list(numbers)
    if lacking := [column for column in (*texts, *wanted) if column not in table.columns]:
        raise UserError(f"{path} is damaged (it has no column {lacking[0]}): {hint}.")
    if not len(table):
        raise UserError(f"{path} is damaged (it has no rows): {hint}.")
    for column in (*texts, *wanted):
        values = table[column]
        whole = values.notna() if column in texts else np.isfinite(pd.to_numeric(values, errors="coerce"))
        if not whole.all() or (column in wanted and values.dtype.kind not in "iuf"):
            row = int(np.argmin(whole)) + 1
            raise UserError(f"{path} is damaged (column {column} in row {row}): {hint}.")
    return table
