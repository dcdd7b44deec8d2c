"""A finished submission on disk: its digests, its manifest, its compression."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from isal import igzip as _igzip
from tqdm import tqdm

import atomic
from command_line import UserError
from folds.run_layout import MANIFEST_FILE
from submit.writer import BLOCK_BYTES, open_rows, packing

igzip: Any = _igzip  # it has no types


def digests(path: Path) -> tuple[str, str]:
    """SHA-256 of a file and of the CSV in it, as hexadecimal digits; equal where it is not compressed.

    Raises:
        UserError: it is missing; or as `submit.writer.open_rows`.
    """
    file_hash, content_hash = hashlib.sha256(), hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                file_hash.update(block)
        if not packing(path):
            return file_hash.hexdigest(), file_hash.hexdigest()
        with open_rows(path) as content:
            while block := content.read(BLOCK_BYTES):
                content_hash.update(block)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: make the submission first (make ensemble).") from None
    return file_hash.hexdigest(), content_hash.hexdigest()


def read_manifest(path: Path, file_sha256: str, *, needed: bool) -> dict[str, Any]:
    """The manifest beside a submission, whose digest must be the file's.

    Args:
        path: the submission.
        file_sha256: its digest.
        needed: refuse where there is none; otherwise that gives an empty one.

    Raises:
        UserError: missing, unreadable, or for other bytes.
    """
    manifest = path.with_name(MANIFEST_FILE)
    try:
        value: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if needed:
            raise UserError(
                f"{manifest} is missing, so {path.name} was not finished: make the submission again (make submission)."
            ) from None
        return {}
    except ValueError:
        raise UserError(f"{manifest} is damaged: make the submission again (make submission).") from None
    if value.get("sha256") != file_sha256:
        raise UserError(
            f"{path} does not have the bytes its manifest was written for: it was changed since; make the submission "
            "again (make submission)."
        )
    return value


def compressed(path: Path) -> Path:
    """The file itself if it is compressed, else a compressed copy beside it; equal content gives equal bytes."""
    if packing(path):
        return path
    target = path.with_name(path.name + ".gz")
    with (
        atomic.replacing(target) as temporary,
        temporary.open("wb") as raw,
        igzip.IGzipFile(filename="", mode="wb", compresslevel=2, fileobj=raw, mtime=0) as packed,
        path.open("rb") as file,
        tqdm(total=path.stat().st_size, desc="compress", unit="B", unit_scale=True, disable=None) as bar,
    ):
        while block := file.read(BLOCK_BYTES):
            packed.write(block)
            bar.update(len(block))
    return target
