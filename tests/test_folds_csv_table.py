"""Damaged CSV tables at the places that read what programs wrote: a sentence each, and the rest of the work done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from command_line import UserError
from competition import COMPETITIONS
from folds.csv_table import read_table
from folds.run_layout import METRICS_FILE, fold_folder
from report.figures import by_make, learning_curves

CARVANA = COMPETITIONS["carvana"]
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "header alone": lambda good: good[: good.index(b"\n") + 1],
    "no text": lambda good: b"\xff\xfe\x00\x01" + good,
    "zeros": lambda good: bytes(len(good)),
    "another table": lambda good: b"a,b\n1,2\n",
    "JSON": lambda good: b'{"epoch": 1}',
    "more cells": lambda good: good + b"1,2,3,4,5,6,7,8\n",
    "an open quote": lambda good: good + b'"',
    "cut in a row": lambda good: good.rstrip()[: good.rstrip().rindex(b"\n") + 1] + b"\n,,,\n",
}


def _scores(path: Path) -> pd.DataFrame:
    return read_table(path, ("image", "group"), "choose the blend again (make fit)")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_of_scores_is_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "oof_dice.csv"
    good = b"image,group,fold,nested,unet\na_01.jpg,a,0,0.5,0.25\nb_01.jpg,b,1,1e-3,1\n"
    path.write_bytes(good)
    table = _scores(path)
    assert table["group"].tolist() == ["a", "b"] and table["nested"].tolist() == [0.5, 0.001]
    for content in (DAMAGE[damage](good), good.replace(b"1e-3", b"inf"), good.replace(b"0.5", b"half")):
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            _scores(path)
        said = str(caught.value)
        assert said.startswith(f"{path} is damaged (") and said.endswith("make fit).") and "\n" not in said


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_report_goes_on_without_a_damaged_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    scores = pd.DataFrame({"group": ["a", "a", "b"], "nested": [0.5, 0.6, 0.7]})
    metadata = b"id,year,make\na,2000,Alpha\nb,2001,Beta\n"
    (tmp_path / "metadata.csv").write_bytes(metadata)
    assert [row["make"] for row in by_make(scores, CARVANA, tmp_path)] == ["Alpha", "Beta"]
    (tmp_path / "metadata.csv").write_bytes(DAMAGE[damage](metadata))
    assert by_make(scores, CARVANA, tmp_path) == []
    assert "metadata.csv is damaged (" in capsys.readouterr().out

    metrics = b"epoch,step,train_loss,val_dice\n0,9,,0.9\n0,9,0.2,\n1,19,,0.95\n"
    for fold in range(2):
        path = fold_folder(tmp_path / "unet", fold) / METRICS_FILE
        path.parent.mkdir(parents=True)
        path.write_bytes(metrics)
    assert learning_curves(tmp_path, ["unet"], 2) == {"unet": {0: [0.9, 0.95], 1: [0.9, 0.95]}}
    path.write_bytes(DAMAGE[damage](metrics))
    assert learning_curves(tmp_path, ["unet"], 2) == {"unet": {0: [0.9, 0.95]}}
    assert f"{path} is damaged (" in capsys.readouterr().out
