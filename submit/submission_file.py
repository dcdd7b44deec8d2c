"""A finished submission on disk: its digests, its manifest, its compression."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, NotRequired

from isal import igzip as _igzip
from pydantic import Field
from tqdm import tqdm
from typing_extensions import TypedDict

import atomic
from command_line import UserError
from ensemble.blend_file import Foreground
from folds.run_layout import MANIFEST_FILE
from json_file import Count, Schema, extensible
from kernels.metrics import check_scores
from submit.writer import BLOCK_BYTES, open_rows, packing, sha256

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


@extensible
class _Blend(TypedDict):
    """What is looked at of the blend.json that the submission was made by."""

    foreground: NotRequired[Foreground]


@extensible
class Manifest(TypedDict):
    """The manifest of a finished submission, as `submit.stream` and `submit.make` write it."""

    file: NotRequired[str]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: NotRequired[Count]
    rows: NotRequired[Count]
    blend: NotRequired[_Blend]
    git_commit: NotRequired[str]


def _check(manifest: Manifest) -> None:
    check_scores(manifest, "cv_")


_MANIFEST = Schema(Manifest, "make the submission again (make submission)", _check)


def manifest_beside(path: Path) -> Manifest | None:
    """The manifest beside a file, if it is one, and of that very file."""
    try:
        manifest = _MANIFEST.read_if_there(path.with_name(MANIFEST_FILE))
    except UserError:
        return None
    its = manifest is not None and path.is_file() and manifest["sha256"] == sha256(path)
    return manifest if its else None


def read_manifest(path: Path, file_sha256: str, *, needed: bool) -> Manifest | None:
    """The manifest beside a submission, whose digest must be the file's.

    Args:
        path: the submission.
        file_sha256: its digest.
        needed: refuse where there is none; otherwise that gives None.

    Raises:
        UserError: missing, damaged, or for other bytes.
    """
    manifest = path.with_name(MANIFEST_FILE)
    value = _MANIFEST.read_if_there(manifest)
    if value is None:
        if needed:
            raise UserError(
                f"{manifest} is missing, so {path.name} was not finished: make the submission again (make submission)."
            )
        return None
    if value["sha256"] != file_sha256:
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
