"""Reading and writing the text of submissions, a row at a time: plain, gzip (isal) or zip."""

from __future__ import annotations

import errno
import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from isal import igzip
from isal.isal_zlib import error as ZlibError

import atomic
from command_line import UserError
from text_file import encoding_of

# single-member gzip: level 1 of isal is as small as zlib's 2 and five times as fast
_GZIP_LEVEL = 1
BLOCK_BYTES = 1 << 20
# by the end of a file's name
_PACKINGS = {".gz": ".gz", ".zip": ".zip"}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a full disk and a refusal, met while `path` is written, into a UserError that says how to go on."""
    again = "run the same command again; what is finished is kept"
    try:
        with atomic.told(path):
            yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"{path} may not be written ({error.strerror}): allow it and {again}.") from None
        raise


def packing(path: Path) -> str:
    """How a file is packed, by its first bytes: ".gz", ".zip", or "" for neither.

    Raises:
        FileNotFoundError: it is missing.
    """
    with path.open("rb") as file:
        first = file.read(4)
    return ".gz" if first[:2] == b"\x1f\x8b" else ".zip" if first in (b"PK\x03\x04", b"PK\x05\x06") else ""


def _unquoted(field: bytes) -> bytes:
    """A field without the quotes that some programs put around every text."""
    quoted = len(field) > 1 and field[:1] == field[-1:] == b'"' and field.count(b'"') == 2
    return field[1:-1] if quoted else field


def split_row(line: bytes) -> tuple[bytes, bytes, bytes]:
    """A line of a submission as image name, comma (empty if there is none) and the rest, quotes taken off.

    >>> split_row(b'"a_01.jpg","1 2"\\r\\n')
    (b'a_01.jpg', b',', b'1 2')
    """
    name, comma, text = line.rstrip(b"\r\n").partition(b",")
    return _unquoted(name), comma, _unquoted(text)


@contextmanager
def open_rows(path: Path) -> Iterator[IO[bytes]]:
    """Open a submission for reading its lines.

    Args:
        path: `.csv`, `.gz`, or `.zip` with one member.

    Raises:
        UserError: the file is missing, packed otherwise than its name says, a zip has not exactly one member, or
            compressed data is damaged or cut off.
    """
    try:
        kind = _PACKINGS.get(path.suffix.lower(), "")
        content = packing(path)
        if content and content != kind:
            # what reads the file elsewhere goes by its name
            raise UserError(f"{path} is packed as {content[1:]} but not named so: rename it to end in .csv{content}.")
        if kind == ".gz":
            with igzip.IGzipFile(path, "rb") as file:  # type: ignore[no-untyped-call]
                yield io.BufferedReader(file, BLOCK_BYTES)
        elif kind == ".zip":
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.namelist() if not m.endswith("/")]
                if len(members) != 1:
                    raise UserError(f"{path} holds {len(members)} files: a submission's zip holds the one CSV.")
                with archive.open(members[0]) as member:
                    yield io.BufferedReader(member, BLOCK_BYTES)  # type: ignore[type-var]
        else:
            with path.open("rb", buffering=BLOCK_BYTES) as plain:
                if encoding_of(plain.read(4)).startswith("utf-16"):
                    raise UserError(f"{path} is UTF-16 text: save it as UTF-8, without a byte-order mark.")
                plain.seek(0)
                yield plain
    except FileNotFoundError:
        raise UserError(f"{path} is missing: make the submission first (make submission).") from None
    except (EOFError, OSError, zipfile.BadZipFile, ZlibError) as error:  # type: ignore[misc]
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{path} is damaged or cut off ({error}): make it again, or copy it again.") from None


def require_ending(path: Path) -> None:
    """UserError where a submission that shall be written is not named `.csv` or `.csv.gz`."""
    if path.suffixes[-1:] != [".csv"] and path.suffixes[-2:] != [".csv", ".gz"]:
        raise UserError(f"{path} must end in .csv or .csv.gz.")


def pack_submission(path: Path, parts: Iterable[bytes]) -> str:
    """Write a submission to a file that nobody reads yet (`atomic.replacing`).

    The same parts give the same bytes: the gzip header carries neither time nor name.

    Args:
        path: ends in `.csv` or `.csv.gz`.
        parts: the file's content, in order.

    Returns:
        SHA-256 of the file, as hex digits.

    """
    with path.open("wb") as file:
        if path.suffix == ".gz":
            with igzip.IGzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:  # type: ignore[no-untyped-call]
                for part in parts:
                    packed.write(part)  # type: ignore[no-untyped-call]
        else:
            for part in parts:
                file.write(part)
    return sha256(path)


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
