"""The one rule for names that come from outside and become part of a path. Standard library only."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from command_line import UserError

# what file systems take is 255; temporary names, and the suffixes of what is made from a file, need room beside it
LONGEST_BYTES = 200


def why_not(name: str, longest: int = LONGEST_BYTES) -> str:
    """Why a name cannot become one part of a path; empty where it can.

    Args:
        name: of a file or a folder, without the folder that it lies in.
        longest: bytes that it may have.

    >>> why_not("00087a6bd4dc_01.jpg"), why_not("../a"), why_not(".tmp-x")
    ('', 'it holds a slash', 'it begins with a dot')
    """
    if not name:
        return "it is empty"
    if "/" in name or "\\" in name:
        return "it holds a slash"
    if name.startswith("."):
        return "it begins with a dot"
    if not name.isprintable():
        return "it holds a character that cannot be printed"
    if len(name.encode(errors="surrogateescape")) > longest:
        return f"it is longer than {longest} bytes"
    return ""


def why_not_in_table(name: str) -> str:
    """Why a file's name cannot stand in a table; empty where it can. Any character that people type may be in one.

    >>> why_not_in_table("Foto 1\\u202fum 3.jpg"), why_not_in_table("a\\rb.jpg"), why_not_in_table("a\\udcff.jpg")
    ('', 'its name holds a control character', 'its name is not UTF-8')
    """
    if any(unicodedata.category(character) == "Cc" for character in name):
        return "its name holds a control character"
    if any(unicodedata.category(character) == "Cs" for character in name):
        return "its name is not UTF-8"
    return ""


def visible(name: str) -> str:
    """A name for a message: as it is, or escaped where it holds what cannot be printed.

    >>> visible("a_01.jpg"), visible("\\x1b[2J")
    ('a_01.jpg', "'\\\\x1b[2J'")
    """
    return name if name.isprintable() else shown(name)


def shown(name: str) -> str:
    """A name for a message: what cannot be printed is escaped, what is long is cut.

    >>> shown("a" * 99)[-6:], shown("\\x1b[2J")
    ("aa...'", "'\\\\x1b[2J'")
    """
    text = repr(name.encode(errors="surrogateescape").decode(errors="replace"))
    return text if len(text) <= 80 else f"{text[:76]}...{text[0]}"


def inside(folder: Path, name: str, what: str) -> Path:
    """`folder / name`, where that lies in the folder.

    Args:
        folder: any.
        name: from a command line, a table or an archive.
        what: it names, as the subject of a sentence ("--name", "row 3 of sample_submission.csv").

    Raises:
        UserError: the name is not that of one file or folder.
    """
    if reason := why_not(name):
        raise UserError(
            f"{what} gives {shown(name)} for the name of a file or folder, but {reason}: give a plain name of "
            f"at most {LONGEST_BYTES} bytes."
        )
    return folder / name
