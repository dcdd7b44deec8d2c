"""Folders of arrays derived from the training images: room for them is taken first, checksums tell whether they are
still what was written, and a damaged folder is made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from typing_extensions import TypedDict

import atomic
from command_line import UserError
from json_file import Count, Digest, FolderName, Schema, closed

CHECKSUMS_FILE = "checksums.json"
_BLOCK_BYTES = 1 << 22


@closed
class _File(TypedDict):
    bytes: Count
    crc32c: Digest


def _check(files: dict[FolderName, _File]) -> None:
    if not files:
        raise ValueError("it names no file")


_CHECKSUMS = Schema(dict[FolderName, _File], "remove the folder that it is in", _check)


def checksum(path: Path) -> str:
    """CRC-32C of a file's content, 8 hex digits."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            crc = google_crc32c.extend(crc, block)
    return f"{crc:08x}"


def new_array(path: Path, shape: tuple[int, ...], dtype: Any = np.uint8) -> None:
    """Make an array of zeros in a .npy file whose room on the disk is taken at once, so that it can be written through
    memory without the disk becoming full in between.

    Raises:
        UserError: the disk is full.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    del array
    atomic.allocate(path, path.stat().st_size)


def _seal(folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    atomic.write_json(
        folder / CHECKSUMS_FILE,
        {path.name: {"bytes": path.stat().st_size, "crc32c": checksum(path)} for path in files},
    )


def damaged_files(folder: Path, *, content: bool = True) -> list[str]:
    """Names of the files of a folder that `derive` made that are missing or changed; of one that was made before there
    were checksums, the file of these.

    Args:
        folder: is there.
        content: compare what they hold; otherwise their lengths alone.
    """
    try:
        known = _CHECKSUMS.read(folder / CHECKSUMS_FILE)
    except (FileNotFoundError, UserError):
        return [CHECKSUMS_FILE]

    def is_whole(path: Path, size_bytes: int, crc: str) -> bool:
        try:
            return path.stat().st_size == size_bytes and (not content or checksum(path) == crc)
        except FileNotFoundError:
            return False

    return [name for name, file in known.items() if not is_whole(folder / name, file["bytes"], file["crc32c"])]


def derive(folder: Path, fill: Callable[[Path], None], *, needed_bytes: int = 0, content: bool = True) -> None:
    """Have a folder of derived files: as it is if it is whole, else made, or made again.

    Args:
        folder: in `runs/<competition>/cache`.
        fill: writes the files into the folder that it is given.
        needed_bytes: of all of them, if that is known.
        content: look at what a folder's files hold to tell whether it is whole; otherwise at their lengths alone.

    Raises:
        UserError: the disk is full. What `fill` raises is passed on, and nothing of the folder is there then.
    """
    if folder.is_dir():
        damaged = damaged_files(folder, content=content)
        if not damaged:
            return
        if damaged != [CHECKSUMS_FILE]:
            print(f"{folder / damaged[0]} is damaged: the folder is made again")
        atomic.discard(folder)
    with atomic.building(folder, needed_bytes=needed_bytes) as temporary:
        fill(temporary)
        _seal(temporary)
