"""Damaged logits of the test set: named where they are read, and each remedy makes them again, alone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from competition import COMPETITIONS
from folds.store import LogitStore
from predict.members import find_members
from report import disagreement
from submit import make
from tests.synthetic_runs import AVERAGE, UNET, save_blend, save_member, write_photograph
from tests.test_folds_derived import FAULTS

STUDIO = COMPETITIONS["studio"]
NAMES = [f"00000000000a_0{k}.jpg" for k in range(1, 4)]


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test set of three images, two members that have predicted it, their blend and its submission."""
    home = tmp_path_factory.mktemp("test-logits")
    root = home / "runs" / "studio"
    for k, name in enumerate(NAMES):
        write_photograph(home / "data" / "test" / name, *STUDIO.size, seed=k)
    rows = "".join(f"{name},1 1\n" for name in NAMES)
    (home / "data" / "sample_submission.csv").write_text(",".join(STUDIO.header) + "\n" + rows)
    save_blend(root, [save_member(root, AVERAGE, 1), save_member(root, UNET, 1)], [0.8, 0.2])
    submission(home)
    return home


def submission(home: Path) -> None:
    make.main(competition="studio", data=home / "data", runs=home / "runs", jobs=1)


def disagree(home: Path, **options: Any) -> None:
    disagreement.main(competition="studio", data=home / "data", runs=home / "runs", worst=0, jobs=1, **options)


REMEDIES: dict[str, Callable[[Path], None]] = {
    "make submission": submission,
    "make disagreement ARGS=--predict": lambda home: disagree(home, predict=True),
}
CHUNK, METADATA = "c.1.0.0.0", "zarr.json"
CASES: list[tuple[str, str, Callable[[Path], object]]] = [
    *((CHUNK, name, FAULTS[name]) for name in ("missing", "cut off", "a flipped bit")),
    *((METADATA, name, FAULTS[name]) for name in ("missing", "a flipped bit")),
    (METADATA, "an empty object", lambda path: path.write_text("{}")),
]


def copied(predicted: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of it all, and a member's store in it."""
    home = tmp_path / "home"
    shutil.copytree(predicted, home)
    return home, home / "runs" / "studio" / UNET.name / "test.zarr"


@pytest.mark.parametrize("remedy", REMEDIES)
@pytest.mark.parametrize(("file", "fault"), [case[::2] for case in CASES], ids=[f"{f} {n}" for f, n, _ in CASES])
def test_what_is_damaged_is_said_and_each_remedy_makes_it_again_alone(
    file: str, fault: Callable[[Path], object], remedy: str, predicted: Path, tmp_path: Path
) -> None:
    home, store = copied(predicted, tmp_path)
    chunks = [f"c.{k}.0.0.0" for k in range(len(NAMES))]
    before = {name: (store / name).read_bytes() for name in [*chunks, METADATA]}
    submitted = (home / "runs" / "studio" / "blend" / "submission.csv.gz").read_bytes()
    # without its attributes nothing tells of which network the logits are
    kept = [name for name in chunks if name != file] if file == CHUNK else []
    places = {name: (store / name).stat().st_ino for name in kept}
    other = {path: path.stat().st_ino for path in (store.parents[1] / AVERAGE.name / "test.zarr").iterdir()}

    fault(store / file)
    with pytest.raises(SystemExit) as caught:
        disagree(home)
    message = str(caught.value)
    assert "\n" not in message
    # members without all logits are left out there, and the way to have them is named
    assert str(store) in message or UNET.name in message
    verb, _, flag = remedy.partition(" ARGS=")
    assert (verb in message and flag in message) or ("make disagreement" in message and "--predict" in message)
    REMEDIES[remedy](home)
    assert {name: (store / name).read_bytes() for name in before} == before
    assert {name: (store / name).stat().st_ino for name in kept} == places
    assert {path: path.stat().st_ino for path in other} == other
    assert (home / "runs" / "studio" / "blend" / "submission.csv.gz").read_bytes() == submitted


def test_logits_of_another_network_are_refused_and_the_remedy_makes_them_anew(predicted: Path, tmp_path: Path) -> None:
    home, store = copied(predicted, tmp_path)
    root = home / "runs" / "studio"
    wider = replace(UNET, size=(96, 128))
    shutil.rmtree(store.parent / "fold0")
    save_member(root, wider, 1)
    save_blend(root, find_members(root, [AVERAGE.name, UNET.name], 1), [0.8, 0.2])
    with pytest.raises(SystemExit, match=r"was written with other .*: remove the folder to make it anew") as caught:
        submission(home)
    named = re.match(r"error: (\S+) was written with", str(caught.value))
    assert named is not None and named[1] == str(store)
    shutil.rmtree(named[1])
    make.main(competition="studio", data=home / "data", runs=home / "runs", jobs=1, restart=True)
    assert LogitStore.open(store).shape[1:] == wider.size


def test_stores_of_other_images_are_refused_and_the_remedy_predicts_these(predicted: Path, tmp_path: Path) -> None:
    home, store = copied(predicted, tmp_path)
    (member,) = find_members(home / "runs" / "studio", [UNET.name], 1)
    shutil.rmtree(store)
    fewer = LogitStore.create(store, NAMES[:1], (1, *UNET.size), weights_digest=member.weights_digest)
    fewer.write(NAMES[0], np.zeros((1, *UNET.size), np.float32))
    with pytest.raises(SystemExit, match=r"holds other images than .*: remove it and predict again") as caught:
        disagree(home)
    named = re.match(r"error: (\S+) holds other", str(caught.value))
    assert named is not None
    shutil.rmtree(named[1])
    disagree(home, predict=True)
