"""Tables and names that others made: any encoding is read, nothing acts on a terminal or runs in a spreadsheet."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command_line import UserError
from competition import COMPETITIONS
from ensemble.photograph_files import list_photographs
from folds.csv_table import guarded, load_table, read_table, write_table
from folds.images import list_images, read_groups
from folds.leave_out import _header_alone
from kaggle_client.verify_download import _columns
from notebooks.merge import _split
from submit.check import check, sample_names
from tests.synthetic_runs import write_photograph

ROOT = Path(__file__).parent.parent
CARVANA = COMPETITIONS["carvana"]
NAMES = ["00000000000a_01.jpg", "00000000000b_16.jpg"]
TABLE = "image,group,fold,img,rle_mask\n" + "".join(f"{n},g,{k},{n},1 1\n" for k, n in enumerate(NAMES))
ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "byte-order mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "the other UTF-16": lambda text: text.encode("utf-16-be"),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "byte-order mark and CRLF": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
}


# whoever reads a table that a user, a competition or a spreadsheet may have written
READERS: dict[str, Callable[[Path], object]] = {
    "read_table": lambda path: read_table(path, ["image", "group"], "copy it", numbers=["fold"])["image"].tolist(),
    "load_table": lambda path: load_table(path)["image"].tolist(),
    "groups.csv": lambda path: list(read_groups(path, CARVANA, NAMES)),
    "a downloaded table": lambda path: [name for (name,) in _columns(path, ["image"])[0]],
    "a fetched split": lambda path: list(_split(path)),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_takes_every_encoding(tmp_path: Path, reader: str, encoding: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    expected = READERS[reader](path)
    assert len(expected) == len(NAMES)  # type: ignore[arg-type]
    path.write_bytes(ENCODINGS[encoding](TABLE))
    assert READERS[reader](path) == expected


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_sample_submission_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    text = "img,rle_mask\n" + "".join(f"{name},1 1\n" for name in NAMES)
    (tmp_path / CARVANA.sample_file).write_bytes(ENCODINGS[encoding](text))
    assert sample_names(tmp_path, CARVANA) == NAMES
    (tmp_path / "left_out.csv").write_bytes(ENCODINGS[encoding]("image,why\n"))
    assert "image" in _header_alone(tmp_path / "left_out.csv")


FORMULAS = ["=cmd|'/c calc'!A1", "+1+2.jpg", "-x.jpg", "@SUM(A1)", "'=x.jpg", "''-x.jpg", "\tx", "a.jpg", "'a.jpg"]


def test_no_cell_runs_in_a_spreadsheet_and_every_name_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table = pd.DataFrame({"image": FORMULAS, "figure": np.linspace(-1, 1, len(FORMULAS)), "n": range(len(FORMULAS))})
    write_table(path, table)
    for cell in pd.read_csv(path, dtype=str)["image"]:
        assert cell[0] not in "=+-@\t\r"
    back = read_table(path, ["image"], "copy it", numbers=["figure", "n"])
    assert back["image"].tolist() == FORMULAS
    np.testing.assert_allclose(back["figure"], table["figure"], atol=1e-6)
    assert guarded("-0.25") == "-0.25" and guarded(-0.25) == -0.25


def test_tables_are_written_in_one_way() -> None:
    """So that what guards them guards all."""
    found = [
        str(path.relative_to(ROOT))
        for path in ROOT.glob("*/**/*.py")
        if path.parts[len(ROOT.parts)] not in ("tests", ".venv") and ".to_csv(" in path.read_text()
    ]
    assert found == ["folds/csv_table.py"]
    readers = [
        str(path.relative_to(ROOT))
        for path in ROOT.glob("*/**/*.py")
        if path.parts[len(ROOT.parts)] not in ("tests", ".venv", "benchmarks")
        and any(word in path.read_text() for word in ("read_csv(", "csv.reader(", "DictReader("))
    ]
    assert sorted(readers) == ["ensemble/pseudo_choice.py", "folds/csv_table.py"]


@pytest.mark.parametrize("name", ["\x1b[2Jx_01.jpg", "\x07bell.jpg", "a\rb.jpg", "\u202egpj.exe"])
def test_no_row_of_a_submission_acts_on_the_terminal(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.csv"
    path.write_bytes(f"img,rle_mask\n{name},1 5\n{NAMES[0]},1 \x1b5\n".encode())
    printed = str(check(path, competition=CARVANA, names=NAMES))
    assert all(character.isprintable() or character == "\n" for character in printed)
    assert "not an image of this submission" in printed


def test_a_submission_in_another_encoding_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    text = "img,rle_mask\n" + "".join(f"{name},1 5\n" for name in NAMES)
    path.write_bytes(text.encode("utf-8-sig"))
    (fault,) = check(path, competition=CARVANA, names=NAMES).first
    assert "byte-order mark" in fault
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(UserError, match=r"is UTF-16 text: save it as UTF-8"):
        check(path, competition=CARVANA, names=NAMES)


BAD_NAMES = (b"caf\xe9.jpg", b"a\rb.jpg", b"a\nb.jpg", b"\x1b[2J.jpg")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_photograph_that_no_table_can_name_is_a_fault_of_its_own(tmp_path: Path, name: bytes) -> None:
    good = tmp_path / "Foto 1\u202fum 3.jpg"
    write_photograph(good, 20, 31)
    (tmp_path / os.fsdecode(name)).write_bytes(good.read_bytes())
    _, names, others = list_photographs(tmp_path)
    assert names == [good.name]
    ((_, fault),) = others
    assert str(fault).endswith("rename it.") and str(fault).isprintable()
    with pytest.raises(UserError, match="rename it"):
        list_photographs(tmp_path / os.fsdecode(name))
    good.unlink()
    with pytest.raises(UserError, match="rename it"):
        list_images(tmp_path, CARVANA)


def test_a_name_that_is_not_unicode_can_be_printed_by_any_program(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9\x1b[2J.csv"
    words = [os.fsencode(word) for word in (sys.executable, "-m", "submit.check", "--images", str(tmp_path))] + [path]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=False)
    said = done.stderr.decode()
    assert done.returncode == 1 and said.startswith("error: ") and "\x1b" not in said and "Traceback" not in said
