"""The submission as a stream: rows in any order, from any process, in shards that survive a kill.

A shard is a file of consecutive rows, renamed into place when it is whole; the folder's shards are the ledger. Its last
line says of which submission it is, and has a checksum: one that is damaged, or of another submission, is made again,
alone. At no time is more than one shard in memory. Processes that make whole shards use `SubmissionStream.write_shard`;
rows in an order of their own go through `submit.spool.write_all`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

import atomic
from command_line import UserError
from competition import Order, Size
from folds.run_layout import MANIFEST_FILE
from json_file import Schema
from kernels.rle import encode_logits_text, encode_text
from submit.writer import explained, pack_submission, require_ending

_STATE_FILE = "stream.json"
_NAMES_FILE = "names.txt"
_STATE = Schema(dict[str, Any], "remove the folder that it is in")

Row = tuple[str, bytes | np.ndarray]


def row_text(value: bytes | np.ndarray, *, size: Size, order: Order) -> bytes:
    """The run-length text of one row.

    Args:
        value: finished text (bytes), a mask (bool or uint8 0/1), or logits (other integers or floats; foreground is
            above 0), (H, W).
        size: the shape that an array must have.
        order: of the pixels.

    Raises:
        ValueError: an array of another shape, or a mask with other values.
    """
    if isinstance(value, bytes):
        return value
    if value.shape != size:
        raise ValueError(f"a row of shape {value.shape} in a submission of {size} images")
    if value.dtype in (np.bool_, np.uint8):
        return encode_text(value, order=order)
    return encode_logits_text(value, order=order)


class SubmissionStream:
    """A submission in the making.

    Small to pickle: the names stay in the folder and are read where they are needed.

    Args:
        folder: for the shards; its own, made if need be.
        names: image names in the order of the submission, each once.
        header: the two columns.
        key: from an image's name to what stands for it in its row.
        size: (H, W) of every image.
        order: of the pixels.
        shard_rows: rows a shard.
        fingerprint: JSON-able facts that decide the bytes (blend, digests of weights); two streams of one fingerprint
            and one list of names may continue each other, others may not.
        restart: discard what another fingerprint, or other names, left in the folder.

    Raises:
        UserError: the folder holds shards of another submission and `restart` is not set; it cannot be written; there
            is no name, or one is listed twice.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        header: tuple[str, str],
        key: Callable[[str], str] = str,
        size: Size,
        order: Order = "row",
        shard_rows: int = 1000,
        fingerprint: Mapping[str, object],
        restart: bool = False,
    ) -> None:
        if len(set(names)) != len(names):
            raise UserError("an image name is listed twice in the list of a submission: name each image once.")
        if not names:
            raise UserError("a submission needs at least one image: the list of names is empty.")
        self.folder = folder
        self.size = size
        self.order: Order = order
        self.header = header
        self._key = key
        self.shard_rows = shard_rows
        self.count = len(names)
        self._names: list[str] | None = list(names)
        self.fingerprint = json.loads(json.dumps(fingerprint))
        listing = "".join(f"{name}\n" for name in names)
        state = {
            "header": list(header),
            "size": list(size),
            "order": order,
            "shard_rows": shard_rows,
            "names_sha256": hashlib.sha256(listing.encode()).hexdigest(),
            "fingerprint": self.fingerprint,
        }
        keys = [key(name) for name in names]
        if keys != list(names):
            state["keys_sha256"] = hashlib.sha256("\n".join(keys).encode()).hexdigest()
        path = folder / _STATE_FILE
        self._identity = hashlib.blake2b(json.dumps(state).encode(), digest_size=8).hexdigest()
        if path.exists() and self._is_of_another(path, state, restart):
            if not restart:
                raise UserError(
                    f"{folder} holds the shards of another submission (other images, blend or weights): remove the "
                    "folder, or ask for a restart (--restart)."
                )
            shutil.rmtree(folder)
        with explained(folder):
            atomic.make_folder(folder)
            names_path = folder / _NAMES_FILE
            if not names_path.exists() or names_path.read_bytes() != listing.encode():
                atomic.write_text(names_path, listing)
            if not path.exists():
                # last: a folder with a state has its names
                atomic.write_json(path, state)

    @staticmethod
    def _is_of_another(path: Path, state: dict[str, Any], restart: bool) -> bool:
        try:
            return _STATE.read(path) != state
        except UserError:
            if restart:
                return True
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_names": None}

    @property
    def names(self) -> list[str]:
        """Image names in the order of the submission."""
        if self._names is None:
            self._names = (self.folder / _NAMES_FILE).read_text().splitlines()
        return self._names

    @property
    def shard_count(self) -> int:
        """Number of shards, the last one possibly shorter."""
        return -(-self.count // self.shard_rows)

    def shard_path(self, shard: int) -> Path:
        """Where a shard is, once it is whole."""
        return self.folder / f"shard-{shard:05}.csv"

    def shard_names(self, shard: int) -> list[str]:
        """Image names of a shard, in order."""
        return self.names[shard * self.shard_rows : (shard + 1) * self.shard_rows]

    def missing(self) -> list[int]:
        """Numbers of the shards that are not whole yet."""
        present = {entry.name for entry in self.folder.iterdir()}
        return [k for k in range(self.shard_count) if self.shard_path(k).name not in present]

    def write_shard(self, shard: int, rows: Iterable[Row]) -> None:
        """Write one shard, whole or not at all.

        Args:
            shard: its number.
            rows: (name, value) of each of its images once, in any order; values as `row_text` takes them.

        Raises:
            UserError: an image is lacking, listed twice or belongs elsewhere (the message names it); the disk is full
                or refuses.
            ValueError: as `row_text`.
        """
        wanted = self.shard_names(shard)
        texts: dict[str, bytes] = {}
        allowed = set(wanted)
        for name, value in rows:
            if name not in allowed:
                raise UserError(f"{name} does not belong to shard {shard} of {self.folder}.")
            if name in texts:
                raise UserError(f"{name} came twice for shard {shard} of {self.folder}: give every image once.")
            texts[name] = row_text(value, size=self.size, order=self.order)
        lacking = [name for name in wanted if name not in texts]
        if lacking:
            raise UserError(
                f"shard {shard} of {self.folder} lacks {len(lacking)} images ({lacking[0]} first): give each once."
            )
        path = self.shard_path(shard)
        keys = (self._key(name).encode() for name in wanted)
        content = b"".join(b"%s,%s\n" % (key, texts[name]) for key, name in zip(keys, wanted, strict=True))
        seal = self._seal(shard, content)
        with explained(path), atomic.replacing(path, needed_bytes=len(content) + len(seal)) as temporary:
            temporary.write_bytes(content + seal)

    def _seal(self, shard: int, content: bytes) -> bytes:
        """The last line of a shard: whose it is, and the checksum of its rows."""
        crc = google_crc32c.value(content)
        return f"# shard {shard} of submission {self._identity}, CRC-32C {crc:08x}\n".encode()

    def _shard_rows(self, shard: int) -> bytes | None:
        """The rows of a shard; None where they are not what was written."""
        data = self.shard_path(shard).read_bytes()
        content = data[: data.rfind(b"\n", 0, -1) + 1]
        return content if data[len(content) :] == self._seal(shard, content) else None

    def drop_damaged(self) -> list[int]:
        """Remove the shards that are damaged, or of another submission, so that they are made again.

        Returns:
            Their numbers.
        """
        there = sorted(set(range(self.shard_count)) - set(self.missing()))
        damaged = [shard for shard in there if self._shard_rows(shard) is None]
        for shard in damaged:
            self.shard_path(shard).unlink()
        return damaged

    def drop(self, names: Collection[str]) -> int:
        """Remove the shards with rows of some images, so that they are made again; returns how many there were."""
        stale = set(names)
        there = sorted(set(range(self.shard_count)) - set(self.missing()))
        found = [shard for shard in there if not stale.isdisjoint(self.shard_names(shard))]
        for shard in found:
            self.shard_path(shard).unlink(missing_ok=True)
        return len(found)

    def _parts(self) -> Iterator[bytes]:
        yield (",".join(self.header) + "\n").encode()
        for shard in range(self.shard_count):
            content = self._shard_rows(shard)
            if content is None:
                path = self.shard_path(shard)
                path.unlink()
                raise UserError(
                    f"{path} was damaged since it was made, and is removed: run the same command again to make it anew."
                )
            yield content

    def join(
        self, path: Path, manifest: Mapping[str, Any], check: Callable[[Path], None] = lambda file: None
    ) -> dict[str, Any]:
        """Join the shards into the submission, have it checked, put it in its place, and last its manifest.

        Args:
            path: of the submission, `.csv` or `.csv.gz` (one gzip member).
            manifest: further entries of `manifest.json`, which is written beside the submission.
            check: looks at the file before it takes its place, under another name of the same ending; what it raises
                leaves an older submission, and its manifest, as they were.

        Returns:
            The manifest: the SHA-256 and the length of the file, rows, header, fingerprint and the further entries.

        Raises:
            UserError: shards are missing or damaged, another ending of the file name, or the disk is full or refuses.
        """
        require_ending(path)
        missing = self.missing()
        if missing:
            raise UserError(
                f"{len(missing)} of {self.shard_count} shards are missing in {self.folder} (shard {missing[0]} first): "
                "run the same command again to make them."
            )
        manifest_path = path.with_name(MANIFEST_FILE)
        # the manifest takes its place last
        with explained(path), atomic.replacing(manifest_path) as told, atomic.replacing(path) as temporary:
            digest = pack_submission(temporary, self._parts())
            check(temporary)
            value = {
                "file": path.name,
                "sha256": digest,
                "bytes": temporary.stat().st_size,
                "rows": self.count,
                "header": list(self.header),
                "fingerprint": self.fingerprint,
                **manifest,
            }
            told.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
            # an older manifest must not vouch for the new file, not even for the moment between two renames
            manifest_path.unlink(missing_ok=True)
        return value
