"""How far networks agree on photographs: as all pairs of them do, whatever their frames and their number."""

from dataclasses import replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from benchmarks import out_of_depth
from ensemble.blend import find_blend
from ensemble.photograph_table import TABLE_FILE, read_told
from ensemble.photographs import main as mask_photographs
from models.frame import Frame
from predict.agreement import Poll, agreement_of_votes, grid_of
from predict.blocks import Place
from predict.members import Member
from predict.photographs import load, network_logits
from predict.replicas import Replica, ReplicaPool
from report.photographs import PAGE_FILE
from report.photographs import main as write_page
from tests.synthetic_runs import AVERAGE, UNET, save_blend, save_member, write_photograph

# of a blend whose networks' agreement on training images nobody measured but this file
LIMIT = 0.85
MEASURED = {"limit": LIMIT, "share": 0.01, "images": 400}
PADS = replace(UNET, name="tiny-pads", fit="pad", size=(64, 64))
SMALL = replace(UNET, name="tiny-small", size=(32, 64))


def slow_agreement(masks: np.ndarray) -> float | None:
    """The same of masks (M, ...) bool, pair by pair."""
    pairs = list(combinations(masks, 2))
    if not pairs:
        return None
    some = sum(int((a | b).sum()) for a, b in pairs)
    return sum(int((a & b).sum()) for a, b in pairs) / some if some else 0.0


@pytest.mark.parametrize("networks", [1, 2, 3, 5, 15])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_agreement_is_that_of_all_pairs(networks: int, share: float) -> None:
    masks = np.random.default_rng(networks).random((networks, 13, 17)) < share
    found, expected = agreement_of_votes(masks.sum(0), networks), slow_agreement(masks)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_networks_are_compared_on_the_coarsest_ones_pixels_without_borders() -> None:
    resized, padded = Frame((64, 96)), Frame((64, 64), "pad")
    assert grid_of([resized, Frame((32, 64))], (300, 411)) == Frame((32, 64))
    # 20 x 31 of the padded frame's pixels are of the picture
    assert grid_of([resized, padded], (20, 31)) == Frame((20, 31))
    poll = Poll(grid_of([padded], (20, 31)), (20, 31))
    seen = np.full((2, 64, 64), 3, np.float32)
    seen[0, :20, :31] = -3
    poll.add(seen, padded)
    assert (poll.networks, poll.votes.shape, set(poll.votes.ravel())) == (2, (20, 31), {1})
    assert poll.agreement == 0.0


def test_networks_apart_leave_the_mean_as_it_is_to_the_last_bit(tmp_path: Path) -> None:
    member = save_member(tmp_path, UNET, folds=3)
    replica = Replica(member)
    images = np.random.default_rng(0).integers(0, 256, (2, *UNET.size, 3), np.uint8)
    apart = replica.logits(images, apart=True)
    assert apart.shape == (2, 1 + replica.networks, *UNET.size)
    np.testing.assert_array_equal(apart[:, :1], replica.logits(images))
    np.testing.assert_allclose(apart[:, 1:].mean(1, keepdims=True), apart[:, :1], atol=1e-4)
    alone = Replica(member, folds=1)
    np.testing.assert_array_equal(apart[:, 1:2], alone.logits(images))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    root = tmp_path_factory.mktemp("mixed")
    return [save_member(root, variant) for variant in (UNET, PADS, AVERAGE)]


@pytest.mark.parametrize(("height", "width"), [(20, 31), (61, 47), (150, 211)])
def test_polls_of_whole_pictures_and_of_tiles_are_of_each_network(
    mixed: list[Member], tmp_path: Path, height: int, width: int
) -> None:
    members = mixed
    path = tmp_path / "a.png"
    write_photograph(path, height, width)
    photograph = load(path, [m.frame for m in members])
    (result,) = network_logits(ReplicaPool(members, 1), [(Place("a", 0, 1), photograph)], polled=True)
    (unasked,) = network_logits(ReplicaPool(members, 1), [(Place("a", 0, 1), photograph)])
    assert unasked.poll is None
    for one, other in zip(result.planes, unasked.planes, strict=True):
        np.testing.assert_array_equal(one, other)
    assert result.poll is not None
    # what is fitted ignores the image and has no vote
    assert result.poll.networks == 4
    masks = []
    for member in members[:2]:
        for folder in member.folds:
            pool = ReplicaPool([replace(member, folds=(folder,))], 1)
            (single,) = network_logits(pool, [(Place("a", 0, 1), photograph)])
            (frame,) = single.frames
            masks.append(frame.transfer(single.planes[0], result.poll.grid, (height, width)) > 0)
    assert result.poll.agreement == pytest.approx(slow_agreement(np.stack(masks)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "studio"
    save_blend(root, [save_member(root, UNET), save_member(root, SMALL)], [0.7, 0.3], agreement=MEASURED)
    save_member(root, replace(UNET, name="tiny-alone"), folds=1)
    return root.parent


def call(runs: Path, images: Path, out: Path, **options: Any) -> None:
    mask_photographs(images=images, out=out, competition="studio", runs=runs, **options)


def test_predict_tells_how_far_networks_agree_and_warns_of_the_worst(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "in", tmp_path / "out"
    for k in range(4):
        write_photograph(images / f"{k}.jpg", 50 + 7 * k, 80, seed=k)
    call(runs, images, out)
    table = pd.read_csv(out / TABLE_FILE)
    assert list(table.image) == [f"{k}.jpg" for k in range(4)]
    blend = find_blend(runs / "studio", "blend")
    assert blend.agreement_limit == LIMIT
    for name, agreement, foreground, limit, below in table.to_numpy().tolist():
        block = [(Place(name, 0, 1), load(images / name, blend.frames))]
        (result,) = network_logits(ReplicaPool(blend.members, 1), block, polled=True)
        assert result.poll is not None and agreement == pytest.approx(result.poll.agreement, abs=1e-3)
        assert limit == LIMIT and below == (agreement < LIMIT)
        mask = cv2.imread(str(out / name.replace(".jpg", "_mask.png")), cv2.IMREAD_GRAYSCALE)
        assert mask is not None and foreground == pytest.approx((mask > 0).mean(), abs=1e-6)
    worst, least = min(zip(table.image, table.agreement, strict=True), key=lambda row: row[1])
    # networks of random weights agree on nothing
    assert least < LIMIT
    said = capsys.readouterr().out
    assert f"warning: on {table.below.sum()} of 4 the networks agree less" in said
    assert f"{worst} ({least:.4f})" in said

    # again, nothing is done and the same is said; a photograph without a row is done once more
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    call(runs, images, out)
    assert capsys.readouterr().out.splitlines()[-1] == said.splitlines()[-1]
    table[table.image != "2.jpg"].to_csv(out / TABLE_FILE, index=False)
    call(runs, images, out)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*_mask.png")}
    assert [name for name in after if after[name] != before[name]] == ["2_mask.png"]
    assert sorted(read_told(out)) == [f"{k}.jpg" for k in range(4)]

    write_page(images, out, worst=3)
    page = (out / PAGE_FILE).read_text()
    assert page.count("data:image/jpeg") == 6 and worst in page
    assert f"{table.below.sum()} of 4 may be of a kind" in page
    assert page.index(worst) == min(page.index(f"{k}.jpg") for k in range(4) if f"{k}.jpg" in page)

    (out / TABLE_FILE).write_text("image,agreement\nx,y\n")
    with pytest.raises(SystemExit, match=r"agreement\.csv is damaged .*: remove it"):
        call(runs, images, out)


def test_the_limit_is_the_blends_own(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same networks and photographs, and blends that say otherwise how far their networks agree on what they know:
    between any two photographs, nowhere, and not at all."""
    images, root = tmp_path / "in", tmp_path / "runs" / "studio"
    for k in range(3):
        write_photograph(images / f"{k}.jpg", 50 + 7 * k, 80, seed=k)
    members = [save_member(root, UNET), save_member(root, SMALL)]
    save_blend(root, members, [0.7, 0.3])
    call(root.parent, images, tmp_path / "none")
    assert "was not measured" in capsys.readouterr().out
    figures = sorted(told.agreement or 0.0 for told in read_told(tmp_path / "none").values())
    assert len(set(figures)) == 3
    write_page(images, tmp_path / "none")
    assert "was not measured" in (tmp_path / "none" / PAGE_FILE).read_text()
    for limit, below in ((0.0, 0), (figures[0] - 1e-4, 0), (figures[1] - 1e-4, 1), (figures[2] + 1e-4, 3)):
        save_blend(root, members, [0.7, 0.3], agreement={**MEASURED, "limit": limit})
        out = tmp_path / f"{limit}"
        call(root.parent, images, out)
        said = capsys.readouterr().out
        assert sum(told.below for told in read_told(out).values()) == below
        assert (f"warning: on {below} of 3" in said) == (below > 0)
        assert ("tells nothing" in said.replace("\n", " ")) == (limit == 0)
        write_page(images, out)
        page = (out / PAGE_FILE).read_text()
        assert (f"{limit:.4f}" in page) == (limit > 0)
    # the masks of before, and another limit since: the rows say what holds now
    save_blend(root, members, [0.7, 0.3], agreement={**MEASURED, "limit": 0.0})
    call(root.parent, images, out)
    assert not any(told.below for told in read_told(out).values())


def test_one_network_alone_has_nobody_to_agree_with(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "in", tmp_path / "out"
    write_photograph(images / "a.jpg", 50, 80)
    call(runs, images, out, variant="tiny-alone")
    assert "not known, as one network alone" in capsys.readouterr().out
    assert read_told(out)["a.jpg"].agreement is None
    write_page(images, out)
    assert "one network alone" in (out / PAGE_FILE).read_text()
    with pytest.raises(SystemExit, match="names none of the photographs"):
        write_photograph(tmp_path / "other" / "b.jpg", 50, 80)
        write_page(tmp_path / "other", out)


def test_the_benchmark_tells_odd_pictures_by_predicts_own_figure(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = list(islice(out_of_depth.pictures(1, 7), 4))
    assert [kind for kind, *_ in shown] == ["ordinary", "other background", "turned by 90 degrees", "part of a car"]
    assert all(image.shape == (*truth.shape, 3) for _, image, truth in shown)
    blend = find_blend(runs / "studio", "blend")
    cv2.imwrite(str(tmp_path / "a.png"), shown[0][1])
    photograph = load(tmp_path / "a.png", blend.frames)
    (result,) = network_logits(ReplicaPool(blend.members, 1), [(Place("a", 0, 1), photograph)], polled=True)
    found = out_of_depth.figures(result)
    assert result.poll is not None and found["agreement"] == result.poll.agreement
    assert 0 <= found["certainty"] <= 1
    sure = replace(result, planes=[plane * 1000 for plane in result.planes])
    assert out_of_depth.figures(sure)["certainty"] > found["certainty"]
    with pytest.raises(ValueError, match="nobody to agree with"):
        out_of_depth.figures(replace(result, poll=None))
    monkeypatch.setattr(out_of_depth, "pictures", lambda cars, seed: iter(shown))
    out_of_depth.main(competition="studio", runs=runs, cars=1, seed=7)
    said = capsys.readouterr().out
    for words in ("ordinary", "all that are odd", "rank correlation with Dice", f"warns below {LIMIT:.4f}"):
        assert words in said
