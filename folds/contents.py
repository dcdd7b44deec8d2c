"""What image files hold, by digest: whether what was made of them is still of the images that lie there.

Logits, rows, masks and pseudo-labels are kept under an image's name. Beside them lies a record of the contents that
they were made of. Where a file holds something else by now, what was made of it is dropped before the record says so,
so that a killed run drops it again. A file that is not there tells nothing, and what was made of it stays.

A file is read again only where its size or times differ from those at which it was last read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
from tqdm import tqdm

import atomic
from command_line import UserError
from folds.images import image_digest
from json_file import Digest, Schema

# beside what was made
CONTENTS_FILE = "images.json"
_READERS = 8
# clocks of file systems are coarse: a file that was written this shortly before it was read may be written once more
# at what counts as the same time
_SETTLED_NS = 2_000_000_000
_UNSETTLED = (-1, 0, 0)

_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Content:
    """What a file held when it was read.

    Attributes:
        digest: 20 hex digits: the file's `image_digest`, and the CRC-32C of all its bytes.
        stamp: its size in bytes, and the times in ns at which its content and its entry were changed.
    """

    digest: str
    stamp: _Stamp

    @property
    def image_digest(self) -> str:
        """The part by which training images are recognised."""
        return self.digest[:12]


_RECORD = Schema(dict[str, tuple[Digest, int, int, int]], "it is not known any more what the images held")


def read_record(path: Path) -> dict[str, Content]:
    """The recorded contents by image name; empty where there is no record, or a damaged one."""
    try:
        found = _RECORD.read_if_there(path) or {}
    except UserError as error:
        print(error)
        found = {}
    return {name: Content(digest, (size, changed, entry)) for name, (digest, size, changed, entry) in found.items()}


def write_record(path: Path, contents: Mapping[str, Content]) -> None:
    """Record contents, whole or not at all."""
    atomic.write_text(path, json.dumps({name: (each.digest, *each.stamp) for name, each in contents.items()}))


def _read(path: Path, before: Content | None) -> Content | None:
    try:
        status = path.stat()
        # the time of change of the content can be set back, as copying does; that of the entry cannot
        stamp = status.st_size, status.st_mtime_ns, status.st_ctime_ns
        if before is not None and before.stamp == stamp:
            return before
        data = path.read_bytes()
    except OSError:
        # who needs the image says what is wrong with it
        return None
    settled = time.time_ns() - max(stamp[1:]) > _SETTLED_NS
    return Content(f"{image_digest(data)}{google_crc32c.value(data):08x}", stamp if settled else _UNSETTLED)


def read_contents(folder: Path, names: Sequence[str], *records: Path) -> dict[str, Content]:
    """What image files hold now.

    Args:
        folder: of the images.
        names: of the files.
        records: where their contents may have been recorded before; the first that exists is used.

    Returns:
        The content of every file that can be read, by name.
    """
    before = next((read_record(path) for path in records if path.exists()), {})
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda name: _read(folder / name, before.get(name)), names)
        bar = tqdm(found, "look at images", len(names), unit="image", disable=None, leave=False)
        return {name: content for name, content in zip(names, bar, strict=True) if content is not None}


def _changed(recorded: Mapping[str, Content], contents: Mapping[str, Content]) -> list[str]:
    return [name for name, now in contents.items() if name not in recorded or recorded[name].digest != now.digest]


def changed(path: Path, contents: Mapping[str, Content]) -> list[str]:
    """Names of the images that hold something else than is recorded, or of which nothing is recorded."""
    return _changed(read_record(path), contents)


def renew(path: Path, contents: Mapping[str, Content], drop: Callable[[Collection[str]], int]) -> int:
    """Drop what was made of images that hold something else by now, and record what they hold.

    Args:
        path: the record.
        contents: of the images, as `read_contents` gives them.
        drop: removes what was made of the images of these names, if anything was, and returns of how many it was.

    Returns:
        What `drop` returned.
    """
    recorded = read_record(path)
    stale = _changed(recorded, contents)
    dropped = drop(stale) if stale else 0
    if any(recorded.get(name) != now for name, now in contents.items()):
        write_record(path, {**recorded, **contents})
    return dropped
