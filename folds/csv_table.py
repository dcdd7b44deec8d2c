"""CSV tables: read whole, in whatever encoding others save them, or refused in a sentence; written safe to open.

A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@` as a formula. Texts that begin so, such as names of
files that came from elsewhere, get an apostrophe before them where they are written, and lose it where they are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import atomic
from command_line import UserError
from text_file import NO_TEXT, encoding_of

# what pandas raises for bytes that are no table
_DAMAGED = (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError, ValueError, OverflowError)
# what has an apostrophe already gets another, so that reading gives back what was written
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def guarded(text: Any) -> Any:
    """A cell as a spreadsheet shows it and does not run it; numbers stay numbers.

    >>> guarded("=cmd|'/c calc'!A1"), guarded("car_01.jpg"), guarded("-0.5")
    ("'=cmd|'/c calc'!A1", 'car_01.jpg', '-0.5')
    """
    runs = isinstance(text, str) and _FORMULA.match(text) and not _is_number(text)
    return f"'{text}" if runs else text


def _unguarded(text: Any) -> Any:
    return text[1:] if isinstance(text, str) and text[:1] == "'" and _FORMULA.match(text) else text


def write_table(path: Path, table: pd.DataFrame, *, float_format: str | None = "%.6f", durable: bool = True) -> None:
    """Write a table as CSV, whole or not at all, texts `guarded`; `read_table` gives them back.

    Args:
        path: the file.
        table: not modified.
        float_format: of all columns of floats; None writes all their digits.
        durable: as `atomic.replacing` has it.
    """
    texts = [column for column in table.columns if table[column].dtype.kind not in "biufM"]
    table = table.assign(**{str(column): table[column].map(guarded) for column in texts})
    with atomic.replacing(path, durable=durable) as temporary:
        table.to_csv(temporary, index=False, float_format=float_format)


def load_table(path: Path, **options: Any) -> pd.DataFrame:
    """A table as pandas reads it, in UTF-8 or UTF-16, with or without a byte-order mark; texts without their guard.

    Args:
        path: the file.
        options: of `pandas.read_csv`.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is no table; the message, of one line, says why.
    """
    with path.open("rb") as file:
        encoding = encoding_of(file.read(4))
    try:
        table = pd.read_csv(path, encoding=encoding, **options)
    except UnicodeError:
        raise ValueError(NO_TEXT) from None
    except _DAMAGED as error:
        raise ValueError(str(error).splitlines()[0][:80] if str(error) else type(error).__name__) from None
    for column in table.columns:
        if table[column].dtype.kind not in "biufM":
            table[column] = table[column].map(_unguarded)
    return table


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
        table = load_table(path, dtype=dict.fromkeys(texts, str))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): {hint}.") from None
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
