from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from ensemble.blend import find_blend
from ensemble.photographs import main as mask_photographs
from folds.logit_code import rounded
from models.frame import frame_of
from models.image_file import decode
from predict.blocks import Place
from predict.photographs import load, network_logits
from predict.replicas import ReplicaPool
from tests.conftest import png_header
from tests.synthetic_runs import AVERAGE, UNET, save_blend, save_member, save_pixels, write_photograph

PADS = replace(UNET, name="tiny-pads", fit="pad", size=(64, 64))
UNET_FRAME, PADS_FRAME = frame_of(UNET), frame_of(PADS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "studio"
    members = [save_member(root, AVERAGE), save_member(root, UNET)]
    save_blend(root, members, [0.7, 0.3], threshold=0.1)
    save_member(root, PADS)
    return root.parent


def call(runs: Path, images: Path, out: Path, **options: Any) -> None:
    mask_photographs(images=images, out=out, competition="studio", runs=runs, **options)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Larger and smaller than the networks, tall, tiny, grey, with a palette, with alpha, turned by EXIF."""
    folder = tmp_path / "photographs"
    for k, (name, height, width) in enumerate(
        (("large.jpg", 300, 411), ("small.png", 20, 31), ("tall.webp", 200, 90), ("one.png", 1, 1))
    ):
        write_photograph(folder / name, height, width, seed=k)
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "grey.jpg"), rng.integers(0, 255, (70, 50), np.uint8))
    Image.fromarray(rng.integers(0, 255, (33, 34), np.uint8)).convert("P").save(folder / "palette.tif")
    cv2.imwrite(str(folder / "alpha.png"), rng.integers(0, 255, (40, 45, 4), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(folder / "large.jpg")).save(folder / "turned.JPEG", exif=exif)
    return folder


SIZES = {
    "large": (300, 411),
    "small": (20, 31),
    "tall": (200, 90),
    "one": (1, 1),
    "grey": (70, 50),
    "palette": (33, 34),
    "alpha": (40, 45),
    "turned": (411, 300),
}


def test_boosted_pixels_see_photographs_of_every_size_whole(photographs: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs" / "studio"
    members = [save_member(root, UNET), save_member(root, PADS)]
    boosted = save_pixels(root, members, (64, 96))
    out = tmp_path / "out"
    call(root.parent, photographs, out)
    pool = ReplicaPool(members)
    for name in ("large.jpg", "small.png"):
        photograph = load(photographs / name, [UNET_FRAME, PADS_FRAME])
        with pool.running():
            (logits,) = network_logits(pool, [(Place(name, 0, 1), photograph)])
        planes = [rounded(plane) for plane in logits.planes]
        full = boosted(planes, logits.frames, [], photograph.size, decode(photographs / name))
        np.testing.assert_array_equal(pixels(out / f"{Path(name).stem}_mask.png") > 0, full > 0)


@pytest.mark.parametrize("variant", ["", "tiny-pads"])
def test_any_photograph_gets_a_mask_and_a_cut_out_of_its_own_size(
    runs: Path, photographs: Path, tmp_path: Path, variant: str
) -> None:
    out = tmp_path / "out"
    call(runs, photographs, out, variant=variant, cutout=True)
    assert {p.name for p in out.iterdir() if p.suffix == ".png"} == {
        f"{stem}_{what}.png" for stem in SIZES for what in ("mask", "cutout")
    }
    for stem, size in SIZES.items():
        found, cut = pixels(out / f"{stem}_mask.png"), pixels(out / f"{stem}_cutout.png")
        assert found.shape == size
        assert set(np.unique(found)) <= {0, 255}
        assert cut.shape == (*size, 4)
        photograph = next(photographs.glob(f"{stem}.*"))
        np.testing.assert_array_equal(cut[..., :3], decode(photograph))
        # alpha 128 is a logit just above 0
        assert (found[cut[..., 3] > 128] == 255).all()
        assert (found[cut[..., 3] < 127] == 0).all()
    if not variant:
        assert 0.05 < (pixels(out / "large_mask.png") > 0).mean() < 0.95
        assert len(np.unique(pixels(out / "large_cutout.png")[..., 3])) > 20


def test_the_mask_is_the_weighted_sum_of_the_members_at_the_photographs_size(runs: Path, tmp_path: Path) -> None:
    write_photograph(tmp_path / "in" / "a.jpg", 300, 411)
    call(runs, tmp_path / "in", tmp_path / "out")
    blend = find_blend(runs / "studio", "blend")
    total = np.full((300, 411), -0.1, np.float32)
    with ReplicaPool(blend.members).take() as predictors:
        for predictor, weight in zip(predictors, (0.7, 0.3), strict=True):
            image, size = predictor.frame.load(tmp_path / "in" / "a.jpg")
            total += np.float32(weight) * predictor.frame.invert(predictor.logits(image[None])[0, 0], size)
    sure = np.abs(total) > 1e-4
    assert sure.mean() > 0.99
    assert ((pixels(tmp_path / "out" / "a_mask.png") > 0) == (total > 0))[sure].all()


def test_it_goes_on_where_it_was_stopped_and_finishes_what_can_be_read(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for k in range(5):
        write_photograph(folder / f"{k}.jpg", 80, 120, seed=k)
    whole = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(whole[:-300])
    (folder / "3.png").write_bytes(b"no picture")
    (folder / "3.jpg").unlink()
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden").write_text("passed over")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(SystemExit, match="3 of 6 images could not be read"):
        call(runs, folder, out)
    printed = capsys.readouterr().out
    for words in (
        "1.jpg is cut off",
        "3.png is not an image",
        "'notes.txt' is no photograph",
        "gone.jpg does not exist",
    ):
        assert words in printed
    assert ".hidden" not in printed
    assert {p.name for p in out.glob("*.png")} == {"0_mask.png", "2_mask.png", "4_mask.png"}

    (folder / "1.jpg").write_bytes(whole)
    (folder / "3.png").unlink()
    (folder / "notes.txt").unlink()
    (folder / "gone.jpg").unlink()
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}
    call(runs, folder, out)
    after = {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"1_mask.png"}
    # a cut-out of a photograph that has its mask already is made too
    call(runs, folder, out, cutout=True)
    assert len(list(out.glob("*_cutout.png"))) == 4


def test_one_bad_photograph_never_ends_the_work_on_the_others(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for k in range(3):
        write_photograph(folder / f"{k}.jpg", 80, 120, seed=k)
    longest = "n" * 250 + ".jpg"
    (folder / "0.jpg").rename(folder / longest)
    (folder / "huge.png").write_bytes(png_header(70_000, 70_000))
    (folder / "\x1b[2Jname.jpg").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match="3 of 5 images could not be read"):
        call(runs, folder, out, cutout=True)
    printed = capsys.readouterr().out
    for words in (f"{longest} has a name too long", "huge.png cannot be decoded", "its name holds a control character"):
        assert words in printed, printed
    assert "\x1b" not in printed and "Traceback" not in printed
    made = {f"{k}_{what}.png" for k in (1, 2) for what in ("mask", "cutout")}
    assert {p.name for p in out.glob("*.png")} == made
    # what the messages say to do
    (folder / longest).rename(folder / ("n" * 240 + ".jpg"))
    (folder / "huge.png").unlink()
    (folder / "\x1b[2Jname.jpg").unlink()
    call(runs, folder, out, cutout=True)
    assert {p.name for p in out.glob("*.png")} == made | {"n" * 240 + f"_{what}.png" for what in ("mask", "cutout")}


def test_one_file_is_enough(runs: Path, tmp_path: Path) -> None:
    write_photograph(tmp_path / "a.jpg", 80, 120)
    write_photograph(tmp_path / "b.jpg", 80, 120)
    call(runs, tmp_path / "a.jpg", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").glob("*.png")] == ["a_mask.png"]


def test_what_cannot_be_meant_is_refused(runs: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for arguments, sentence in (
        ((runs, folder, out), "in is missing"),
        ((tmp_path, folder, out), r"blend\.json is missing"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            call(*arguments)
    write_photograph(folder / "a.jpg", 80, 120)
    with pytest.raises(
        SystemExit,
        match=r"unet-xyz. is no variant \(trained there: tiny-average, tiny-pads, tiny-unet",
    ):
        call(runs, folder, out, variant="unet-xyz")
    with pytest.raises(SystemExit, match="choose another folder"):
        call(runs, folder, folder)
    call(runs, folder, out)
    with pytest.raises(SystemExit, match="masks of another blend or variant"):
        call(runs, folder, out, variant="tiny-unet")
    (out / "made_with.json").write_text("{")
    with pytest.raises(SystemExit, match=r"made_with\.json is damaged .*: choose another folder"):
        call(runs, folder, out)
    write_photograph(folder / "a.png", 80, 120)
    with pytest.raises(SystemExit, match=r"holds both a\.jpg and a\.png"):
        call(runs, folder, tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="holds no photograph"):
        call(runs, tmp_path / "empty", out)


def test_a_blend_that_votes_masks_photographs_by_its_vote(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "studio"
    members = [save_member(root, AVERAGE), save_member(root, UNET)]
    write_photograph(tmp_path / "in" / "a.jpg", 120, 170)
    for variant in (AVERAGE, UNET):
        call(root.parent, tmp_path / "in", tmp_path / variant.name, variant=variant.name)
    one, other = (pixels(tmp_path / v.name / "a_mask.png") for v in (AVERAGE, UNET))
    assert (one != other).any()
    save_blend(root, members, [0.5, 0.5], vote="majority")
    call(root.parent, tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "a_mask.png"), np.minimum(one, other))
    # masks of another vote are not mixed with these
    save_blend(root, members, [0.5, 0.5])
    with pytest.raises(SystemExit, match="masks of another blend"):
        call(root.parent, tmp_path / "in", tmp_path / "out")
