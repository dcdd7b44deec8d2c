"""Pseudo-labels: which images are chosen, what a fold may learn from, and what becomes of a set that was changed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from command_line import UserError
from competition import COMPETITIONS
from ensemble import fit, rounds
from ensemble.blend import Blend
from ensemble.pseudo_choice import Expectation, label, measures
from ensemble.stored_masks import StoredMasks
from folds.images import find_training_set, image_digest
from folds.pseudo_set import ALL_FOLDS, PseudoSet
from folds.soft_targets import extra_rows
from folds.store import LogitStore
from folds.train import main as train
from folds.verdict import rounds_of, why_left_out
from models import checkpoint
from models.frame import Frame
from report import pseudo
from tests import naive
from tests.conftest import CARS, ellipse, write_ellipses
from tests.killed_folds import tiny_flags
from tests.synthetic_runs import forget_logits_digests
from tests.tiny_folds import TINY

CARVANA = COMPETITIONS["carvana"]
MEMBERS = ("average-mask", "unet-mobilenetv3")
# by how many pixels of a network each test image's label is off, and so is each training image's
TEST = {f"{0xA0 + i:012x}_01.jpg": off for i, off in enumerate((0, 0, 0, 15, 18, 21))}
SEEDS = {name: 700 + i for i, name in enumerate(TEST)}


def truth_of(name: str) -> np.ndarray:
    if name in SEEDS:
        return ellipse(SEEDS[name])
    car, view = name.removesuffix(".jpg").split("_")
    return ellipse(10 * CARS.index(car) + int(view) - 1)


def labels_of(name: str, off: int, which: int, shape: tuple[int, int]) -> np.ndarray:
    """Logits (1, h, w) of the truth, moved by `off` pixels, to another side by each member, and as much less sure."""
    small = cv2.resize(truth_of(name).astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    moved = np.roll(small, off if which else -off, axis=1)
    blurred = cv2.GaussianBlur(moved, (0, 0), 0.5 + off / 5)
    return np.asarray(12 * blurred - 6, np.float32)[None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A competition folder with test images, and a runs folder of two members and their blend."""
    base = tmp_path_factory.mktemp("pseudo")
    data, runs = write_ellipses(base / "data"), base / "runs"
    (data / "test").mkdir()
    for name in TEST:
        image = np.where(truth_of(name)[..., None], np.uint8(60), np.uint8(200)) + np.arange(3, dtype=np.uint8) * 10
        cv2.imwrite(str(data / "test" / name), image)
    train("carvana", MEMBERS[0], data=data, runs=runs, folds=3, jobs=1)
    root = runs / "carvana"
    shutil.copytree(root / MEMBERS[0], root / MEMBERS[1])
    for file in (
        *(root / MEMBERS[1]).glob("fold*/manifest.json"),
        *(root / MEMBERS[1]).glob(f"fold*/{checkpoint.VARIANT_FILE}"),
    ):
        content = json.loads(file.read_text())
        (content["variant"] if file.name == "manifest.json" else content)["name"] = MEMBERS[1]
        file.write_text(json.dumps(content))
    forget_logits_digests(root)
    for which, member in enumerate(MEMBERS):
        store = LogitStore.open(root / member / "oof.zarr")
        for position, name in enumerate(store.names):
            store.write(name, labels_of(name, 2 * position, which, store.shape[1:]))
    fit.main(data=data, runs=runs, jobs=1, repairs="off", blend="equal-mean", table=False)
    # predicted once, for the store; then replaced by logits whose worth is known
    pseudo.main(data=data, runs=runs, jobs=1, least=0.0, out="first")
    for which, member in enumerate(MEMBERS):
        store = LogitStore.open(root / member / "test.zarr")
        for name, off in TEST.items():
            store.write(name, labels_of(name, off, which, store.shape[1:]))
    return data, runs


def test_images_on_which_networks_agree_are_taken_and_no_others(
    made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, runs = made
    pseudo.main(data=data, runs=runs, jobs=1)
    printed = capsys.readouterr()
    assert "\r" not in printed.out + printed.err
    home = runs / "carvana" / "blend" / "pseudo"
    table = pd.read_csv(home / "pseudo.csv").set_index("image")
    assert list(table.index[table["taken"] > 0]) == [name for name, off in TEST.items() if off == 0]
    record = json.loads((home / "pseudo.json").read_text())
    blend = json.loads((runs / "carvana" / "blend" / "blend.json").read_text())
    assert record["least"] == blend["cv"]["dice"]
    assert (record["taken"], record["considered"], record["labels"]) == (3, 6, "blend")
    # what is expected is what out-of-fold images of that certainty scored, so it lies between the worst and the best
    scores = pd.read_csv(runs / "carvana" / "blend" / "oof_dice.csv")["nested"]
    assert table["expected"].between(scores.min(), scores.max()).all()
    assert table["expected"].is_monotonic_decreasing
    page = (home / "pseudo.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    assert all(part in page for part in (record["digest"], "By view", "By area"))
    assert not (home / "parts").exists()


def test_a_set_made_again_has_the_same_bytes_and_another_choice_is_refused(made: tuple[Path, Path]) -> None:
    data, runs = made
    pseudo.main(data=data, runs=runs, jobs=1, out="again")
    home = runs / "carvana" / "blend" / "again"

    def content() -> dict[str, bytes]:
        return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}

    before = content()
    pseudo.main(data=data, runs=runs, jobs=1, out="again")
    assert content() == before
    with pytest.raises(SystemExit, match="holds another choice"):
        pseudo.main(data=data, runs=runs, jobs=1, out="again", most=2)
    assert content() == before
    with pytest.raises(SystemExit, match="lower --least"):
        pseudo.main(data=data, runs=runs, jobs=1, out="none", least=1.0)


def test_a_set_whose_labels_or_table_changed_is_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    data, runs = made
    root = shutil.copytree(runs / "carvana", tmp_path / "carvana")
    pseudo.main(data=data, runs=tmp_path, jobs=1, out="changed")
    home = root / "blend" / "changed"
    found = PseudoSet.read(home, CARVANA)
    name = found.taken[ALL_FOLDS][0]
    labels = found.labels(ALL_FOLDS)
    was = labels.store.head(name)
    labels.write(name, -was)
    with pytest.raises(UserError, match="are not those that were chosen"):
        PseudoSet.read(home, CARVANA)
    labels.write(name, was)
    assert PseudoSet.read(home, CARVANA).taken == found.taken
    # they are the set's own: what the members store later changes nothing
    store = LogitStore.open(root / MEMBERS[0] / "test.zarr")
    store.write(name, -store.read(name))
    assert PseudoSet.read(home, CARVANA).taken == found.taken
    shutil.rmtree(labels.store.path)
    with pytest.raises(UserError, match=r"labels.zarr is missing: choose the images again"):
        PseudoSet.read(home, CARVANA)
    store.write(name, -store.read(name))
    pseudo.main(data=data, runs=tmp_path, jobs=1, out="changed")
    assert np.array_equal(PseudoSet.read(home, CARVANA).labels(ALL_FOLDS).store.head(name), was)
    table = pd.read_csv(home / "pseudo.csv")
    table.assign(taken=1).to_csv(home / "pseudo.csv", index=False)
    with pytest.raises(UserError, match="are not those that were chosen"):
        PseudoSet.read(home, CARVANA)


def test_labels_of_a_folds_own_networks_know_nothing_of_the_others(made: tuple[Path, Path], tmp_path: Path) -> None:
    """The rule: what fold k learns from is made by the networks that did not see what it holds out."""
    data, runs = made
    root = shutil.copytree(runs / "carvana", tmp_path / "carvana")
    pseudo.main(data=data, runs=tmp_path, jobs=1, own_fold=True, least=0.0, out="own")
    found = PseudoSet.read(root / "blend" / "own", CARVANA)
    assert sorted(found.taken) == [0, 1, 2]
    frame, name = Frame((31, 47)), next(iter(TEST))
    before = [found.labels(k).target(name, frame) for k in range(3)]
    for other in (1, 2):
        store = LogitStore.open(root / MEMBERS[0] / f"fold{other}" / "test.zarr")
        store.write(name, -store.read(name))
    pseudo.main(data=data, runs=tmp_path, jobs=1, own_fold=True, least=0.0, out="anew")
    again = PseudoSet.read(root / "blend" / "anew", CARVANA)
    after = [again.labels(k).target(name, frame) for k in range(3)]
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])
    # the blend's labels are made by all folds' networks, and so by those that saw what a fold holds out
    assert found.record["labels"] == "own-fold"


def test_a_students_labels_are_out_of_fold_and_training_images_are_no_unlabelled_ones(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    data, runs = made
    pseudo.main(data=data, runs=runs, jobs=1, distil=True)
    found = PseudoSet.read(runs / "carvana" / "blend" / "distilled", CARVANA)
    split = pd.read_csv(runs / "carvana" / "folds.csv").set_index("image")["fold"]
    assert {name: fold for fold, names in found.taken.items() for name in names} == split.to_dict()
    # a folder with a training image under another name, another view of a training car, and one that is new
    outside = tmp_path / "outside"
    outside.mkdir()
    copy, view, new = "bbbbbbbbbbbb_01.jpg", f"{CARS[0]}_16.jpg", "cccccccccccc_01.jpg"
    shutil.copy(data / "train" / f"{CARS[1]}_01.jpg", outside / copy)
    shutil.copy(data / "test" / next(iter(TEST)), outside / view)
    shutil.copy(data / "test" / list(TEST)[1], outside / new)
    pseudo.main(data=data, runs=runs, jobs=1, images=outside, least=0.0, out="outside")
    assert PseudoSet.read(runs / "carvana" / "blend" / "outside", CARVANA).taken == {ALL_FOLDS: (new,)}
    with pytest.raises(SystemExit, match="--distil labels the training images"):
        pseudo.main(data=data, runs=runs, images=outside, distil=True)


def test_measures_and_targets_are_those_of_the_blend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    full, frames = (25, 37), (Frame((25, 37)), Frame((13, 19)))
    planes = [rng.normal(scale=3, size=frame.size).astype(np.float32) for frame in frames]
    stores = []
    for k, (frame, plane) in enumerate(zip(frames, planes, strict=True)):
        store = LogitStore.create(tmp_path / f"{k}.zarr", ["a"], (1, *frame.size))
        store.write("a", plane[None])
        stores.append(store)
    blend = Blend((), (0.25, 0.75), threshold=0.5, frames=frames)
    reader = StoredMasks(blend, stores, full, tmp_path)
    each = [stores[0].read("a")[0] - 0.5, naive.bilinear(stores[1].read("a")[0], full) - 0.5]
    mean = 0.25 * each[0] + 0.75 * each[1]
    agreement, stability, confidence, area = measures(reader, "a")
    shares = [naive.dice(plane > 0, mean > 0) for plane in each]
    assert agreement == pytest.approx(0.25 * shares[0] + 0.75 * shares[1], abs=1e-6)
    assert stability == pytest.approx(naive.dice(mean > 1, mean > -1), abs=1e-6)
    probability = 1 / (1 + np.exp(-mean))
    inside = probability[mean > 0].sum()
    assert confidence == pytest.approx(2 * inside / (probability.sum() + (mean > 0).sum()), abs=1e-5)
    assert area == pytest.approx((mean > 0).mean())
    # it has no members to name
    monkeypatch.setattr(Blend, "state", lambda self: {})
    made = label(reader, ["a"], tmp_path / "parts")
    assert np.abs(made.target("a", Frame(full)) - 255 * probability).max() <= 1
    assert np.array_equal(made.soft("a") > 127, reader.mask("a", reader.planes("a")))


def test_what_is_expected_of_an_image_is_learned_without_its_fold() -> None:
    rng = np.random.default_rng(0)
    fold, certainty = np.repeat([0, 1, 2], 40), rng.random(120)
    scores = 0.5 + 0.4 * certainty
    found = Expectation.of(certainty, scores, fold, np.arange(120))
    assert np.abs(found.nested - scores).mean() < 0.02
    wrong = np.where(fold == 1, 0.0, scores)
    other = Expectation.of(certainty, wrong, fold, np.arange(120))
    assert np.array_equal(other.nested[fold == 1], found.nested[fold == 1])
    assert np.array_equal(other.at(certainty, without=1), found.at(certainty, without=1))
    assert not np.array_equal(other.at(certainty), found.at(certainty))


def _wrong_labels(root: Path) -> None:
    """Give every test image the logits of another one, by all members alike."""
    for member in MEMBERS:
        store = LogitStore.open(root / member / "test.zarr")
        logits = [store.read(name) for name in store.names]
        for position, name in enumerate(store.names):
            store.write(name, -logits[(position + 1) % len(logits)])


def test_labels_of_other_images_are_noticed_and_their_round_is_not_kept(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, runs = made
    root = shutil.copytree(runs / "carvana", tmp_path / "carvana")
    flags = {**tiny_flags(monkeypatch), "fold": "all", "data": data, "runs": tmp_path, "jobs": 1, "epochs": 1}
    train("carvana", **{**flags, "epochs": 8})
    _wrong_labels(root)
    pseudo.main(data=data, runs=tmp_path, jobs=1, out="wrong")
    chosen = root / "blend" / "wrong"
    start = str(root / "tiny")
    with pytest.raises(SystemExit, match="give --tag"):
        train("carvana", **flags, pseudo=chosen)
    train("carvana", **flags, pseudo=chosen, pseudo_share=0.5, init_from=start, tag="wrong", pseudo_weight=2.0)
    capsys.readouterr()
    rounds.main(data=data, runs=tmp_path, jobs=1)
    printed = capsys.readouterr().out
    assert "not kept, as its interval is not above 0" in printed
    verdict = json.loads((root / "tiny-wrong" / "round.json").read_text())
    assert not verdict["kept"]
    assert (verdict["before"], verdict["optimistic"]) == ("tiny", True)
    assert verdict["gain"] < -0.05
    # the manifest says what was trained on, and nothing of it was held out
    manifest = json.loads((root / "tiny-wrong" / "fold0" / "manifest.json").read_text())
    digest = json.loads((chosen / "pseudo.json").read_text())["digest"]
    assert manifest["rounds"][0]["digest"] == manifest["recipe"]["pseudo"] == digest
    assert manifest["images"] == {"train": 8, "held_out": 4}
    assert [each["name"] for each in manifest["rounds"][0]["teachers"]] == list(MEMBERS)
    # a blend of all that is there leaves the round out, and says so; so it does with one that was not judged
    assert "left out: tiny-wrong" in _fitted_of_all(data, tmp_path, capsys)
    (root / "tiny-wrong" / "round.json").unlink()
    assert "was not judged (make verdict)" in _fitted_of_all(data, tmp_path, capsys)
    # a round on a round tells of both, and so does whatever starts from one
    train("carvana", **{**flags, "fold": "0", "epochs": 2}, init_from=str(root / "tiny-wrong"), tag="after")
    assert rounds_of(root / "tiny-after") == manifest["rounds"]
    # the same fold with another set is refused, finished or begun
    pseudo.main(data=data, runs=tmp_path, jobs=1, out="other", most=1)
    other = {**flags, "pseudo": root / "blend" / "other", "pseudo_share": 0.5, "init_from": start, "tag": "wrong"}
    with pytest.raises(SystemExit, match="another recipe"):
        train("carvana", **other, pseudo_weight=2.0)
    (root / "tiny-wrong" / "fold0" / "manifest.json").unlink()
    (root / "tiny-wrong" / "fold0" / "resume").mkdir(exist_ok=True)
    (root / "tiny-wrong" / "fold0" / "resume" / "last.ckpt").write_bytes(b"x")
    with pytest.raises(SystemExit, match="begun with other pseudo-labels"):
        train("carvana", **other, pseudo_weight=2.0)


def _fitted_of_all(data: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> str:
    fit.main(data=data, runs=runs, jobs=1, repairs="off", blend="equal-mean", name="all", table=False)
    assert "tiny-wrong" not in json.loads((runs / "carvana" / "all" / "blend.json").read_text())["member_cv"]
    return capsys.readouterr().out


def test_a_round_is_kept_only_where_its_whole_interval_is_above_0(made: tuple[Path, Path], tmp_path: Path) -> None:
    """The second member's logits are made a little better, or much better for some images and worse for others."""
    data, runs = made
    training = find_training_set(CARVANA, data)
    for better, kept in ((lambda position: 1, True), (lambda position: -2 if position % 5 else 9, False)):
        root = shutil.copytree(runs / "carvana", tmp_path / str(kept) / "carvana")
        store = LogitStore.open(root / MEMBERS[1] / "oof.zarr")
        for position, name in enumerate(store.names):
            off = max(0, 2 * position + 4 - better(position))
            LogitStore.open(root / MEMBERS[0] / "oof.zarr").write(
                name, labels_of(name, 2 * position + 4, 0, store.shape[1:])
            )
            store.write(name, labels_of(name, off, 0, store.shape[1:]))
        for path in (root / MEMBERS[1]).glob("fold*/manifest.json"):
            told = {"rounds": [{"run": MEMBERS[1], "labels": "own-fold", "digest": "0" * 16}]}
            path.write_text(json.dumps({**json.loads(path.read_text()), **told}))
        verdict = rounds.judge(root, root / MEMBERS[1], MEMBERS[0], training, jobs=1)
        assert (verdict["kept"], verdict["optimistic"]) == (kept, False)
        assert (why_left_out(root / MEMBERS[1]) == "") == kept


@pytest.mark.parametrize(("kind", "wanted"), [("pseudo", [-1]), ("own", [0]), ("distilled", [1, 2])])
def test_a_fold_learns_from_what_it_may_and_validates_on_none_of_it(
    made: tuple[Path, Path], tmp_path: Path, kind: str, wanted: list[int]
) -> None:
    """The rule of leaks, as `folds.pseudo_set` states it."""
    data, runs = made
    root = shutil.copytree(runs / "carvana", tmp_path / "carvana")
    home = root / "blend" / kind
    if not home.exists():
        pseudo.main(
            data=data, runs=tmp_path, jobs=1, own_fold=kind == "own", distil=kind == "distilled", least=0.0, out=kind
        )
    found, training = PseudoSet.read(home, CARVANA), find_training_set(CARVANA, data)
    rows = extra_rows(found, 0, TINY, 0.25, training, root / "cache")
    assert rows.names == tuple(name for maker in wanted for name in found.taken[maker])
    held_out = set(pd.read_csv(root / "folds.csv").query("fold == 0")["image"])
    assert held_out.isdisjoint(rows.names)
    frame = Frame(TINY.size)
    for position, name in enumerate(rows.names):
        maker = next(maker for maker in wanted if name in found.taken[maker])
        assert np.array_equal(rows.inputs.target(position), found.labels(maker).target(name, frame))
        folder = data / ("train" if kind == "distilled" else "test")
        assert np.array_equal(rows.inputs.image(position), frame.load(folder / name)[0])
    assert [rows.in_batch(batch) for batch in (2, 3, 8, 16)] == [1, 1, 2, 4]


def test_an_image_that_is_left_out_does_not_come_back_with_another_label(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, runs = made
    root = shutil.copytree(runs / "carvana", tmp_path / "carvana")
    pseudo.main(data=data, runs=tmp_path, jobs=1, distil=True, least=0.0, out="student")
    found, training = PseudoSet.read(root / "blend" / "student", CARVANA), find_training_set(CARVANA, data)
    # of fold 1 one, of fold 2 all
    gone = [found.taken[1][1], *found.taken[2]]
    listed = tmp_path / "gone.csv"
    pd.DataFrame({"image": gone}).to_csv(listed, index=False)
    flags = {**tiny_flags(monkeypatch), "fold": "0", "data": data, "runs": tmp_path, "jobs": 1, "epochs": 1}
    train("carvana", **flags, pseudo=root / "blend" / "student", tag="student", leave_out=listed)
    rows = tuple(name for name in found.taken[1] if name not in gone)
    manifest = json.loads((root / "tiny-student" / "fold0" / "manifest.json").read_text())
    assert manifest["rounds"][0]["images"] == manifest["images"]["train"] == len(rows)
    picked = extra_rows(found, 0, TINY, 0.25, training, root / "cache", gone)
    assert picked.names == rows
    for position, name in enumerate(rows):
        assert np.array_equal(picked.inputs.target(position), found.labels(1).target(name, Frame(TINY.size)))
    with pytest.raises(UserError, match="no labels for fold 0 but of images left out"):
        extra_rows(found, 0, TINY, 0.25, training, root / "cache", training.names)
    # nor under another name, in a folder of others that was chosen when it was no training image
    outside = tmp_path / "outside"
    outside.mkdir()
    for number, name in enumerate(TEST):
        shutil.copy(data / "test" / name, outside / f"{number:012x}_01.jpg")
    pseudo.main(data=data, runs=tmp_path, jobs=1, images=outside, least=0.0, out="others")
    others = PseudoSet.read(root / "blend" / "others", CARVANA)
    same = image_digest((outside / others.taken[ALL_FOLDS][0]).read_bytes())
    digests = dict(zip(training.names, training.image_digests, strict=True)) | {gone[0]: same}
    later = replace(training, image_digests=tuple(digests.values()))
    after = extra_rows(others, 0, TINY, 0.25, later, root / "cache", gone)
    assert after.names == others.taken[ALL_FOLDS][1:]


def test_an_image_that_was_replaced_since_it_was_labelled_is_not_learned_from(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    data, root = shutil.copytree(made[0], tmp_path / "data"), shutil.copytree(made[1] / "carvana", tmp_path / "carvana")
    pseudo.main(data=data, runs=tmp_path, jobs=1, out="replaced")
    found = PseudoSet.read(root / "blend" / "replaced", CARVANA)
    training = find_training_set(CARVANA, data)
    rows = extra_rows(found, 0, TINY, 0.25, training, root / "cache")
    name = found.taken[ALL_FOLDS][1]
    labelled = (data / "test" / name).read_bytes()
    # by an image that some fold holds out
    shutil.copy(training.image_path(training.names[0]), data / "test" / name)
    with pytest.raises(UserError, match=rf"{name} is not the image that was labelled \(1 of 3 images"):
        extra_rows(found, 0, TINY, 0.25, training, root / "cache")
    (data / "test" / name).write_bytes(labelled)
    assert extra_rows(found, 0, TINY, 0.25, training, root / "cache").names == rows.names
    # chosen anew, it is known for what it is, whatever its name says
    shutil.copy(training.image_path(training.names[0]), data / "test" / name)
    pseudo.main(data=data, runs=tmp_path, jobs=1, out="anew", least=0.0)
    assert set(PseudoSet.read(root / "blend" / "anew", CARVANA).taken[ALL_FOLDS]) == set(TEST) - {name}
