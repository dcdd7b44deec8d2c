"""What a umask lets others do with the files that are written under it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# others than the owner's group may do nothing, and the group may not write: unlike what any library would choose
GROUP_READS = 0o027


@contextmanager
def umask(mask: int = GROUP_READS) -> Iterator[None]:
    """Have this process create files under another umask."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def check_modes(folder: Path, mask: int = GROUP_READS) -> None:
    """Fail unless every file and folder in a folder has the mode of any that is created under a umask."""
    found = {path: path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    assert found
    for path, mode in found.items():
        usual = (0o777 if path.is_dir() else 0o666) & ~mask
        assert mode == usual, f"{path} has {mode:o} instead of {usual:o}"
