import json
from pathlib import Path

import pytest

import atomic
from command_line import UserError


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


def test_what_is_read_back_is_what_was_written_or_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError):
        atomic.read_json(path, "mend it")
    atomic.write_json(path, {"a": [1, None]})
    assert atomic.read_json(path, "mend it") == {"a": [1, None]}
    for damage in (path.read_bytes()[:-4], b"", b"\xff\xfe"):
        path.write_bytes(damage)
        with pytest.raises(UserError, match=r"a\.json is damaged: mend it\.$"):
            atomic.read_json(path, "mend it")
