import dataclasses
import gzip
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from command_line import UserError
from competition import COMPETITIONS
from ensemble.blend_file import Foreground
from submit.check import Report, check, main, sample_names
from submit.stream import SubmissionStream

# 3 x 4 pixels: the last one is 12
FACTS = dataclasses.replace(COMPETITIONS["carvana"], size=(3, 4))
NAMES = [f"{k:012x}_01.jpg" for k in range(30)]


def plain(path: Path, text: bytes) -> Path:
    path.write_bytes(text)
    return path


def packed(path: Path, text: bytes) -> Path:
    path = path.with_suffix(".csv.gz")
    path.write_bytes(gzip.compress(text))
    return path


def zipped(path: Path, text: bytes) -> Path:
    path = path.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("submission.csv", text)
    return path


def good_lines() -> list[str]:
    return ["img,rle_mask", *(f"{name},{k + 1 if k < 11 else 12} 1" for k, name in enumerate(NAMES))]


def report_of(tmp_path: Path, lines: list[str], write: Callable[[Path, bytes], Path] = plain) -> Report:
    path = write(tmp_path / "submission.csv", "".join(f"{line}\n" for line in lines).encode())
    return check(path, competition=FACTS, names=NAMES)


@pytest.mark.parametrize("write", [plain, packed, zipped])
def test_a_good_submission_has_no_fault(tmp_path: Path, write: Callable[[Path, bytes], Path]) -> None:
    report = report_of(tmp_path, good_lines(), write)
    assert (report.ok, report.faults, report.rows) == (True, 0, 30)
    assert "30 rows, no fault" in str(report)


@pytest.mark.parametrize("write", [plain, packed, zipped])
def test_a_fault_is_found_in_any_packing(tmp_path: Path, write: Callable[[Path, bytes], Path]) -> None:
    lines = good_lines()
    lines[17] = f"{NAMES[16]},12 2"
    report = report_of(tmp_path, lines, write)
    assert report.first == [f"row 17 ({NAMES[16]}): the last run (12 2) goes past the last pixel, 12"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1", "odd number"),
        ("1 a", "neither a digit nor a space"),
        ("1 2,3", "neither a digit nor a space"),
        ('"1 2', "neither a digit nor a space"),
        ('"1 2" "3 4"', "neither a digit nor a space"),
        ("0 1", "below pixel 1"),
        ("1 0", "at least 1 px"),
        ("-1 1", "neither a digit"),
        ("5 2 1 1", "does not start after"),
        ("1 3 2 1", "overlaps"),
        ("13 1", "past the last pixel, 12"),
        ("1 " + 30 * "9", "more digits"),
    ],
)
def test_every_fault_of_a_row_is_told_with_its_number_and_name(tmp_path: Path, text: str, what: str) -> None:
    lines = good_lines()
    lines[4] = f"{NAMES[3]},{text}"
    report = report_of(tmp_path, lines)
    assert report.faults == 1
    assert report.first[0].startswith(f"row 4 ({NAMES[3]}): ")
    assert what in report.first[0]


def test_faults_of_names_order_and_count(tmp_path: Path) -> None:
    good = good_lines()
    header = report_of(tmp_path, ["id,mask", *good[1:]])
    assert header.first == ["header: 'id,mask', expected 'img,rle_mask'"]

    swapped = report_of(tmp_path, [good[0], good[2], good[1], *good[3:]])
    assert swapped.first == [f"row 2 ({NAMES[0]}): out of order, it belongs before {NAMES[1]}"]

    moved = report_of(tmp_path, [good[0], good[30], *good[1:30]])
    assert moved.first == [f"row 2 ({NAMES[0]}): out of order, it belongs before {NAMES[29]}"]

    turned = report_of(tmp_path, [good[0], *good[:0:-1]])
    assert turned.faults == 29

    twice = report_of(tmp_path, [*good, good[5]])
    assert twice.first == [f"row 31 ({NAMES[4]}): the image is listed twice"]
    assert twice.rows == 31

    cut = report_of(tmp_path, good[:-2])
    assert cut.first == [f"{NAMES[28]}: no row", f"{NAMES[29]}: no row"]

    stranger = report_of(tmp_path, [*good[:30], "ffffffffffff_16.jpg,1 1"])
    assert stranger.first == ["row 30 (ffffffffffff_16.jpg): not an image of this submission", f"{NAMES[29]}: no row"]

    no_comma = report_of(tmp_path, [*good[:30], NAMES[29]])
    assert no_comma.first == [f"row 30 ({NAMES[29]}): no comma between image name and runs"]

    blank = report_of(tmp_path, [*good, ""])
    assert blank.faults == 1, "one sentence for one empty line"
    assert blank.first == ["row 31: the line is empty"]

    empty = check(plain(tmp_path / "empty.csv", b""), competition=FACTS, names=NAMES)
    assert empty.faults == 31


def test_one_lost_row_is_one_fault_and_not_one_for_every_row_after_it(tmp_path: Path) -> None:
    good = good_lines()
    report = report_of(tmp_path, good[:5] + good[6:])
    assert report.first == [f"{NAMES[4]}: no row"]
    extra = report_of(tmp_path, [*good[:5], "ffffffffffff_16.jpg,1 1", *good[5:]])
    assert extra.first == ["row 5 (ffffffffffff_16.jpg): not an image of this submission"]


def test_all_faults_are_counted_and_twenty_shown(tmp_path: Path) -> None:
    report = report_of(tmp_path, ["img,rle_mask", *(f"{name},0 1" for name in NAMES)])
    assert (report.faults, len(report.first)) == (30, 20)
    shown = str(report).splitlines()
    assert shown[0].endswith("30 faults in 30 rows")
    assert shown[-1] == "... and 10 more"
    assert len(shown) == 22


def test_empty_masks_windows_line_ends_and_no_last_line_end_are_legal(tmp_path: Path) -> None:
    lines = good_lines()
    lines[3] = f"{NAMES[2]},"
    path = plain(tmp_path / "submission.csv", "\r\n".join(lines).encode())
    report = check(path, competition=FACTS, names=NAMES)
    assert report.ok, str(report)


def test_quoted_fields_are_legal_as_everywhere_in_csv(tmp_path: Path) -> None:
    lines = [",".join(f'"{field}"' for field in line.split(",")) for line in good_lines()]
    assert report_of(tmp_path, lines).ok
    lines[4] = f'"{NAMES[3]}","0 1"'
    assert report_of(tmp_path, lines).first == [f"row 4 ({NAMES[3]}): run 1 (0 1) starts below pixel 1"]


def test_a_packed_file_must_be_named_so(tmp_path: Path) -> None:
    good = "".join(f"{line}\n" for line in good_lines()).encode()
    for write, ending in ((packed, ".csv.gz"), (zipped, ".csv.zip")):
        whole = write(tmp_path / "a.csv", good)
        capital = whole.rename(tmp_path / f"CAPITAL{whole.suffix.upper()}")
        assert check(capital, competition=FACTS, names=NAMES).ok
        misnamed = capital.rename(tmp_path / "misnamed.csv")
        with pytest.raises(UserError, match=f"rename it to end in {ending}"):
            check(misnamed, competition=FACTS, names=NAMES)


def test_bytes_that_are_no_text_are_a_fault_not_a_traceback(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
    report = check(plain(tmp_path / "submission.csv", noise), competition=FACTS, names=NAMES)
    assert report.faults > 30
    assert "\n" not in report.first[0]


def test_damaged_and_missing_files_are_one_sentence(tmp_path: Path) -> None:
    good = "".join(f"{line}\n" for line in good_lines()).encode()
    whole = packed(tmp_path / "a.csv", good)
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(UserError, match="cut off"):
        check(cut, competition=FACTS, names=NAMES)
    no_gzip = plain(tmp_path / "no.csv.gz", good)
    with pytest.raises(UserError, match="damaged"):
        check(no_gzip, competition=FACTS, names=NAMES)
    no_zip = plain(tmp_path / "no.zip", good)
    with pytest.raises(UserError, match="damaged"):
        check(no_zip, competition=FACTS, names=NAMES)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", good)
        archive.writestr("b.csv", good)
    with pytest.raises(UserError, match="holds 2 files"):
        check(tmp_path / "two.zip", competition=FACTS, names=NAMES)
    with pytest.raises(UserError, match="is missing"):
        check(tmp_path / "none.csv", competition=FACTS, names=NAMES)


def test_what_the_stream_writes_passes(tmp_path: Path) -> None:
    stream = SubmissionStream(
        tmp_path / "shards", NAMES, header=FACTS.header, size=FACTS.size, shard_rows=7, fingerprint={}
    )
    rng = np.random.default_rng(0)
    for shard in stream.missing():
        stream.write_shard(shard, [(name, rng.random(FACTS.size) > 0.5) for name in stream.shard_names(shard)])
    stream.join(tmp_path / "submission.csv.gz", {})
    report = check(tmp_path / "submission.csv.gz", competition=FACTS, names=NAMES)
    assert report.ok, str(report)


def sample(folder: Path, names: list[str]) -> None:
    (folder / "sample_submission.csv").write_text("img,rle_mask\n" + "".join(f"{name},1 1\n" for name in names))


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample(tmp_path, NAMES[:3])
    path = tmp_path / "submission.csv"
    path.write_text("img,rle_mask\n" + "".join(f"{name},1 1\n" for name in NAMES[:3]))
    main(path, data=tmp_path)
    assert "3 rows, no fault" in capsys.readouterr().out
    path.write_text(f"img,rle_mask\n{NAMES[0]},1 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "submit.check", path, "--competition", "carvana", "--data", tmp_path],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"{NAMES[1]}: no row\n{NAMES[2]}: no row\n" in done.stdout
    assert done.stderr == f"error: {path} is not fit to be submitted: 2 faults.\n"


def test_the_program_takes_a_folder_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in reversed(NAMES[:3]):
        (images / name).touch()
    path = tmp_path / "submission.csv"
    path.write_text("img,rle_mask\n" + "".join(f"{name},1 1\n" for name in NAMES[:3]))
    main(path, images=images)
    assert "no fault" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="not a folder"):
        main(path, images=tmp_path / "none")


def test_sample_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        sample_names(tmp_path, FACTS)
    sample(tmp_path, NAMES)
    assert sample_names(tmp_path, FACTS) == NAMES
    text = "img,rle_mask\n" + "".join(f'"{name}","1 1"\n' for name in NAMES)
    (tmp_path / "sample_submission.csv").write_text(text.replace("\n", "\r\n"), encoding="utf-8-sig")
    assert sample_names(tmp_path, FACTS) == NAMES
    sample(tmp_path, [*NAMES, NAMES[4]])
    with pytest.raises(UserError, match=f"names {NAMES[4]} twice"):
        sample_names(tmp_path, FACTS)
    (tmp_path / "sample_submission.csv").write_text("a,b\n")
    with pytest.raises(UserError, match="begins with 'a,b'"):
        sample_names(tmp_path, FACTS)
    (tmp_path / "sample_submission.csv").write_bytes(b"")
    with pytest.raises(UserError, match="not a sample"):
        sample_names(tmp_path, FACTS)


@pytest.mark.parametrize(
    ("runs", "expected", "warned"),
    [
        ([""] * 30, None, "every row is empty"),
        ([""] * 30, {"empty": 0.9, "least": 0.1, "most": 0.5}, "every row is empty"),
        (["1 2"] * 30, None, ""),
        (["1 2"] * 30, {"empty": 0.0, "least": 0.1, "most": 0.5}, ""),
        (["1 2"] * 20 + [""] * 10, {"empty": 0.0, "least": 0.1, "most": 0.5}, "33% of the rows are empty"),
        (["1 2"] * 20 + [""] * 10, {"empty": 0.4, "least": 0.1, "most": 0.5}, ""),
        (["1 2"] * 30, {"empty": 0.5, "least": 0.1, "most": 0.5}, "0% of the rows are empty"),
        (["1 2"] * 28 + ["1 12"] * 2, {"empty": 0.0, "least": 0.1, "most": 0.5}, rf"2 rows .*\({NAMES[28]} with 100"),
        (["1 2"] * 29 + ["1 12"] * 1, {"empty": 0.0, "least": 0.1, "most": 0.5}, ""),
        (["1 1"] * 30, {"empty": 0.0, "least": 0.5, "most": 0.6}, "30 rows have far more or less"),
    ],
)
def test_rows_unlike_what_the_blend_was_chosen_on_are_warned_of(
    runs: list[str], expected: Foreground | None, warned: str, tmp_path: Path
) -> None:
    path = plain(tmp_path / "submission.csv", b"img,rle_mask\n" + b"".join(
        f"{name},{text}\n".encode() for name, text in zip(NAMES, runs, strict=True)
    ))  # fmt: skip
    report = check(path, competition=FACTS, names=NAMES, expected=expected)
    assert report.ok
    assert len(report.warnings) == bool(warned)
    assert re.search(warned, "".join(report.warnings))
    assert ("\nwarning: " in str(report)) == bool(warned)


def test_the_program_knows_what_the_blend_expects_from_the_manifest_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample(tmp_path, NAMES)
    stream = SubmissionStream(tmp_path / "shards", NAMES, header=FACTS.header, size=(3, 4), fingerprint={})
    stream.write_shard(0, [(name, b"1 1") for name in NAMES])
    path = tmp_path / "submission.csv"
    stream.join(path, {"blend": {"foreground": {"empty": 0.0, "least": 0.5, "most": 0.6}}})
    main(path, data=tmp_path)
    assert "warning: 30 rows have far more or less foreground" in capsys.readouterr().out
    manifest = tmp_path / "manifest.json"
    # of another file, or no manifest: nothing is expected
    for content in (manifest.read_text().replace('"sha256": "', '"sha256": "0'), "{}", "[]"):
        manifest.write_text(content)
        main(path, data=tmp_path)
        assert "warning" not in capsys.readouterr().out
