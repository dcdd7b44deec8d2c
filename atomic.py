"""Writes that are whole or not there: a temporary file beside the target, fsync, rename. Standard library only.

A disk that is full ends a write in one sentence, whatever library wrote, and leaves nothing half-written. What a killed
process leaves behind has the name of that process, and goes when the next one writes into the same folder.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import json
import os
import platform
import re
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from command_line import UserError
from shortage import is_disk_full

# how the name of what is not finished begins; what a killed process leaves behind is known by it
TEMPORARY = ".tmp-"
# what is said of a call that a file system lacks: by the kernel, by emulations of the call, by network file systems
_LACKING = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL, errno.ENOLCK)
_BLOCK_BYTES = 1 << 20
# a file system takes 255 bytes, and a character has up to four
_NAME_CHARACTERS = 40
# .tmp-<machine>-<process>-<random>-<name of the target>
_NAME = re.compile(rf"{re.escape(TEMPORARY)}([0-9a-f]{{8}})-(\d+)-[0-9a-f]{{8}}-")
# of another machine, whose processes cannot be asked after; no write goes on so long without a byte
_LEFTOVER_S = 3600


@functools.cache
def _machine() -> str:
    """8 hex digits for the set of processes that this one can ask after: one boot of one machine, or one container."""
    facts = [platform.node()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.blake2b("\n".join(facts).encode(), digest_size=4).hexdigest()


def temporary_beside(path: Path) -> Path:
    """A new name beside `path` for what shall take its place; `path`'s suffixes are kept, since many writers choose
    their format by them. Nothing is made."""
    own = path.name[-_NAME_CHARACTERS:]
    return path.with_name(f"{TEMPORARY}{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}-{own}")


def _is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _last_change(path: Path) -> float:
    """Seconds since the epoch when a file, or anything in a folder, was changed last."""
    return max(each.lstat().st_mtime for each in (path, *path.rglob("*")))


def is_leftover(path: Path) -> bool:
    """Whether a temporary file or folder is nobody's any more.

    It is, when the process that made it has ended; of another machine, or under a name of another kind, when it has not
    changed for an hour.
    """
    made = _NAME.match(path.name)
    if made is not None and made[1] == _machine():
        return _is_gone(int(made[2]))
    try:
        return time.time() - _last_change(path) > _LEFTOVER_S
    except FileNotFoundError:
        # its writer has just finished
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def clear_leftovers(folder: Path) -> list[Path]:
    """Remove from a folder, but not from those in it, what killed processes left unfinished; returns what it was."""
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if entry.name.startswith(TEMPORARY)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    leftovers = [path for path in found if is_leftover(path)]
    for path in leftovers:
        _remove(path)
    return leftovers


@functools.cache
def _clear_once(folder: Path, process: int) -> None:
    """Clear a folder that this process is about to write into, the first time that it does."""
    clear_leftovers(folder)


def free_bytes(folder: Path) -> int | None:
    """Bytes that this process may still write into a folder, or into the one that it will be made in; None where the
    file system does not say."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    found = os.statvfs(folder)
    if not found.f_blocks:
        return None
    return found.f_frsize * (found.f_bavail if os.geteuid() else found.f_bfree)


def is_lacking(error: OSError) -> bool:
    """Whether a file system refused a call because it has no such call, as some of networks and of user space do; what
    the call is for must then be done another way, or done without."""
    return error.errno in _LACKING


def _no_room(path: Path, needed_bytes: int, at_least: bool = False) -> UserError:
    free = free_bytes(path.parent)
    needs = f"it needs {'more than ' if at_least else ''}{needed_bytes:,} bytes" if needed_bytes else "it needs more"
    has = "" if free is None else f", and {free:,} are free"
    if free is not None and 0 < 2 * needed_bytes < free:
        has += " in all, but a quota or another limit is reached"
    return UserError(
        f"the disk is full: {path} could not be written ({needs}{has}); free some space in {path.parent} and run the "
        "same command again, what is finished is kept."
    )


def require_room(path: Path, needed_bytes: int) -> None:
    """Refuse to write what cannot fit.

    Args:
        path: of the file or folder that shall be written.
        needed_bytes: its size.

    Raises:
        UserError: fewer bytes are free.
    """
    free = free_bytes(path.parent)
    if free is not None and free < needed_bytes:
        raise _no_room(path, needed_bytes)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(each.stat().st_size for each in files if each.is_file())


@contextmanager
def told(path: Path, needed_bytes: int = 0, temporary: Path | None = None) -> Iterator[None]:
    """Turn a full disk, met while `path` is written by whatever library, into a UserError of one sentence.

    Args:
        path: of the file or folder.
        needed_bytes: its size, where that is known; else what `temporary` has taken until then is named.
        temporary: where it is written.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        written = 0
        if temporary is not None and not needed_bytes:
            with suppress(OSError):
                written = _size(temporary)
        # the place that it has taken is free again when the sentence is read
        if temporary is not None:
            _remove(temporary)
        raise _no_room(path, needed_bytes or written, at_least=not needed_bytes) from error


def _wait_for_disk(path: Path) -> None:
    """Wait until a file is on the disk, where the file system can say so."""
    with path.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if not is_lacking(error):
                raise


# what a mode allows to others than its owner
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def _give_usual_mode(path: Path) -> None:
    """Have a file, or all files of a folder, be as readable as any that is written there: by the umask, or the folder's
    default list. Some libraries, safetensors one of them, leave files that nobody but their owner can read."""
    written = path.rglob("*") if path.is_dir() else (path,)
    # never what a link leads to
    modes = {each: each.lstat().st_mode for each in written if each.is_file() and not each.is_symlink()}
    private = [each for each, mode in modes.items() if not mode & _OTHERS]
    if not private:
        return
    # only a new file shows it: the umask cannot be read without changing it for all threads
    fresh = temporary_beside(path)
    try:
        with fresh.open("xb") as file:
            usual = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    finally:
        fresh.unlink(missing_ok=True)
    for each in private:
        if stat.S_IMODE(modes[each]) != usual:
            each.chmod(usual)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, if they are not there; UserError where the disk is full."""
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _clear_once(folder, os.getpid())


@contextmanager
def replacing(path: Path, *, needed_bytes: int = 0, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes `path`'s place, on failure it is removed.

    Missing parent folders are made. A reader sees the old file or the new one, never a part.

    Args:
        path: of the file.
        needed_bytes: its size, if that is known: refused at once where it cannot fit.
        durable: wait until it is on the disk; without, a file may be lost, or damaged, when the machine loses power.

    Raises:
        UserError: the disk is full; `path` is as it was.
    """
    make_folder(path.parent)
    if needed_bytes:
        require_room(path, needed_bytes)
    temporary = temporary_beside(path)
    try:
        with told(path, needed_bytes, temporary):
            yield temporary
            _give_usual_mode(temporary)
            if durable:
                _wait_for_disk(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def building(folder: Path, *, needed_bytes: int = 0) -> Iterator[Path]:
    """Yield an empty temporary folder beside `folder`; on success it takes `folder`'s place, if that is still free.

    If it is there, it is whole. Where another process was first, its folder stays and ours is removed. Missing parent
    folders are made.

    Args:
        folder: to be made.
        needed_bytes: of all its files, if that is known: refused at once where they cannot fit.

    Raises:
        UserError: the disk is full; nothing of the folder is there.
    """
    make_folder(folder.parent)
    if needed_bytes:
        require_room(folder, needed_bytes)
    temporary = temporary_beside(folder)
    try:
        with told(folder, needed_bytes, temporary):
            temporary.mkdir()
            yield temporary
            _give_usual_mode(temporary)
            try:
                temporary.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder, so that none of its files is ever missing where the folder is there."""
    temporary = temporary_beside(folder)
    with suppress(FileNotFoundError):
        folder.rename(temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def allocate(path: Path, size_bytes: int) -> None:
    """Give a file its whole size on the disk, as zeros where it had none, so that what is mapped into memory can be
    written without the disk becoming full in between, which would end the process.

    Raises:
        UserError: the disk is full.
    """
    # not for appending: where the file system lacks the call, glibc emulates it by reading and writing a byte of each
    # block, wherever that is
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with told(path, size_bytes), os.fdopen(descriptor, "r+b", buffering=0) as file:
        try:
            # no such call on macOS
            os.posix_fallocate(descriptor, 0, size_bytes)
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and not is_lacking(error):
                raise
            _fill_holes(file, size_bytes)


def _fill_holes(file: io.FileIO, size_bytes: int) -> None:
    """Write a file's first bytes anew, as they are, and zeros after its end: what is written has its room."""
    for start in range(0, size_bytes, _BLOCK_BYTES):
        length = min(_BLOCK_BYTES, size_bytes - start)
        file.seek(start)
        block = (file.read(length) or b"").ljust(length, b"\0")
        file.seek(start)
        while block:
            block = block[file.write(block) :]


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    content = text.encode("utf-8")
    with replacing(path, needed_bytes=len(content)) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def main(folders: list[str]) -> None:
    """Remove from folders, and from all in them, what killed processes left unfinished; `make clean` does."""
    for folder in folders:
        for home, inner, _ in os.walk(folder):
            for path in clear_leftovers(Path(home)):
                print(f"removed {path}")
            # what somebody is still at is no place to look into
            inner[:] = [name for name in inner if not name.startswith(TEMPORARY)]


if __name__ == "__main__":
    main(sys.argv[1:])
