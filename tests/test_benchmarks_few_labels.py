"""What pseudo-labels are worth where few labels are known: how labels are withheld, and how the gain is told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.few_labels import KNOWN, ROUNDS, UNLABELLED, UNSEEN, Trial, main, table_lines
from command_line import UserError
from competition import COMPETITIONS
from folds.images import find_training_set
from folds.plan import with_tag
from models.variants import find_variant
from studio.render import render_competition

STUDIO = COMPETITIONS["studio"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few") / "data"
    render_competition(folder, cars=7, test_cars=1, seed=4, views=1, jobs=1)
    return folder


def trial(data: Path, out: Path, seed: int, known: int = 3) -> Trial:
    return Trial(STUDIO, data, out, known, "unet-mobilenetv3", folds=2, epochs=1, more=1, least=-1.0, seed=seed)


def test_no_group_is_in_two_parts_and_only_known_labels_are_laid_out(data: Path, tmp_path: Path) -> None:
    names = find_training_set(STUDIO, data).names
    draws = []
    for seed in range(3):
        own = trial(data, tmp_path, seed)
        drawn = own.draw(names)
        assert sorted(name for part in drawn.values() for name in part) == sorted(names)
        groups = [{STUDIO.group(name) for name in drawn[what]} for what in (KNOWN, UNLABELLED, UNSEEN)]
        assert [len(each) for each in groups] == [3, 2, 2]
        for _ in range(2):  # as after a kill
            own.lay_out(drawn)
        assert list(find_training_set(STUDIO, own.folder / "data").names) == drawn[KNOWN]
        assert sorted(path.name for path in (own.folder / UNLABELLED).iterdir()) == sorted(drawn[UNLABELLED])
        masks = {path.name for path in own.folder.rglob("*") if path.parent.name == STUDIO.masks_dir}
        assert masks == {STUDIO.mask_name(name) for name in drawn[KNOWN]}
        draws.append(tuple(drawn[KNOWN]))
    assert len(set(draws)) > 1


def test_more_known_groups_than_there_are_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ask for 5 or fewer"):
        trial(data, tmp_path, 0, known=6).draw(find_training_set(STUDIO, data).names)
    with pytest.raises(SystemExit, match="'best' is not a round: take of control, ownfold, blend"):
        main(tmp_path, competition="studio", data=data, rounds="control,best")
    with pytest.raises(SystemExit, match="--views 0 is out of range: give 1 "):
        main(tmp_path, competition="studio", data=data, views=0)


def test_other_settings_have_another_folder(data: Path, tmp_path: Path) -> None:
    own = trial(data, tmp_path, 0)
    others: dict[str, Any] = {
        "known": 4,
        "variant": "fpn-regnetx",
        "folds": 3,
        "epochs": 2,
        "more": 2,
        "least": 0.9,
        "seed": 1,
    }
    folders = {own.folder, *(replace(own, **{name: value}).folder for name, value in others.items())}
    assert len(folders) == 1 + len(others)


def test_the_gain_is_told_with_its_interval_by_what_was_known() -> None:
    rng = np.random.default_rng(5)
    groups = np.repeat([f"{k:03}" for k in range(30)], 2)
    tables = []
    for what, gain in ((UNLABELLED, 0.01), (UNSEEN, -0.02)):
        base = rng.uniform(0.9, 0.95, 60)
        after = base + gain + rng.normal(0, 0.001, 60)
        tables.append(pd.DataFrame({"image": groups, "group": groups, "what": what, "base": base, "control": after}))
    lines = table_lines(pd.concat(tables).assign(seed=1), ["control"])
    assert len(lines) == 3
    for line, gain in zip(lines[1:], (0.01, -0.02), strict=True):
        found, interval = line.split()[-2:]
        low, high = (float(end) for end in interval.strip("()").split(".."))
        assert low < float(found) < high
        assert low - 0.002 < gain < high + 0.002


def test_every_round_can_be_trained_beside_the_others() -> None:
    assert len({with_tag(find_variant("unet-mobilenetv3"), name).name for name in ROUNDS}) == len(ROUNDS)
