"""Unpacking a competition's ZIP archives: with progress, resumable, each file whole or not there."""

from __future__ import annotations

import errno
import lzma
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

import atomic
from command_line import UserError
from folder_listing import is_junk
from path_names import shown, why_not
from shortage import is_disk_full

_BLOCK_BYTES = 1 << 20
# errno of a full disk, of an exhausted quota, of a file above the file system's limit
# room that stays free, for what else the machine writes
_SPARE_BYTES = 50 << 20


# what the standard library raises for a ZIP archive that is damaged, by way of its decoders
UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error, ValueError, OverflowError)


class DamagedArchiveError(UserError):
    """An archive whose content cannot be read, or is not what it should be."""


def gigabytes(count: int) -> str:
    """A number of bytes for people.

    >>> gigabytes(1_234_000_000)
    '1.23 GB'
    """
    return f"{count / 1e9:.2f} GB"


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise UserError if the disk that holds (or will hold) `folder` has less room than that."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed_bytes + _SPARE_BYTES:
        raise UserError(
            f"{folder} needs {gigabytes(needed_bytes)} and its disk has {gigabytes(free)} free: make room, or choose "
            "another place (DATA=...)."
        )


def _members(archive: zipfile.ZipFile, folders: Sequence[str] = ()) -> dict[str, zipfile.ZipInfo]:
    """Files of the archive by where they go: folders in it are dropped, so that nothing can be written elsewhere.

    That is their bare name; with `folders`, within the one of these that has the name of a file's own folder.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    by_name = {PurePosixPath(folder).name: folder for folder in folders}
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        if info.is_dir() or any(map(is_junk, path.parts)):
            continue
        if reason := why_not(path.name):
            raise DamagedArchiveError(
                f"{archive.filename} holds a file named {shown(path.name)}, but {reason}: unpack the archive by other "
                "means, without that file."
            )
        place = path.name
        if folders:
            if path.parent.name not in by_name:
                raise DamagedArchiveError(
                    f"{archive.filename} holds {shown(str(path))}, and its files should lie in folders named "
                    f"{' and '.join(by_name)}: copy the archive again."
                )
            place = f"{by_name[path.parent.name]}/{path.name}"
        if place in found:
            raise DamagedArchiveError(f"{archive.filename} holds two files named {place}: copy the archive again.")
        found[place] = info
    return found


def _is_there(path: Path, info: zipfile.ZipInfo) -> bool:
    try:
        if path.stat().st_size != info.file_size:
            return False
    except FileNotFoundError:
        return False
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            crc = zlib.crc32(block, crc)
    return crc == info.CRC


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    # no fsync for each of 100,000 files: the checksums are looked at again when a killed run goes on
    temporary = target.with_name(f"{atomic.TEMPORARY}{target.name}")
    try:
        with archive.open(info) as source, temporary.open("wb") as file:
            shutil.copyfileobj(source, file, _BLOCK_BYTES)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def unpack_folders(path: Path, home: Path, folders: Sequence[str]) -> dict[str, list[str]]:
    """Unpack a ZIP archive into several folders, each file into the one named as its own folder in the archive.

    Args:
        path: the archive.
        home: what the folders are in.
        folders: relative to `home`, with different last parts.

    Returns:
        The names of the files in each.

    Raises:
        UserError: as `unpack`; or a file of the archive lies in a folder of another name, or a folder stays empty.
    """
    members = _unpack(path, home, lambda archive: _members(archive, folders), "the archive")
    found: dict[str, list[str]] = {folder: [] for folder in folders}
    for place in members:
        folder, _, name = place.rpartition("/")
        found[folder].append(name)
    if empty := [folder for folder, names in found.items() if not names]:
        raise DamagedArchiveError(f"{path} holds nothing for {empty[0]}: copy the archive again.")
    return found


def unpack(path: Path, target: Path, *, folder: bool) -> list[str]:
    """Unpack a ZIP archive; what is already there, by size and checksum, stays.

    Args:
        path: the archive.
        target: a folder for its files, or, with `folder` false, the file that its single member becomes.
        folder: which of the two.

    Returns:
        The names of the files.

    Raises:
        DamagedArchiveError: not a ZIP archive, damaged, encrypted, or packed in a way that cannot be read. It stays
            where it is: whoever fetched it removes it.
        UserError: of another content than expected, or the disk is (or would be) full.
    """

    def chosen(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
        members = _members(archive)
        if folder:
            return members
        if len(members) != 1:
            raise DamagedArchiveError(
                f"{path} holds {len(members)} files, expected only {target.name}: copy the archive again."
            )
        return {target.name: next(iter(members.values()))}

    return _unpack(path, target if folder else target.parent, chosen, str(target))


def _unpack(
    path: Path, home: Path, choose: Callable[[zipfile.ZipFile], dict[str, zipfile.ZipInfo]], target: str
) -> list[str]:
    """Unpack what `choose` takes of an archive into `home`; returns the places of all of it, relative to `home`."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = choose(archive)
            for place in {home, *((home / name).parent for name in members)}:
                place.mkdir(parents=True, exist_ok=True)
            missing = {name: info for name, info in members.items() if not _is_there(home / name, info)}
            require_space(home, sum(info.file_size for info in missing.values()))
            total = sum(info.file_size for info in members.values())
            done = total - sum(info.file_size for info in missing.values())
            with tqdm(
                total=total, initial=done, desc=f"unpack {path.name}", unit="B", unit_scale=True, disable=None
            ) as bar:
                for name, info in missing.items():
                    _extract(archive, info, home / name)
                    bar.update(info.file_size)
    except UNREADABLE as error:
        raise DamagedArchiveError(f"{path} is damaged ({error}): copy the archive again.") from None
    except (NotImplementedError, RuntimeError) as error:
        # another method than the library knows, or a password
        raise DamagedArchiveError(
            f"{path} cannot be unpacked ({str(error).splitlines()[0]}): unpack it by other means into {target}."
        ) from None
    except OSError as error:
        if error.errno in (None, errno.EINVAL):
            # the bzip2 decoder's word for damage, and a directory that points outside the file
            raise DamagedArchiveError(f"{path} is damaged ({error}): copy the archive again.") from None
        if not is_disk_full(error):
            raise
        raise UserError(
            f"the disk became full while {path.name} was unpacked: free some space and run the same command again; it "
            "goes on from here."
        ) from None
    return list(members)
