"""Merging what Kaggle made into a runs folder: whole, or not at all."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from command_line import UserError
from notebooks.merge import merge

META = {"shape": [4, 1, 2, 2], "attributes": {"data_digest": "d", "folds_digest": "f"}}
SPLIT = "image,group,fold,area_px\na_01.jpg,a,0,5\nb_01.jpg,b,1,6\n"


def results(folder: Path, fold: int, *, weights: bytes = b"w", split: str = SPLIT, meta: object = META) -> Path:
    """What a job that trained one fold leaves."""
    path = folder / f"results{fold}.zip"
    unit = f"carvana/unet/fold{fold}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("carvana/folds.csv", split)
        archive.writestr("carvana/unet/oof.zarr/zarr.json", json.dumps(meta))
        archive.writestr(f"carvana/unet/oof.zarr/c.{fold}.0.0.0", b"chunk%d" % fold)
        archive.writestr(f"{unit}/manifest.json", json.dumps({"fold": fold}))
        archive.writestr(f"{unit}/weights.safetensors", weights)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file and its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_folds_from_two_jobs_fit_together(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert merge(results(tmp_path, 0), runs, "carvana") == [runs / "carvana/unet/fold0"]
    merge(results(tmp_path, 1), runs, "carvana")
    names = {f"c.{k}.0.0.0" for k in (0, 1)} | {"zarr.json"}
    assert {p.name for p in (runs / "carvana/unet/oof.zarr").iterdir()} == names
    assert (runs / "carvana/unet/fold1/weights.safetensors").read_bytes() == b"w"
    before = tree(runs)
    # a second time changes nothing
    merge(results(tmp_path, 1), runs, "carvana")
    assert tree(runs) == before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"split": SPLIT.replace("a,0", "a,1")}, "used another split"),
        ({"meta": {**META, "attributes": {"data_digest": "other"}}}, "do not fit"),
    ],
)
def test_what_does_not_fit_changes_nothing(tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    runs = tmp_path / "runs"
    merge(results(tmp_path, 0), runs, "carvana")
    before = tree(runs)
    with pytest.raises(UserError, match=sentence):
        merge(results(tmp_path, 1, **changes), runs, "carvana")  # type: ignore[arg-type]
    assert tree(runs) == before


def test_fold_finished_here_is_not_overwritten(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    merge(results(tmp_path, 0), runs, "carvana")
    before = tree(runs)
    with pytest.raises(UserError, match="already finished here with another result"):
        merge(results(tmp_path, 0, weights=b"other"), runs, "carvana")
    assert tree(runs) == before


def test_manifest_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    moved: list[str] = []
    replace = Path.replace

    def note(self: Path, target: Path) -> Path:
        moved.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", note)
    merge(results(tmp_path, 0), runs, "carvana")
    assert moved[-1] == "manifest.json" and len(moved) == 5


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b""])
def test_files_of_a_job_that_are_no_json_are_refused_and_those_here_have_a_remedy(
    tmp_path: Path, content: bytes
) -> None:
    runs = tmp_path / "runs"
    merge(results(tmp_path, 0), runs, "carvana")
    before = tree(runs)
    path = results(tmp_path, 1)
    for name in ("unet/oof.zarr/zarr.json", "unet/fold1/manifest.json"):
        with zipfile.ZipFile(path) as archive:
            files = {n: archive.read(n) for n in archive.namelist()}
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            for n, whole in files.items():
                archive.writestr(n, content if n.endswith(name) else whole)
        with pytest.raises(UserError, match=rf"the job's carvana/{name} is damaged .*push the job again"):
            merge(tmp_path / "bad.zip", runs, "carvana")
        assert tree(runs) == before
    metadata = runs / "carvana/unet/oof.zarr/zarr.json"
    whole = metadata.read_bytes()
    metadata.write_bytes(content)
    with pytest.raises(UserError, match=r"zarr\.json is damaged .*make folds V=\.\.\."):
        merge(path, runs, "carvana")
    metadata.write_bytes(whole)
    merge(path, runs, "carvana")


@pytest.mark.parametrize("name", ["../evil", "/evil", "studio/unet/fold0/manifest.json"])
def test_names_outside_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(UserError, match="is no result of carvana"):
        merge(path, tmp_path / "runs", "carvana")
    assert tree(tmp_path) == {"r.zip": path.read_bytes()}


def test_damaged_archive(tmp_path: Path) -> None:
    path = results(tmp_path, 0)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"chunk0", b"chunkX"))
    with pytest.raises(UserError, match="is damaged"):
        merge(path, tmp_path / "runs", "carvana")
    assert set(tree(tmp_path)) == {"results0.zip"}
