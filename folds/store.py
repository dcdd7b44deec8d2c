"""Logits on disk: one compressed Zarr chunk per image, at the network's own resolution, coded by `folds.logit_code`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc
from zarr.codecs import BloscCname, BloscCodec, BloscShuffle, BytesCodec, Crc32cCodec

import atomic
from command_line import UserError
from folds.logit_code import DTYPE, KNEE, SCALE, dequantise, quantise
from folds.run_layout import OOF_STORE, STORE_METADATA_FILE, TEST_STORE

FORMAT = "logits-asinh-1"
# a code that no logit has: what zarr returns for a chunk that was never written
UNWRITTEN = np.iinfo(DTYPE).min
_ON_DISK = DTYPE.newbyteorder("<")
_CRC_BYTES = 4
# the attribute that is a digest of all others
_DIGEST = "attributes_digest"
# of new stores: half the time of zstd's own choice, 3, for 0.3 % more bytes
_ZSTD_LEVEL = 1
# attributes in words
_MEANING = {
    "names": "image names",
    "data_digest": "images or masks",
    "folds_digest": "folds",
    "weights_digest": "weights, before the variant was trained again",
    "tta": "test-time augmentation",
    "imported": "predictions",
    "runtime": "runtime (--backend)",
    "precision": "precision",
    "frame_version": "version of the way from images to inputs",
}
# what attributes that have been added since were before there was a name for them
_ONCE = {"frame_version": 1, "runtime": "torch"}
_READERS = 4


def _is_whole(data: bytes) -> bool:
    """Whether a file's content ends in the checksum of what comes before it."""
    body, crc = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
    return len(body) > 0 and google_crc32c.value(body) == int.from_bytes(crc, "little")


class DamagedStoreError(UserError):
    """What a store says of itself cannot be read."""


def _digest_of(attributes: dict[str, Any]) -> str:
    """16 hex digits over what a store says of itself."""
    told = json.dumps({key: attributes[key] for key in sorted(attributes) if key != _DIGEST})
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


def _made_again_by(path: Path, *, imported: bool = False) -> str:
    """What makes a store, or what is damaged of it, again."""
    if imported:
        flag = "OOF" if path.name == OOF_STORE else "TEST"
        return f"import it again (make import-member NAME={path.parent.name} {flag}=FOLDER)"
    if path.name == OOF_STORE:
        return f"make folds V={path.parent.name} makes it again, and nothing else"
    if path.name == TEST_STORE:
        return "make submission, or make disagreement ARGS=--predict, makes it again, and nothing else"
    return "run the command that wrote it again"


class LogitStore:
    """Logits of many images, (heads, h, w) each, addressed by image name.

    Processes and machines that write different images need no lock: every image is one file, renamed into place.
    The object is small and can be pickled to workers.

    Attributes:
        path: the Zarr array's folder.
        names: image names in the order of the array's first axis.
    """

    def __init__(self, path: Path, array: zarr.Array) -> None:
        self.path = path
        self._array = array
        self.attributes: dict[str, Any] = dict(array.attrs)
        self.names: list[str] = self.attributes.pop("names")
        self._code = {"knee": self.attributes["knee"], "scale": self.attributes["scale"]}
        self._index = {name: i for i, name in enumerate(self.names)}
        # stores of networks whose heads have one plane each do not say so
        heads = self.attributes.get("heads", ["mask"])
        ends = np.cumsum([0, *self.attributes.get("head_planes", [1] * len(heads))])
        self._planes = {head: slice(int(a), int(b)) for head, a, b in zip(heads, ends[:-1], ends[1:], strict=True)}
        blosc_codec = next(codec for codec in array.compressors if isinstance(codec, BloscCodec))
        self._level: int = blosc_codec.clevel

    def __reduce__(self) -> tuple[Any, ...]:
        return LogitStore.open, (self.path,)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(heads, h, w) of every image's logits."""
        heads, height, width = self._array.shape[1:]
        return heads, height, width

    @staticmethod
    def create(path: Path, names: Sequence[str], shape: tuple[int, int, int], **attributes: Any) -> LogitStore:
        """Open the store at `path`, made empty if it is not there yet, or if what it says of itself is damaged.

        Args:
            path: folder, by custom `*.zarr`.
            names: the images it will hold, in a fixed order, each once.
            shape: (heads, h, w).
            attributes: JSON-able facts that tell this store from another: variant, data digest, TTA. One that an
                older store lacks is taken to be what it was before there was a name for it, or else to be equal.

        Raises:
            UserError: a store is there that was made for other images, another shape or other attributes.
        """
        if path.is_dir():
            try:
                return LogitStore._reopen(path, names, shape, attributes)
            except DamagedStoreError:
                print(f"{path / STORE_METADATA_FILE} is missing or damaged: it is written again", flush=True)
                # out-of-fold logits are known by their folds' manifests
                if path.name != OOF_STORE:
                    print(f"of what network the logits in {path} are is not known any more: they are made again")
                    atomic.discard(path)
        if len(set(names)) != len(names):
            raise UserError("an image name is listed twice in the list for a logit store: name each image once.")
        # two folds that start at the same moment both find nothing: the first one's store stays
        given = {"names": list(names), "format": FORMAT, "knee": KNEE, "scale": SCALE, **attributes}
        with atomic.building(path) as temporary:
            zarr.create_array(
                temporary,
                shape=(len(names), *shape),
                chunks=(1, *shape),
                dtype=DTYPE.name,
                fill_value=int(UNWRITTEN),
                # the crc comes last, so it covers the compressed bytes as they lie on disk
                serializer=BytesCodec(),
                compressors=[
                    BloscCodec(cname=BloscCname.zstd, clevel=_ZSTD_LEVEL, shuffle=BloscShuffle.bitshuffle),
                    Crc32cCodec(),
                ],
                chunk_key_encoding={"name": "default", "separator": "."},
                attributes={**given, _DIGEST: _digest_of(given)},
                config={"write_empty_chunks": True},
            )
            if path.is_dir() and not LogitStore._is_readable(path):
                (temporary / STORE_METADATA_FILE).replace(path / STORE_METADATA_FILE)
        return LogitStore._reopen(path, names, shape, attributes)

    @staticmethod
    def _is_readable(path: Path) -> bool:
        try:
            LogitStore.open(path)
        except DamagedStoreError:
            return False
        return True

    @staticmethod
    def _reopen(
        path: Path, names: Sequence[str], shape: tuple[int, int, int], attributes: dict[str, Any]
    ) -> LogitStore:
        """The store at `path`, if it is the one that `create` would make; UserError as there."""
        store = LogitStore.open(path)
        atomic.clear_leftovers(path)
        wanted = {"names": list(names), "shape": tuple(shape), **attributes}
        found = {"names": store.names, "shape": tuple(store.shape), **store.attributes}
        for key, value in wanted.items():
            before = found.get(key, _ONCE.get(key, value))
            if before != value:
                shown = "" if key == "names" else f" ({before!r}, now {value!r})"
                # out-of-fold logits are of networks that were trained with the same, and as useless
                what = f"{path.parent} with all its folds" if path.name == OOF_STORE else "the folder"
                raise UserError(
                    f"{path} was written with other {_MEANING.get(key, key)}{shown}: remove {what} to make it anew, or "
                    "choose another runs folder."
                )
        return store

    @staticmethod
    def open(path: Path) -> LogitStore:
        """Open an existing store.

        Raises:
            UserError: there is none, it is damaged, or it is of another format.
        """
        try:
            array = zarr.open_array(path, mode="r+", config={"write_empty_chunks": True})
            told = dict(array.attrs)
            if told.get(_DIGEST, _digest_of(told)) != _digest_of(told):
                raise ValueError("altered")
            if told.get("format") == FORMAT:
                return LogitStore(path, array)
        except (FileNotFoundError, zarr.errors.NodeNotFoundError):
            if not path.is_dir():
                variant = path.parent.name if path.name == OOF_STORE else "..."
                raise UserError(f"{path} is not there: train the variant first (make folds V={variant}).") from None
            raise DamagedStoreError(f"{path / STORE_METADATA_FILE} is missing: {_made_again_by(path)}.") from None
        except (ValueError, TypeError, KeyError, AttributeError, StopIteration):
            raise DamagedStoreError(f"{path / STORE_METADATA_FILE} is damaged: {_made_again_by(path)}.") from None
        raise UserError(f"{path} is not a logit store of format {FORMAT}: remove the folder and make it again.")

    def _position(self, name: str) -> int:
        try:
            return self._index[name]
        except KeyError:
            raise UserError(f"{self.path} has no place for image {name!r}: it was made for other images.") from None

    def _chunk(self, position: int) -> Path:
        return self.path / f"c.{position}.0.0.0"

    def write(self, name: str, logits: np.ndarray) -> None:
        """Store one image's logits.

        Args:
            name: an image of the store.
            logits: (heads, h, w) float32.

        Raises:
            UserError: a logit is not a number; the message names the image.
            ValueError: of another shape.
        """
        if logits.shape != self.shape:
            raise ValueError(f"logits of shape {logits.shape} for a store of {self.shape}")
        if not np.isfinite(logits).all():
            model = self.attributes.get("variant", "the network")
            raise UserError(
                f"the logits of {name} hold NaN or infinity: {model} diverged ({self.path}); train it again with a "
                "lower learning rate or in float32."
            )
        path = self._chunk(self._position(name))
        codes = quantise(logits, **self._code).astype(_ON_DISK, copy=False)
        # past zarr, whose machinery costs three times what the packing does; the tests compare the bytes with zarr's
        body = blosc.compress(np.ascontiguousarray(codes), b"zstd", self._level, blosc.BITSHUFFLE)
        # no wait for the disk: a chunk that a power failure damaged is found by its checksum, and made again
        with atomic.replacing(path, durable=False) as temporary:
            temporary.write_bytes(body + google_crc32c.value(body).to_bytes(_CRC_BYTES, "little"))

    def rounded(self, logits: np.ndarray) -> np.ndarray:
        """Logits, float32 of any shape, as they would read back once written; nothing is written."""
        return dequantise(quantise(logits, **self._code), **self._code)

    def _remedy(self) -> str:
        return _made_again_by(self.path, imported="imported" in self.attributes)

    def read(self, name: str) -> np.ndarray:
        """One image's logits, (heads, h, w) float32.

        Raises:
            UserError: not written yet, or the chunk is damaged.
        """
        position = self._position(name)
        # past zarr, whose machinery costs more than the decoding; the tests read the same with zarr alone
        try:
            data = self._chunk(position).read_bytes()
        except FileNotFoundError:
            raise UserError(f"the logits of {name} are not in {self.path}: {self._remedy()}.") from None
        if not _is_whole(data):
            raise UserError(
                f"the logits of {name} in {self.path} are damaged (their checksum differs): {self._remedy()}."
            )
        codes = np.frombuffer(blosc.decompress(data[:-_CRC_BYTES]), _ON_DISK).reshape(self.shape)
        return dequantise(codes, **self._code)

    def head(self, name: str, head: str = "mask") -> np.ndarray:
        """One image's logits of one head.

        Args:
            name: of the image.
            head: its name, as the store's attribute `heads` lists it.

        Returns:
            (h, w) float32, or (c, h, w) for a head of c > 1 planes.

        Raises:
            UserError: as `read`, or the store has no such head.
        """
        if head not in self._planes:
            raise UserError(f"{self.path} holds no head {head!r}, but {', '.join(self._planes)}.")
        planes = self.read(name)[self._planes[head]]
        return planes[0] if len(planes) == 1 else planes

    def has(self, head: str) -> bool:
        """Whether it holds logits of that head."""
        return head in self._planes

    def missing(self) -> list[str]:
        """Names of the images not written yet, in the store's order."""
        present = {entry.name for entry in self.path.iterdir()}
        return [name for i, name in enumerate(self.names) if f"c.{i}.0.0.0" not in present]

    def missing_of(self, names: Sequence[str]) -> list[str]:
        """Those of some images that are not written yet, without a look at all others."""
        return [name for name in names if not self._chunk(self._position(name)).exists()]

    def drop(self, names: Collection[str]) -> int:
        """Remove the logits of some images, so that they are missing; returns of how many there were any."""
        there = set(names).difference(self.missing())
        for name in there:
            self._chunk(self._position(name)).unlink(missing_ok=True)
        return len(there)

    def digest(self, names: Sequence[str]) -> str:
        """16 hex digits over some images' names and the checksums that end their files, which are not looked at
        further; what is not there counts as empty."""
        digest = hashlib.blake2b(digest_size=8)
        for name in names:
            crc = b""
            with suppress(FileNotFoundError, OSError), self._chunk(self._position(name)).open("rb") as file:
                file.seek(-_CRC_BYTES, os.SEEK_END)
                crc = file.read()
            digest.update(b"%s %s\n" % (name.encode(), crc.hex().encode()))
        return digest.hexdigest()

    def verify(self, names: Sequence[str] | None = None) -> list[str]:
        """Compare files with their checksums, without decoding them; a damaged one is removed, so that it counts as
        missing.

        Args:
            names: of the images to look at; None is all.

        Returns:
            The names of the images whose logits were removed.
        """
        absent = set(self.missing())
        wanted = range(len(self.names)) if names is None else [self._position(name) for name in names]
        present = [position for position in wanted if self.names[position] not in absent]
        with ThreadPoolExecutor(_READERS) as pool:
            whole = list(pool.map(lambda position: _is_whole(self._chunk(position).read_bytes()), present))
        damaged = [position for position, is_whole in zip(present, whole, strict=True) if not is_whole]
        for position in damaged:
            self._chunk(position).unlink(missing_ok=True)
        return [self.names[position] for position in damaged]
