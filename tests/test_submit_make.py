import csv
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from competition import COMPETITIONS
from folds.store import LogitStore
from models.frame import Frame
from predict.members import find_members
from submit import make
from tests import naive, naive_ensemble
from tests.synthetic_runs import AVERAGE, UNET, save_blend, save_member, save_pixels, write_photograph

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


def call(case: tuple[Path, Path], **options: Any) -> None:
    make.main(competition="studio", data=case[0], runs=case[1], jobs=1, **options)


def rows(case: tuple[Path, Path]) -> dict[str, str]:
    with gzip.open(case[1] / "studio" / "blend" / "submission.csv.gz", "rt", newline="") as file:
        return dict(list(csv.reader(file))[1:])


def mask_of(text: str) -> np.ndarray:
    return naive.decode(naive.parse(text), STUDIO.size)


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


def spotted(case: tuple[Path, Path]) -> list[LogitStore]:
    """Replace the members' test logits by smooth ones that disagree, with a hole and an island in each."""
    call(case)
    rng = np.random.default_rng(0)
    stores = []
    for variant in (AVERAGE, UNET):
        store = LogitStore.open(case[1] / "studio" / variant.name / "test.zarr")
        for name in NAMES:
            plane = cv2.resize(rng.normal(scale=4, size=(5, 7)).astype(np.float32), variant.size[::-1])
            plane[10:30, 10:40] += 12
            plane[20, 20], plane[2, 2] = -12, 12
            store.write(name, plane[None])
        stores.append(store)
    return stores


@pytest.mark.parametrize("stream", [False, True])
def test_other_images_of_the_same_names_are_not_taken_for_those_predicted_before(
    case: tuple[Path, Path], stream: bool
) -> None:
    call(case, stream=stream)
    finer = case[0] / "test_hq"
    for k, name in enumerate(NAMES):
        write_photograph(finer / name, *STUDIO.size, seed=100 + k)
    before = (case[1] / "studio" / "blend" / "submission.csv.gz").read_bytes()
    with pytest.raises(
        SystemExit, match=r"another submission" if stream else r"other images \('test', now 'test_hq'\)"
    ):
        call(case, images=finer, stream=stream)
    assert (case[1] / "studio" / "blend" / "submission.csv.gz").read_bytes() == before


@pytest.mark.parametrize(
    ("vote", "repairs"),
    [("logits", [("fill-holes", 10000), ("drop-islands", 10000)]), ("probability", []), ("majority", [])],
)
def test_the_rows_are_those_of_the_blends_vote_and_of_its_kept_repairs(
    case: tuple[Path, Path], vote: str, repairs: list[tuple[str, int]]
) -> None:
    stores, root = spotted(case), case[1] / "studio"
    before = rows(case)
    members = [save_member(root, AVERAGE), save_member(root, UNET)]
    weights = [0.45, 0.55]
    save_blend(root, members, weights, vote=vote, postprocess_kept=repairs)
    call(case, restart=True)
    found = rows(case)
    for name in NAMES:
        full = [naive.bilinear(store.read(name)[0], STUDIO.size) for store in stores]
        combined = naive_ensemble.combined(vote, full, weights)
        # elsewhere the last bits decide
        sure = np.abs(combined) > 1e-4
        assert sure.mean() > 0.999
        mask, unrepaired = mask_of(found[name]), combined > 0
        np.testing.assert_array_equal(mask[sure], naive_ensemble.repaired(unrepaired, repairs)[sure])
        assert np.array_equal(mask[sure], unrepaired[sure]) == (not repairs)
        assert found[name] != before[name]
    fingerprint = json.loads((root / "blend" / "manifest.json").read_text())["fingerprint"]
    assert fingerprint["postprocess"] == [list(repair) for repair in repairs]
    assert fingerprint.get("vote", "logits") == vote


def test_the_rows_are_those_of_the_blends_boosted_pixels(case: tuple[Path, Path]) -> None:
    stores, root = spotted(case), case[1] / "studio"
    members = [save_member(root, AVERAGE), save_member(root, UNET)]
    # fitted on the members in another order than the blend's own
    boosted = save_pixels(root, members[::-1], STUDIO.size)
    save_blend(root, members, [0.4, 0.6], vote="pixels", stacker_digest=boosted.digest())
    call(case, restart=True)
    frames = [Frame(UNET.size), Frame(AVERAGE.size)]
    for name, text in rows(case).items():
        seen = Frame(STUDIO.size, "pad").load(case[0] / "test" / name)[0]
        logits = boosted([store.read(name)[0] for store in stores[::-1]], frames, [], STUDIO.size, seen)
        np.testing.assert_array_equal(mask_of(text), logits > 0)
        full = [naive.bilinear(store.read(name)[0], STUDIO.size) for store in stores]
        assert (mask_of(text) != (naive_ensemble.combined("logits", full, [0.4, 0.6]) > 0)).any()
    save_blend(root, members, [0.4, 0.6], vote="pixels", stacker_digest="0123")
    with pytest.raises(SystemExit, match="not of the fit that wrote the blend"):
        call(case)


def test_a_damaged_shard_is_made_again_and_a_faulty_file_never_takes_the_place_of_a_good_one(
    case: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(case)
    home = case[1] / "studio" / "blend"
    shard = home / "shards" / "shard-00000.csv"
    good = {path.name: path.read_bytes() for path in (home / "submission.csv.gz", shard)}
    damaged = bytearray(shard.read_bytes())
    damaged[shard.read_bytes().index(b",") + 1] ^= 1
    shard.write_bytes(damaged)
    capsys.readouterr()
    call(case)
    assert "1 shards in" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (home / "submission.csv.gz", shard)} == good

    before = {path.name: path.read_bytes() for path in home.glob("*.*")}
    with monkeypatch.context() as patch:
        shutil.rmtree(home / "shards")
        patch.setattr("ensemble.blend.Blend.row", lambda *_: b"7 0")
        with pytest.raises(SystemExit, match=r"does not pass the check, and is not kept: 5 faults \(row 1 .*; remove"):
            call(case)
    assert {path.name: path.read_bytes() for path in home.glob("*.*")} == before
    # the remedy
    shutil.rmtree(home / "shards")
    call(case)
    assert {path.name: path.read_bytes() for path in (home / "submission.csv.gz", shard)} == good


def test_masks_without_a_pixel_are_warned_of(case: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = case[1] / "studio"
    save_blend(root, find_members(root, [AVERAGE.name, UNET.name], 2), [0.8, 0.2], threshold=15.9)
    call(case)
    assert "warning: every row is empty" in capsys.readouterr().out
