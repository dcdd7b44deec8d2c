"""One rule for every name that comes from outside and becomes part of a path: nothing is read or written elsewhere."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import ensemble.fit
import ensemble.photographs
import folds.train
import kaggle_client.upload
import report.disagreement
import report.write
import submit.make
import submit.plan
from command_line import UserError
from competition import COMPETITIONS
from kaggle_client import archive
from path_names import LONGEST_BYTES, inside
from submit.check import sample_names

# one of each reason to refuse a name
FOREIGN = ("../x", "a/b", "..", ".hidden", "/no/x", "a\\b", "a\nb", "\x1b[2Jx", "x" * (LONGEST_BYTES + 1), "ü" * 101)


def _blend(name: str, runs: Path) -> None:
    ensemble.fit.main(name=name, runs=runs)


def _submission(name: str, runs: Path) -> None:
    submit.make.main(name=name, runs=runs, data=runs)


def _report(name: str, runs: Path) -> None:
    report.write.main(name=name, runs=runs)


def _disagreement(name: str, runs: Path) -> None:
    report.disagreement.main(name=name, runs=runs)


def _photographs(name: str, runs: Path) -> None:
    ensemble.photographs.main(images=runs, out=runs / "masks", blend=name, runs=runs)


def _one_variant(name: str, runs: Path) -> None:
    ensemble.photographs.main(images=runs, out=runs / "masks", variant=name, runs=runs)


def _members(name: str, runs: Path) -> None:
    submit.plan.main(variants=name, runs=runs)


def _tag(name: str, runs: Path) -> None:
    folds.train.main(variant="average-mask", tag=name, runs=runs, data=runs)


def _upload(name: str, runs: Path) -> None:
    kaggle_client.upload.main(name=name, runs=runs)


PLACES: tuple[Callable[[str, Path], None], ...] = (
    _blend,
    _submission,
    _report,
    _disagreement,
    _photographs,
    _one_variant,
    _members,
    _tag,
    _upload,
)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__.strip("_"))
@pytest.mark.parametrize("name", FOREIGN, ids=range(len(FOREIGN)))
def test_a_name_that_leads_elsewhere_is_refused_by_every_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[[str, Path], None], name: str
) -> None:
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", "x" * 32)
    runs = tmp_path / "deep" / "runs"
    runs.mkdir(parents=True)
    with pytest.raises(SystemExit) as end:
        place(name, runs)
    said = str(end.value.code)
    assert said.startswith("error: ") and "\n" not in said and "\x1b" not in said
    assert "plain name" in said or "letters and digits" in said, said
    assert [path for path in tmp_path.rglob("*") if path != runs and path != runs.parent] == []


@pytest.mark.parametrize("name", [n for n in FOREIGN if "\n" not in n])
def test_no_row_of_a_sample_file_leads_elsewhere(tmp_path: Path, name: str) -> None:
    competition = COMPETITIONS["carvana"]
    path = tmp_path / competition.sample_file
    path.write_text(f"img,rle_mask\n00087a6bd4dc_01.jpg,1 1\n{name},1 1\n")
    with pytest.raises(UserError, match="in row 2, no image's name"):
        sample_names(tmp_path, competition)
    path.write_text("img,rle_mask\n00087a6bd4dc_01.jpg,1 1\n")
    assert sample_names(tmp_path, competition) == ["00087a6bd4dc_01.jpg"]


@pytest.mark.parametrize("name", [n for n in FOREIGN if n not in ("..", "a\nb")])
def test_no_member_of_an_archive_leads_elsewhere(tmp_path: Path, name: str) -> None:
    packed = tmp_path / "train.zip"
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr(name, b"content")
        file.writestr("good.jpg", b"content")
    target = tmp_path / "deep" / "train"
    try:
        archive.unpack(packed, target, folder=True)
    except UserError as error:
        assert str(packed) in str(error) and "\n" not in str(error)
    assert all(path.is_relative_to(target.parent) for path in tmp_path.rglob("*") if path != packed)
    assert not (tmp_path / "x").exists()


def test_what_a_user_would_write_is_a_name(tmp_path: Path) -> None:
    for name in ("blend", "my blend 2", "größer", "a.b-c_d", "-x", "00087a6bd4dc_01.jpg"):
        assert inside(tmp_path, name, "--name") == tmp_path / name
