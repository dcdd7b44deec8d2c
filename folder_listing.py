"""The one rule for what a folder of files holds: those that are meant, junk, and others. Standard library only.

Junk is what systems and programs leave beside files. It is skipped without a word and never counted. What is skipped
and is not junk, such as a PNG where JPEGs are meant, is reported.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from path_names import shown

# in lower case: of Windows, of macOS, of network drives
_JUNK_NAMES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "$recycle.bin", "@eadir"}
# edits of a photograph, and its metadata
_JUNK_SUFFIXES = (".aae", ".xmp", ".thm")
# the moving half of a live photograph, which has the photograph's name
_FILM_SUFFIXES = (".mov", ".mp4")
_SHOWN = 3


def is_junk(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or left behind by a system or a program.

    >>> [is_junk(name) for name in ("._a.jpg", ".DS_Store", "Thumbs.db", "IMG_1.AAE", "a.jpg", "notes.txt")]
    [True, True, True, True, False, False]
    """
    lower = name.lower()
    return lower.startswith(".") or lower in _JUNK_NAMES or lower.endswith(_JUNK_SUFFIXES)


def ends_in(name: str, suffixes: Sequence[str]) -> bool:
    """Whether a file name ends in one of some suffixes, in whatever case.

    >>> ends_in("a.JPG", [".jpg"]), ends_in("a.jpg.part", [".jpg"]), ends_in(".jpg", [".jpg"])
    (True, False, False)
    """
    return any(name.lower().endswith(suffix.lower()) and len(name) > len(suffix) for suffix in suffixes)


def without_suffix(name: str, suffixes: Sequence[str]) -> str:
    """A name without the longest of the suffixes that it ends in, in any case; itself where it ends in none.

    >>> without_suffix("a.JPG", [".jpg", ".png"]), without_suffix("a_mask.gif", [".gif", "_mask.gif"])
    ('a', 'a')
    """
    found = [suffix for suffix in suffixes if ends_in(name, [suffix])]
    return name[: -max(map(len, found))] if found else name


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        folder: the folder.
        names: of the files that end in one of the suffixes, sorted; links that lead nowhere are among them.
        others: what else lies there and is not junk, sorted; the names of folders end in a slash.
    """

    folder: Path
    names: tuple[str, ...]
    others: tuple[str, ...]

    def note(self, meant: str) -> str:
        """One sentence on `others`; empty where there are none.

        Args:
            meant: what the folder should hold, such as ".jpg image".
        """
        if not self.others:
            return ""
        first = ", ".join(shown(name) for name in self.others[:_SHOWN])
        more = f" and {len(self.others) - _SHOWN} more" if len(self.others) > _SHOWN else ""
        one = len(self.others) == 1
        return f"{self.folder}: {first}{more} {'is' if one else 'are'} no {meant} and {'is' if one else 'are'} skipped"


def list_folder(folder: Path, suffixes: Sequence[str]) -> Listing:
    """List a folder.

    Args:
        folder: the folder.
        suffixes: of the files that are meant, in any case.

    Raises:
        OSError: there is no such folder, or it cannot be read.
    """
    names: list[str] = []
    others: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_junk(entry.name):
                continue
            if entry.is_dir():
                others.append(f"{entry.name}/")
            elif ends_in(entry.name, suffixes) and (entry.is_file() or entry.is_symlink()):
                names.append(entry.name)
            else:
                others.append(entry.name)
    stems = {Path(name).stem.lower() for name in names}
    others = [name for name in others if not (ends_in(name, _FILM_SUFFIXES) and Path(name).stem.lower() in stems)]
    return Listing(folder, tuple(sorted(names)), tuple(sorted(others)))


def is_empty(folder: Path) -> bool:
    """Whether a folder is not there, or holds nothing but junk."""
    if not folder.exists():
        return True
    with os.scandir(folder) as entries:
        return all(is_junk(entry.name) for entry in entries)
