"""Starting from another run's weights: what is loaded, what is refused, and that it is part of what a run is."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from huggingface_hub import constants

from command_line import UserError
from competition import COMPETITIONS
from folds import split
from folds.fold import run_fold
from folds.images import find_training_set
from folds.module import SegmentationModule
from folds.recipes import RECIPES
from folds.run_layout import SEEN_FILE
from folds.seen import Seen
from folds.start import Start, find_start, load_start
from folds.task import FoldTask, read_manifest
from folds.train import main
from models import checkpoint
from models.build import build
from models.variants import VARIANTS
from tests.conftest import CARS, ellipse, read_picture, write_ellipses, write_mask
from tests.tiny_folds import QUICK, TINY, maker

# steps that move no weight by more than a rounding
STILL = 1e-12


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    monkeypatch.setitem(VARIANTS, "larger", replace(TINY, name="larger", size=(64, 96)))
    monkeypatch.setitem(VARIANTS, "wider", replace(TINY, name="wider", options={"widths": (4, 16)}))
    monkeypatch.setitem(RECIPES, TINY.recipe, QUICK)


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and with runs: both folds of the tiny network. To be copied."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        train(folder / "runs", write_ellipses(folder / "data"), variant="tiny")
    return folder


@pytest.fixture
def ellipses(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished / "data", tmp_path / "data")


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished / "runs", tmp_path / "runs")


def train(runs: Path, data: Path, **arguments: Any) -> None:
    if "init_from" in arguments:
        arguments["init_from"] = str(arguments["init_from"])
    main(**{"data": data, "runs": runs, "folds": 2, "epochs": 1, "jobs": 1, **arguments})


def refusal(runs: Path, data: Path, **arguments: Any) -> str:
    with pytest.raises(SystemExit) as caught:
        train(runs, data, **arguments)
    return str(caught.value.code)


def kernels(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that only an optimiser changes."""
    state = safetensors.torch.load_file(folder / checkpoint.WEIGHTS_FILE)
    return {name: tensor for name, tensor in state.items() if tensor.ndim == 4}


def alike(first: Path, second: Path) -> bool:
    expected = kernels(second)
    return all(torch.allclose(tensor, expected[name], atol=1e-6) for name, tensor in kernels(first).items())


def test_every_fold_of_a_larger_network_goes_on_from_its_own(
    runs: Path, ellipses: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, larger = runs / "carvana" / "tiny", runs / "carvana" / "larger"
    higher = {"variant": "larger,average-mask", "init_from": source, "learning_rate": STILL}
    train(runs, ellipses, **higher)
    for fold in (0, 1):
        assert alike(larger / f"fold{fold}", source / f"fold{fold}")
        assert not alike(larger / f"fold{fold}", source / f"fold{1 - fold}")
        manifest = read_manifest(larger / f"fold{fold}")
        assert manifest is not None
        assert manifest["recipe"]["init_from"].startswith(f"tiny fold {fold} ")
    # what a run starts from is part of what it is
    assert "another recipe" in refusal(runs, ellipses, **{**higher, "init_from": ""})
    capsys.readouterr()
    shutil.rmtree(source)
    train(runs, ellipses, **higher)
    assert capsys.readouterr().out.count("is finished") == 4
    assert f"{source / 'fold0'} has no manifest.json" in refusal(runs, ellipses, variant="wider", init_from=source)


def test_weights_that_saw_what_a_fold_holds_out_are_refused(runs: Path, ellipses: Path, tmp_path: Path) -> None:
    fold0 = runs / "carvana" / "tiny" / "fold0"
    table = split.read(runs / "carvana" / "folds.csv", find_training_set(COMPETITIONS["carvana"], ellipses))
    said = refusal(runs, ellipses, variant="larger", fold="1", init_from=fold0)
    assert f"{fold0} was trained on {table['image'][table['fold'] == 1].iloc[0]}" in said
    assert "which fold 1 holds out (6 of 6 images)" in said
    train(runs, ellipses, variant="larger", fold="0", init_from=fold0)
    # of another split of the same images, every fold has seen some
    said = refusal(tmp_path / "others", ellipses, variant="larger", split_seed=5, init_from=fold0.parent)
    assert "images): start fold 0 from a run" in said
    # another view of a car is as bad: here every second one is new
    for name in sorted(p.name for p in (ellipses / "train").iterdir())[::2]:
        stem, new = name.removesuffix(".jpg"), name.replace("_01", "_03").removesuffix(".jpg")
        (ellipses / "train" / name).rename(ellipses / "train" / f"{new}.jpg")
        (ellipses / "train_masks" / f"{stem}_mask.gif").rename(ellipses / "train_masks" / f"{new}_mask.gif")
    assert "or its group" in refusal(
        tmp_path / "views", ellipses, variant="larger", split_seed=5, init_from=fold0.parent
    )


@pytest.fixture
def alone(runs: Path, tmp_path: Path) -> Path:
    """The finished run without the folds.csv that it was trained by."""
    shutil.copytree(runs / "carvana" / "tiny", tmp_path / "alone" / "tiny")
    return tmp_path / "alone" / "tiny"


def start(folder: Path, data: Path, fold_of: Mapping[str, int], fold: int = 0) -> Start:
    """What fold `fold` of a split of some data would start from; the split says the fold of every car."""
    training = find_training_set(COMPETITIONS["carvana"], data)
    return find_start(folder, fold, training, np.array([fold_of[car] for car in training.groups()]), "another")


def cars(runs: Path, data: Path) -> dict[str, int]:
    """The fold of every car."""
    table = split.read(runs / "carvana" / "folds.csv", find_training_set(COMPETITIONS["carvana"], data))
    return dict(zip(table["group"], table["fold"], strict=True))


def rename_cars(data: Path, new: Callable[[str], str]) -> None:
    for folder in (data / "train", data / "train_masks"):
        for path in sorted(folder.iterdir(), reverse=True):
            path.rename(path.with_name(new(path.name[:12]) + path.name[12:]))


def turned(car: str) -> str:
    """Another name for a car."""
    return f"f{car[1:]}"


def test_a_mended_mask_does_not_hide_what_was_seen(runs: Path, ellipses: Path, alone: Path) -> None:
    folds = cars(runs, ellipses)
    digest = find_training_set(COMPETITIONS["carvana"], ellipses).digest
    write_mask(ellipses / "train_masks" / f"{CARS[0]}_01_mask.gif", ellipse(99))
    assert find_training_set(COMPETITIONS["carvana"], ellipses).digest != digest
    assert start(alone, ellipses, folds).identity.startswith("tiny fold 0 ")
    with pytest.raises(UserError, match=r"which fold 1 holds out \(6 of 6 images\)"):
        start(alone / "fold0", ellipses, folds, 1)
    # one car that was seen is enough
    first = next(car for car in folds if folds[car] == 1)
    with pytest.raises(UserError, match=rf"was trained on {first}_01.jpg or its group.*\(2 of 8 images\)"):
        start(alone / "fold0", ellipses, {**folds, first: 0})


def test_a_picture_that_was_encoded_anew_is_known_by_its_car(runs: Path, ellipses: Path, alone: Path) -> None:
    folds = cars(runs, ellipses)
    for path in sorted((ellipses / "train").iterdir()):
        cv2.imwrite(str(path), read_picture(path), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert start(alone, ellipses, folds).seen is not None
    with pytest.raises(UserError, match=r"\(6 of 6 images\)"):
        start(alone / "fold0", ellipses, folds, 1)


def test_a_picture_is_known_under_another_name(runs: Path, ellipses: Path, alone: Path) -> None:
    folds = cars(runs, ellipses)
    rename_cars(ellipses, turned)
    renamed = {turned(car): fold for car, fold in folds.items()}
    assert start(alone, ellipses, renamed).seen is not None
    with pytest.raises(UserError, match=r"was trained on f.*which fold 1 holds out \(6 of 6 images\)"):
        start(alone / "fold0", ellipses, renamed, 1)
    # a single one, among cars that are new
    seen = next(ellipses / "train" / f"{car}_02.jpg" for car in renamed if renamed[car] == 1)
    picture = seen.read_bytes()
    for k, path in enumerate(sorted((ellipses / "train").iterdir())):
        cv2.imwrite(str(path), np.full((1280, 1918, 3), 10 * k, np.uint8))
    assert start(alone / "fold0", ellipses, renamed, 1).seen is not None
    seen.write_bytes(picture)
    with pytest.raises(UserError, match=rf"was trained on {seen.name} or its group.*\(1 of 6 images\)"):
        start(alone / "fold0", ellipses, renamed, 1)


def test_another_split_of_the_same_data_is_refused_and_other_data_are_not(
    runs: Path, ellipses: Path, alone: Path, tmp_path: Path
) -> None:
    folds = cars(runs, ellipses)
    with pytest.raises(UserError, match="holds out"):
        start(alone, ellipses, {car: k % 2 for k, car in enumerate(sorted(folds, key=lambda car: folds[car]))})
    rename_cars(ellipses, turned)
    for path in sorted((ellipses / "train").iterdir()):
        cv2.imwrite(str(path), cv2.flip(read_picture(path), 0))
    train(tmp_path / "others", ellipses, variant="larger", init_from=alone)


def test_what_a_start_was_itself_started_from_counts_too(
    runs: Path, ellipses: Path, alone: Path, tmp_path: Path
) -> None:
    folds = cars(runs, ellipses)
    others = tmp_path / "others"
    shutil.copytree(ellipses, others)
    rename_cars(others, turned)
    for path in sorted((others / "train").iterdir()):
        cv2.imwrite(str(path), cv2.flip(read_picture(path), 0))
    # from cars to other cars, and back
    second = tmp_path / "second"
    train(second, others, variant="larger", init_from=alone, epochs=1)
    shutil.rmtree(alone)
    (second / "carvana" / "folds.csv").unlink()
    back = second / "carvana" / "larger"
    found = start(back, ellipses, folds)
    assert found.seen is not None
    assert {car for car in folds if folds[car] == 1} <= found.seen.groups.keys()
    assert not {car for car in folds if folds[car] == 0} & found.seen.groups.keys()
    with pytest.raises(UserError, match=r"itself started from tiny fold 0 [0-9a-f]{16}\) was trained on"):
        start(back / "fold0", ellipses, folds, 1)


def test_a_run_without_a_record_is_taken_only_where_its_data_and_split_say_what_it_saw(
    runs: Path, ellipses: Path, alone: Path
) -> None:
    folds = cars(runs, ellipses)
    for folder in (alone, runs / "carvana" / "tiny"):
        for fold in (0, 1):
            (folder / f"fold{fold}" / SEEN_FILE).unlink()
    # the very same data and split
    train(runs, ellipses, variant="larger", fold="0", init_from=alone)
    assert "holds out (6 of 6 images)" in refusal(runs, ellipses, variant="larger", fold="1", init_from=alone / "fold0")
    # another split: only with the table
    assert start(runs / "carvana" / "tiny", ellipses, folds).seen is not None
    with pytest.raises(UserError, match=r"has no seen\.json that can be compared.*train that run again"):
        start(alone, ellipses, folds)
    # a table that it was not trained by tells nothing
    table = (runs / "carvana" / "folds.csv").read_text()
    (alone.parent.parent / "folds.csv").write_text(table.replace(",0,", ",x,").replace(",1,", ",0,").replace("x", "1"))
    with pytest.raises(UserError, match="that can be compared"):
        start(alone, ellipses, folds)
    # other data
    mask = ellipses / "train_masks" / f"{CARS[0]}_01_mask.gif"
    content = mask.read_bytes()
    write_mask(mask, ellipse(99))
    with pytest.raises(UserError, match="that can be compared"):
        start(runs / "carvana" / "tiny", ellipses, folds)
    mask.write_bytes(content)
    # started from others, of which there is no record
    path = alone / "fold0" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["recipe"]["init_from"] = "older fold 3 abc"
    path.write_text(json.dumps(manifest))
    assert "that can be compared" in refusal(runs, ellipses, variant="tiny", tag="new", fold="0", init_from=alone)
    # what is finished stays so, whatever it was started from
    train(runs, ellipses, variant="larger", fold="0", init_from=alone)


def test_a_picture_that_the_data_hold_twice_is_no_reason_to_refuse(ellipses: Path) -> None:
    first, second = (ellipses / "train" / f"{car}_01.jpg" for car in CARS[:2])
    shutil.copy(first, second)
    training = find_training_set(COMPETITIONS["carvana"], ellipses)
    held_out, train_on = [0, 1], range(2, 12)
    seen = Seen.of(training, train_on)
    assert seen.among(training, held_out, but=seen) == []
    # a fold that trains on neither
    assert seen.among(training, held_out, but=Seen.of(training, range(4, 12))) == [first.name]


def test_a_damaged_record_is_refused_and_one_of_other_digests_tells_nothing(
    runs: Path, ellipses: Path, alone: Path
) -> None:
    folds, path = cars(runs, ellipses), alone / "fold0" / SEEN_FILE
    record = json.loads(path.read_text())
    assert set(record["groups"]) == {car for car in folds if folds[car] == 1}
    for damaged in ("{", "[]", "{}", '{"groups": {"a": 1}}'):
        path.write_text(damaged)
        with pytest.raises(
            UserError, match=r"seen\.json is damaged \(.*\): put a good copy back, or train the fold again"
        ):
            start(alone, ellipses, folds)
    path.write_text(json.dumps({**record, "digest": "of another kind"}))
    with pytest.raises(UserError, match="that can be compared"):
        start(alone, ellipses, folds)


def test_another_network_and_weights_that_changed_are_refused(runs: Path, ellipses: Path) -> None:
    source = runs / "carvana" / "tiny"
    said = refusal(runs, ellipses, variant="wider", init_from=source)
    assert "do not fit the network of wider" in said
    assert not (runs / "carvana" / "wider").exists()
    with pytest.raises(UserError, match="have changed meanwhile"):
        load_start(build(TINY), TINY, Start(source / "fold0", "tiny fold 0 0123456789abcdef"))
    (source / "fold0" / checkpoint.WEIGHTS_FILE).write_bytes(b"damaged")
    assert "cannot be loaded" in refusal(runs, ellipses, variant="larger", init_from=source)


@pytest.fixture
def started(ellipses: Path, tmp_path: Path) -> tuple[FoldTask, FoldTask]:
    """A finished fold, and one of a larger network that shall start from it."""
    make = maker(ellipses, tmp_path)
    source = make(TINY, QUICK, "source")
    run_fold(source)
    recipe = replace(QUICK, epochs=3, init_from=weights_identity(source.folder))
    return source, replace(make(VARIANTS["larger"], recipe, "larger"), start=source.folder)


def weights_identity(folder: Path) -> str:
    data = (folder / checkpoint.WEIGHTS_FILE).read_bytes()
    return f"tiny fold 0 {hashlib.blake2b(data, digest_size=8).hexdigest()}"


def test_a_run_that_goes_on_does_not_read_its_start_again(
    started: tuple[FoldTask, FoldTask], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, task = started
    whole = replace(task, folder=task.folder.parent / "whole")
    run_fold(whole)
    step = SegmentationModule.training_step

    def stop_in_the_second_epoch(self: SegmentationModule, batch, index: int):
        if self.current_epoch:
            raise RuntimeError("stopped here")
        return step(self, batch, index)

    def stop(made: FoldTask) -> None:
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped here"):
            patch.setattr(SegmentationModule, "training_step", stop_in_the_second_epoch)
            run_fold(made)

    other = replace(task, folder=task.folder.parent / "other")
    stop(replace(other, recipe=replace(other.recipe, init_from=""), start=None))
    run_fold(other)
    assert "begun with another recipe or start" in capsys.readouterr().out
    task = replace(task, start_seen=Seen({"older": frozenset({"0123456789ab"})}))
    stop(task)
    shutil.rmtree(source.folder)
    # as it is planned once the start is gone
    run_fold(replace(task, start_seen=None))
    record = Seen.read(task.folder)
    assert record is not None
    assert record.groups.keys() == {"older", *CARS[:4]}
    expected = kernels(whole.folder)
    for made in (task, other):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in kernels(made.folder).items())


def test_no_encoder_weights_are_fetched_for_a_network_that_starts_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    runs, data = tmp_path / "runs", tmp_path / "no-data"
    assert "--weights none" in refusal(runs, data, variant="unet-resnet34-512")
    assert "no-data" in refusal(runs, data, variant="unet-resnet34-512", init_from=tmp_path)


def test_tags_train_the_same_variant_from_one_start_each(runs: Path, ellipses: Path, tmp_path: Path) -> None:
    # other data, so that both folds' weights may start any fold
    others = tmp_path / "others"
    write_ellipses(others)
    for path in sorted(others.rglob("*_0?*")):
        path.rename(path.with_name("1" + path.name[1:]))
    for k, path in enumerate(sorted((others / "train").iterdir())):
        picture = read_picture(path)
        picture[:9, :9] = k
        cv2.imwrite(str(path), picture)
    fold0, fold1 = (runs / "carvana" / "tiny" / f"fold{k}" for k in (0, 1))
    second = tmp_path / "second"
    train(second, others, variant="larger", fold="0", tag="a,b", init_from=f"{fold0},{fold1}", seed=4)
    manifests = [read_manifest(second / "carvana" / f"larger-{tag}" / "fold0") for tag in "ab"]
    assert [m and m["seed"] for m in manifests] == [4, 5]
    assert [m and m["recipe"]["init_from"].rsplit(" ", 1)[0] for m in manifests] == ["tiny fold 0", "tiny fold 1"]
    assert "names 2 folders, --tag 3" in refusal(second, others, tag="a,b,c", variant="larger", init_from="x,y")
    assert "a tag is listed twice" in refusal(second, others, tag="a,a", variant="larger")
