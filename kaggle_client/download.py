"""`python -m kaggle_client.download`: fetch a competition's files, unpack and verify them; `make data` calls it.

Every part (a folder or a table) is fetched, unpacked and entered into a ledger by itself, so a run that was cut
short goes on from there, and a run with nothing to do makes no call at all.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

import atomic
from command_line import UserError, program
from competition import Competition
from folder_listing import ends_in, list_folder
from folder_lock import fill
from json_file import Schema
from kaggle_client import archive
from kaggle_client import cli as kaggle_cli
from kaggle_client.credentials import Credentials, find_credentials
from kaggle_client.verify_download import verify
from program_flags import CompetitionName, Processes, files_of

LEDGER_FILE = ".download.json"
STAGING_DIR = ".download"
_SHOWN_FAULTS = 20
# files of each path; parts of which it says nothing are looked at, or fetched
_LEDGER = Schema(dict[str, Annotated[int, Field(gt=0)]], "what it noted is not known any more, and it is begun anew")


@dataclass(frozen=True)
class Part:
    """What one archive of the competition becomes.

    Attributes:
        name: of the archive, and of the table that it becomes if that is what it is.
        folders: those that it fills, relative to the data folder, each with the number of its files, where the
            competition says; none for a table.
    """

    name: str
    folders: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def paths(self) -> tuple[str, ...]:
        """The folders, or the table, relative to the data folder."""
        return tuple(self.folders) or (self.name,)

    def is_in(self, names: dict[str, int]) -> str | None:
        """Which of Kaggle's file names holds this part."""
        return next((n for n in (f"{self.name}.zip", self.name) if n in names), None)


def find_parts(competition: Competition, *, hq: bool = False, only: str = "") -> list[Part]:
    """The parts to fetch.

    Args:
        competition: the competition.
        hq: also the high-quality images.
        only: comma-separated names; all where empty.

    Raises:
        UserError: `only` names a part that there is not, or nobody ships the competition.
    """
    parts = [
        Part(a.name, {folder: competition.count(folder) for folder in a.folders})
        for a in competition.archives
        if hq or not a.better
    ]
    if not parts:
        raise UserError(f"nobody ships the files of {competition.name}: put them into its data folder yourself.")
    if not only:
        return parts
    wanted = [name.strip() for name in only.split(",")]
    known = {part.name: part for part in parts}
    for name in wanted:
        if name not in known:
            raise UserError(f"there is no part {name!r}; the parts are {', '.join(known)}.")
    return [part for part in parts if part.name in wanted]


def _count(home: Path, folder: str, competition: Competition) -> int:
    """Images, or masks, in one of the competition's folders, as they are counted when all is verified; 0 where there is
    no such folder."""
    path = home / folder
    return len(list_folder(path, competition.suffixes_of(folder)).names) if path.is_dir() else 0


def _require_all(part: Part, files: Mapping[str, int], source: Path) -> None:
    """Raise DamagedArchiveError if what was taken is less than the competition has."""
    for folder, expected in part.folders.items():
        if expected is not None and files[folder] < expected:
            raise archive.DamagedArchiveError(
                f"{source} holds {files[folder]:,} of the {expected:,} files of {folder}: copy it again, whole."
            )


class Ledger:
    """Which parts are unpacked, and how many files each is; the competition's own count goes before a noted one."""

    def __init__(self, data: Path, competition: Competition) -> None:
        self._data, self._competition = data, competition
        self._path = data / LEDGER_FILE
        try:
            self._files = _LEDGER.read_if_there(self._path) or {}
        except UserError as error:
            print(error)
            self._files = {}

    def has(self, part: Part) -> bool:
        """Whether the part is complete; one that was put there by hand counts if its number of files is right."""
        path = self._data / part.name
        if not part.folders:
            return path.is_file() and path.stat().st_size > 0
        return all(self._has_folder(folder, count) for folder, count in part.folders.items())

    def _has_folder(self, folder: str, count: int | None) -> bool:
        expected = self._files.get(folder) if count is None else count
        return expected is not None and _count(self._data, folder, self._competition) >= expected

    def add(self, files: Mapping[str, int]) -> None:
        """Enter a part that is complete, by the number of files of each of its paths."""
        self._files.update(files)
        atomic.write_json(self._path, self._files)


def _place(part: Part, source: Path, data: Path, competition: Competition) -> dict[str, int]:
    """Put a fetched file in its place: unpacked if it is an archive. Returns the number of files of each path."""
    if zipfile.is_zipfile(source) or source.suffix.lower() == ".zip":
        if len(part.folders) > 1:
            places = archive.unpack_folders(source, data, tuple(part.folders))
        else:
            (path,) = part.paths
            places = {path: archive.unpack(source, data / path, folder=bool(part.folders))}
        if not part.folders:
            return {part.name: 1}
        files = {
            folder: sum(ends_in(name, competition.suffixes_of(folder)) for name in places[folder])
            for folder in part.folders
        }
        _require_all(part, files, source)
        return files
    if part.folders or not source.stat().st_size:
        raise archive.DamagedArchiveError(f"{source} is no ZIP archive, expected one of {part.name}: copy it again.")
    with atomic.replacing(data / part.name) as temporary:
        shutil.copyfile(source, temporary)
    return {part.name: 1}


def _listing(slug: str, credentials: Credentials) -> dict[str, int]:
    """Size in bytes of every file Kaggle has for the competition."""
    words = ["competitions", "files", slug, "--format", "json", "--page-size", "200"]
    doing = f"listing the files of {slug}"
    output = kaggle_cli.patiently(lambda: kaggle_cli.run(words, credentials, doing=doing, slug=slug))
    return {str(entry["name"]): int(entry["size"]) for entry in kaggle_cli.json_list(output)}


def _fetch(name: str, listed_bytes: int, slug: str, staging: Path, credentials: Credentials) -> Path:
    """Download one file, going on where an earlier run stopped; returns its path. It has the size that Kaggle lists."""
    folder = staging / name
    folder.mkdir(parents=True, exist_ok=True)
    words = ["competitions", "download", slug, "-f", name, "-p", str(folder)]
    doing = f"downloading {name} of {slug}"
    kaggle_cli.patiently(lambda: kaggle_cli.run(words, credentials, doing=doing, slug=slug, progress=True))
    # the client names the file as the storage does, with or without .zip, and keeps notes of unfinished ones
    files = [f for f in folder.iterdir() if not f.name.endswith(".kaggle-partial") and f.stat().st_size]
    if len(files) != 1:
        shutil.rmtree(folder)
        raise UserError(f"{doing} left {len(files)} files instead of one: run the same command again.")
    size = files[0].stat().st_size
    if size != listed_bytes:
        shutil.rmtree(folder)
        raise UserError(
            f"{doing} gave {size:,} bytes, and Kaggle lists {listed_bytes:,}: what came was removed; run the same "
            "command again to fetch it."
        )
    return files[0]


def _download(competition: Competition, missing: list[Part], data: Path, ledger: Ledger, *, keep: bool) -> None:
    slug = kaggle_cli.find_slug(competition)
    credentials = find_credentials()
    sizes = _listing(slug, credentials)
    names: dict[str, str] = {}
    for part in missing:
        name = part.is_in(sizes)
        if name is None:
            raise UserError(f"Kaggle lists no {part.name}.zip for {slug}: choose what it has ({', '.join(sizes)}).")
        names[part.name] = name
    staging = data / STAGING_DIR
    fetched = [sizes[name] for name in names.values()]
    here = sum(f.stat().st_size for f in staging.rglob("*") if f.is_file()) if staging.exists() else 0
    # images hardly shrink in an archive, so unpacked they take as much again; archives go one by one
    needed = sum(fetched) + (sum(fetched) if keep else max(fetched)) - here
    archive.require_space(data, needed)
    print(f"{archive.gigabytes(sum(fetched))} to download from {slug}: {', '.join(names.values())}")
    for part in missing:
        fetched_file = _fetch(names[part.name], sizes[names[part.name]], slug, staging, credentials)
        try:
            ledger.add(_place(part, fetched_file, data, competition))
        except archive.DamagedArchiveError as error:
            # what was fetched is ours to remove
            shutil.rmtree(fetched_file.parent)
            raise UserError(f"{error} It was removed: run the same command again to fetch it.") from None
        if not keep:
            shutil.rmtree(fetched_file.parent)
    if not keep:
        shutil.rmtree(staging, ignore_errors=True)


def _take(competition: Competition, missing: list[Part], source: Path, data: Path, ledger: Ledger) -> None:
    """Take the parts from a folder that has them, packed or not; unpacked folders are linked, not copied."""
    for part in missing:
        packed, plain = source / f"{part.name}.zip", source / part.name
        if part.folders and all((source / folder).is_dir() for folder in part.folders):
            files = {folder: _count(source, folder, competition) for folder in part.folders}
            _require_all(part, files, source)
            for folder in part.folders:
                target = data / folder
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.is_symlink():
                    target.unlink()
                target.symlink_to((source / folder).absolute(), target_is_directory=True)
            ledger.add(files)
            continue
        found = next((path for path in (plain, packed) if path.is_file()), None)
        if found is None:
            raise UserError(f"{source} has neither {plain.name} nor {packed.name}: name another folder (--source).")
        ledger.add(_place(part, found, data, competition))


def prepare(
    competition: Competition,
    data: Path,
    *,
    hq: bool = False,
    only: str = "",
    source: Path | None = None,
    keep_archives: bool = False,
    jobs: int = -1,
) -> list[Part]:
    """Fetch what is missing, then verify all of it. Arguments as the program's.

    Raises:
        UserError: it cannot be fetched, or does not pass the verification.
    """
    parts = find_parts(competition, hq=hq, only=only)
    ledger = Ledger(data, competition)
    missing = [part for part in parts if not ledger.has(part)]
    if missing and source is not None:
        _take(competition, missing, source, data, ledger)
    elif missing:
        _download(competition, missing, data, ledger, keep=keep_archives)
    faults = verify(competition, data, [path for part in parts for path in part.paths], jobs=jobs)
    for sentence in faults[:_SHOWN_FAULTS]:
        print(sentence)
    if faults:
        more = f" (the first {_SHOWN_FAULTS} are above)" if len(faults) > _SHOWN_FAULTS else ""
        raise UserError(
            f"{data} is not what {competition.title} ships, {len(faults)} faults{more}, the first: {faults[0]}"
        )
    return parts


@program
def main(
    competition: CompetitionName = "carvana",
    data: Path | None = None,
    hq: bool = False,
    only: str = "",
    source: Path | None = None,
    keep_archives: bool = False,
    jobs: Processes = -1,
) -> None:
    """Fetch a competition's files from Kaggle, unpack them into a folder, and verify every one.

    Args:
        data: the folder; data/<competition> by default.
        hq: also the high-quality images (large).
        only: parts to fetch, comma-separated, such as train,train_masks; all by default.
        source: a folder that already has the competition's files, packed or not, to take them from.
        keep_archives: leave the downloaded archives in the folder's .download.
        jobs: processes that verify, as joblib counts them.
    """
    facts, folder = files_of(competition, data)
    fill(folder)
    parts = prepare(facts, folder, hq=hq, only=only, source=source, keep_archives=keep_archives, jobs=jobs)
    print(f"{folder} is complete and verified: {', '.join(part.name for part in parts)}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
