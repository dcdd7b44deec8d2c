"""A fold is complete when its outputs are: what is damaged is named where it is read, and what the sentence asks for
makes that again, alone and with the same bytes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import UserError
from competition import COMPETITIONS
from ensemble.oof_data import find_oof_data
from folds import train
from folds.images import find_training_set
from folds.store import LogitStore
from predict.members import Member, find_members
from tests.conftest import write_ellipses
from tests.killed_folds import results, tiny_flags
from tests.test_folds_derived import FAULTS, flip

FOLDS = 2
FLAGS: dict[str, Any] = {"folds": FOLDS, "fold": "all", "epochs": 1}


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    """A folder with a runs folder of two finished folds, and the flags that made them."""
    root = tmp_path_factory.mktemp("outputs")
    flags = {**tiny_flags(patch), **FLAGS, "jobs": 1, "data": write_ellipses(root / "data")}
    train.main(**flags, runs=root / "runs")
    return root / "runs", flags


def of_another_image(chunk: Path) -> None:
    """Put a whole chunk in the place of another."""
    shutil.copy(chunk.with_name("c.1.0.0.0"), chunk)


def read_all(root: Path, data: Path) -> None:
    """What `ensemble.fit` reads of folds, whole."""
    oof = find_oof_data(root, find_training_set(COMPETITIONS["carvana"], data), ["tiny"], jobs=1)
    for name in oof.stores[0].names:
        oof.stores[0].read(name)


# a chunk of the first fold: the fixture's split tells
CHUNK, WEIGHTS, METADATA = "<chunk>", "fold0/weights.safetensors", "oof.zarr/zarr.json"
FEW = {name: FAULTS[name] for name in ("missing", "cut off", "a flipped bit")}
CASES: list[tuple[str, str, Callable[[Path], object]]] = [
    *((WEIGHTS, name, fault) for name, fault in FEW.items()),
    *((CHUNK, name, fault) for name, fault in FAULTS.items()),
    (CHUNK, "of another image", of_another_image),
    ("oof.zarr", "missing", shutil.rmtree),
    *((METADATA, name, fault) for name, fault in FAULTS.items()),
    (METADATA, "an empty object", lambda path: path.write_text("{}")),
    (METADATA, "another number", lambda path: path.write_text(path.read_text().replace(" 512", " 513"))),
    *(("fold0/" + record, name, FEW[name]) for record in ("variant.json", "seen.json") for name in FEW),
    ("fold0/recipe.json", "missing", Path.unlink),
    ("fold0/recipe.json", "another number", lambda path: path.write_text(path.read_text().replace("0.", "0.1"))),
]
# what predicting and fitting do not read, so that they say nothing of it
UNREAD = ("fold0/variant.json", "fold0/seen.json", "fold0/recipe.json")


@pytest.mark.parametrize(("place", "fault"), [case[::2] for case in CASES], ids=[f"{p} {n}" for p, n, _ in CASES])
def test_what_is_damaged_is_said_and_made_again_alone(
    place: str, fault: Callable[[Path], object], trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    whole, flags = trained
    runs = tmp_path / "runs"
    shutil.copytree(whole, runs)
    root = runs / "carvana"
    run = root / "tiny"
    expected = results(runs)
    held_out = [line.split(",") for line in (root / "folds.csv").read_text().splitlines()[1:]]
    chunks = {fold: [i for i, row in enumerate(held_out) if row[2] == str(fold)] for fold in range(FOLDS)}
    path = run / "oof.zarr" / f"c.{chunks[0][0]}.0.0.0" if place == CHUNK else run / place
    if fault is of_another_image:
        path = run / "oof.zarr" / f"c.{next(i for i in chunks[0] if i != 1)}.0.0.0"
    others = [run / "fold1" / "weights.safetensors", run / "fold1" / "manifest.json"]
    others += [run / "oof.zarr" / f"c.{i}.0.0.0" for i in chunks[1]] if place != "oof.zarr" else []
    kept = {other: other.stat().st_ino for other in others}

    fault(path)
    again = {**flags, "runs": runs}
    if place not in UNREAD:
        with pytest.raises(UserError) as caught:
            read_all(root, flags["data"])
        asked = re.search(r"make folds? V=(\S+?)(?: F=(\d+))?[ ):,.]", str(caught.value))
        assert asked is not None, caught.value
        again |= {"variant": asked[1], "fold": asked[2] or "all"}
    train.main(**again)
    assert results(runs) == expected
    read_all(root, flags["data"])
    assert {other: other.stat().st_ino for other in others} == kept


def test_another_recipe_is_refused_with_a_remedy_that_leaves_the_other_folds(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, flags = trained
    runs = tmp_path / "runs"
    shutil.copytree(whole, runs)
    run = runs / "carvana" / "tiny"
    store = LogitStore.open(run / "oof.zarr")
    before = {name: store.read(name) for name in store.names}
    changed = {**flags, "fold": "1", "learning_rate": 0.01, "runs": runs}
    with pytest.raises(SystemExit, match=r"another recipe: remove that folder alone") as caught:
        train.main(**changed)
    named = re.match(r"error: (\S+) was trained", str(caught.value.code))
    assert named is not None
    shutil.rmtree(named[1])
    train.main(**changed)
    other = {name for name in store.names if not np.array_equal(store.read(name), before[name])}
    assert len(other) == 6
    assert find_members(runs / "carvana", ["tiny"], FOLDS)[0].oof().missing() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: shutil.rmtree(run / "fold0"), r"fold0 is not trained: make fold V=tiny F=0"),
        (lambda run: shutil.copytree(run / "fold1", run / "fold0", dirs_exist_ok=True), r"fold0 holds fold 1 of its"),
        (
            lambda run: flip(run / "fold1" / "weights.safetensors"),
            r"weights\.safetensors is damaged or altered: .*make fold V=tiny F=1",
        ),
        (
            lambda run: (run / "fold1" / "manifest.json").write_text(
                (run / "fold1" / "manifest.json").read_text().replace('"unet"', '"other"', 1).replace("32,", "64,", 1)
            ),
            r"fold1 is of another network than \S+fold0: remove it",
        ),
    ],
)
def test_a_folder_of_networks_is_refused_that_is_not_as_it_was_trained(
    change: Callable[[Path], object], words: str, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(trained[0], runs)
    change(runs / "carvana" / "tiny")

    def find() -> list[Member]:
        return find_members(runs / "carvana", ["tiny"], FOLDS)

    with pytest.raises(UserError, match=words) as caught:
        find()
    asked = re.search(r"make fold V=(\S+) F=(\d+)", str(caught.value))
    assert asked is not None
    if "remove" in words or "holds" in words:
        shutil.rmtree(runs / "carvana" / "tiny" / f"fold{asked[2]}")
    train.main(**{**trained[1], "runs": runs, "variant": asked[1], "fold": asked[2]})
    find()
