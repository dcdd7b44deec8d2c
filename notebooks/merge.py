"""Taking what a job on Kaggle made into a runs folder, as if it had been made here: whole, or not at all."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import atomic
from command_line import UserError
from ensemble.blend_file import SUBMISSION_FILE
from folds.csv_table import read_table
from folds.run_layout import FOLDS_FILE, MANIFEST_FILE, STORE_METADATA_FILE, WEIGHTS_FILE
from json_file import Schema
from kaggle_client.archive import UNREADABLE

# the one file that says what the rest of its folder is
_KEY_FILES = (WEIGHTS_FILE, SUBMISSION_FILE)


# what each holds is looked at where it is used
_OBJECT = Schema(dict[str, Any], "train its variant again (make folds V=...), which writes this file alone")


def _object_of_job(name: PurePosixPath, path: Path) -> dict[str, Any]:
    """A JSON file that came with a job's results."""
    try:
        return _OBJECT.parse(path.read_bytes())
    except ValueError as error:
        raise UserError(f"the job's {name} is damaged ({error}): nothing was fetched; push the job again.") from None


def _split(path: Path) -> dict[str, str]:
    table = read_table(path, ["image", "fold"], "push the job again", numbers=[])
    return dict(zip(table["image"], table["fold"], strict=True))


def _stage(archive: zipfile.ZipFile, folder: Path, competition: str) -> list[PurePosixPath]:
    """Unpack into `folder`; returns the names. ZIP's checksums are looked at on the way."""
    names = [PurePosixPath(info.filename) for info in archive.infolist() if not info.is_dir()]
    for name in names:
        if name.is_absolute() or ".." in name.parts or name.parts[0] != competition:
            raise UserError(
                f"{archive.filename} holds {name}, which is no result of {competition}: push the job again."
            )
    archive.extractall(folder)
    return names


def _settle(name: PurePosixPath, new: Path, old: Path) -> bool:
    """Whether the file is to be taken; False if it is here already.

    Raises:
        UserError: another is here.
    """
    if not old.exists():
        return True
    if name.name == FOLDS_FILE:
        if _split(new) != _split(old):
            raise UserError(f"the job used another split than {old}: nothing was fetched; push it again with this one.")
        return False
    if name.name == STORE_METADATA_FILE:
        if _object_of_job(name, new) != _OBJECT.read(old):
            raise UserError(
                f"the fetched logits do not fit {old.parent} (other data, folds or network): nothing was fetched; "
                "choose another runs folder."
            )
        return False
    return True


def _finished_here(new: Path, old: Path) -> bool:
    """Whether the unit (a fold, a submission) whose manifest is `new` was finished here before, with equal result.

    Raises:
        UserError: with another result.
    """
    if not old.exists():
        return False
    for key in _KEY_FILES:
        mine, theirs = old.with_name(key), new.with_name(key)
        if theirs.exists() and (not mine.exists() or mine.read_bytes() != theirs.read_bytes()):
            raise UserError(
                f"{old.parent} was already finished here with another result: nothing was fetched; remove that folder "
                "to take Kaggle's."
            )
    return True


def merge(path: Path, runs: Path, competition: str) -> list[Path]:
    """Merge a job's results.

    Chunks of a logit store go beside those that are there; its metadata must be equal. A folder that was finished
    here stays. Everything is compared before anything is moved; manifests are moved last, so a merge that is cut
    short leaves folders that do not count as finished, and may be run again.

    Args:
        path: the fetched ZIP archive.
        runs: the runs folder.
        competition: our name of it, the first part of every name in the archive.

    Returns:
        The folders that are now finished.

    Raises:
        UserError: it is damaged, or does not fit what is here.
    """
    atomic.make_folder(runs / competition)
    staging = atomic.temporary_beside(runs / competition / "fetch")
    try:
        try:
            with zipfile.ZipFile(path) as archive:
                names = _stage(archive, staging, competition)
        except (*UNREADABLE, RuntimeError, FileNotFoundError) as error:
            raise UserError(f"{path} is damaged ({error}): fetch it again.") from None
        for name in names:
            if name.suffix == ".json":
                _object_of_job(name, staging / name)
        manifests = [n for n in names if n.name == MANIFEST_FILE]
        here = {n.parent for n in manifests if _finished_here(staging / n, runs / n)}
        taken = [n for n in names if n.parent not in here and _settle(n, staging / n, runs / n)]
        for name in sorted(taken, key=lambda n: n.name == MANIFEST_FILE):
            (runs / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).replace(runs / name)
        return [runs / n.parent for n in manifests]
    finally:
        shutil.rmtree(staging, ignore_errors=True)
