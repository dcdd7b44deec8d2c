"""Images that are not trained on, though they are scored out of fold like all others: those whose labels are suspect.

They are named by a table with the column image. A recipe records which they are (`Recipe.left_out`), so that a fold
goes on, is skipped or is refused by that as by everything else that it is trained with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from command_line import UserError
from folds.csv_table import load_table, read_table
from folds.images import TrainingSet


def _header_alone(path: Path) -> list[str]:
    """The columns of a table without rows; none of any other file."""
    try:
        table = load_table(path, dtype=str)
    except ValueError:
        return []
    return [] if len(table) else list(table.columns)


def read_left_out(path: Path, training: TrainingSet) -> frozenset[str]:
    """The names of the images that shall not be trained on.

    Args:
        path: a CSV with the column image; further columns are not looked at. One without rows leaves nothing out.
        training: the images it is about.

    Raises:
        UserError: it is missing or no such table, or names an image twice or one that there is not; or images are
            composed, and have no labels that could be suspect.
    """
    if training.composed:
        raise UserError(
            "--leave-out is for images with labels of their own, and these are composed: take the part out of its "
            "folder instead."
        )
    try:
        if "image" in _header_alone(path):
            return frozenset()
        names = read_table(path, ["image"], "give a table with the column image", numbers=[])["image"]
    except FileNotFoundError:
        raise UserError(f"{path} is missing: give a table with the column image, as make suspects writes it.") from None
    if len(doubles := names[names.duplicated()]):
        raise UserError(f"{path} lists {doubles.iloc[0]} twice: keep one row an image.")
    if unknown := sorted(set(names) - set(training.names)):
        raise UserError(
            f"{path} lists {unknown[0]}, which is not in {training.data} ({len(unknown)} in all): it was made for "
            "other data; mend its rows."
        )
    return frozenset(names)


def identity(names: Collection[str]) -> str:
    """What a recipe says of them: how many, and 12 hex digits over their names; "" where there are none.

    >>> identity([]), identity(["b.jpg", "a.jpg"]) == identity(["a.jpg", "b.jpg"])
    ('', True)
    """
    if not names:
        return ""
    digest = hashlib.blake2b("\n".join(sorted(names)).encode(), digest_size=6).hexdigest()
    return f"{len(names)} images {digest}"
