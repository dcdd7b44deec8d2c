import json
from pathlib import Path

import pytest

import atomic


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    atomic.write_json(target, {"old": 1})
    with pytest.raises(RuntimeError), atomic.replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(target.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_missing_folders_are_made_and_the_suffixes_kept(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "b.csv.gz"
    with atomic.replacing(target) as temporary:
        assert temporary.suffixes[-2:] == [".csv", ".gz"]
        assert temporary.parent == target.parent
        temporary.write_bytes(b"x")
    assert target.read_bytes() == b"x"
