import csv
import gzip
import json
from pathlib import Path

import pytest

from competition import COMPETITIONS
from submit import make
from tests.synthetic_runs import AVERAGE, UNET, save_blend, save_member, write_photograph

STUDIO = COMPETITIONS["studio"]
NAMES = [f"00000000000a_0{k}.jpg" for k in range(1, 6)]


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path]:
    """A test set of five images, and a blend of two members."""
    data, root = tmp_path / "data", tmp_path / "runs" / "studio"
    for k, name in enumerate(NAMES):
        write_photograph(data / "test" / name, *STUDIO.size, seed=k)
    rows = "".join(f"{name},1 1\n" for name in NAMES)
    (data / "sample_submission.csv").write_text(",".join(STUDIO.header) + "\n" + rows)
    save_blend(root, [save_member(root, AVERAGE), save_member(root, UNET)], [0.8, 0.2])
    return data, root.parent


def call(case: tuple[Path, Path], **options: object) -> None:
    make.main(competition="studio", data=case[0], runs=case[1], jobs=1, **options)


def rows(case: tuple[Path, Path]) -> dict[str, str]:
    with gzip.open(case[1] / "studio" / "blend" / "submission.csv.gz", "rt", newline="") as file:
        return dict(list(csv.reader(file))[1:])


def test_images_that_cannot_be_read_are_refused_or_become_empty_rows(
    case: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cut, absent = (case[0] / "test" / NAMES[k] for k in (1, 3))
    contents = cut.read_bytes(), absent.read_bytes()
    cut.write_bytes(contents[0][:-500])
    with pytest.raises(SystemExit, match=r"1 of 5 images could not be read.*--on-missing empty"):
        call(case)
    absent.unlink()
    with pytest.raises(SystemExit, match=r"lacks 1 of the 5 images.*--on-missing empty"):
        call(case)
    assert not (case[1] / "studio" / "blend" / "submission.csv.gz").exists()

    capsys.readouterr()
    call(case, on_missing="empty")
    printed = capsys.readouterr().out
    assert f"2 of them are empty, as their images cannot be read: {NAMES[1]}, {NAMES[3]}" in printed
    found = rows(case)
    assert list(found) == NAMES
    assert [name for name, text in found.items() if not text] == [NAMES[1], NAMES[3]]
    manifest = json.loads((case[1] / "studio" / "blend" / "manifest.json").read_text())
    assert manifest["fingerprint"]["empty_rows"] == [NAMES[1], NAMES[3]]

    # mended: the shards with empty rows are not mixed in
    cut.write_bytes(contents[0])
    absent.write_bytes(contents[1])
    with pytest.raises(SystemExit, match="another submission"):
        call(case)
    call(case, restart=True)
    assert {name: text for name, text in rows(case).items() if name in (NAMES[0], NAMES[2], NAMES[4])} == {
        name: text for name, text in found.items() if text
    }
    assert all(rows(case).values())


def test_nothing_readable_is_no_submission(case: tuple[Path, Path]) -> None:
    for name in NAMES:
        (case[0] / "test" / name).write_bytes(b"")
    with pytest.raises(SystemExit, match="none of the 5 images"):
        call(case, on_missing="empty")
