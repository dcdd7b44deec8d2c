"""The picture of Dice against cost: every training is in it, and the committed one is of the committed figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.cost import draw, main
from folds.outputs import digest

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "experiments" / "cost.csv"


def test_the_committed_picture_is_of_the_committed_figures(tmp_path: Path) -> None:
    for path in (tmp_path / "one.svg", tmp_path / "two.svg"):
        main(FIGURES, path)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    source = digest(FIGURES.read_bytes())
    for path in (tmp_path / "one.svg", ROOT / "docs" / "cost.svg"):
        assert source in path.read_text(), "python -m benchmarks.cost draws it again"


def test_a_better_training_is_drawn_higher_and_none_is_left_out() -> None:
    table = pd.read_csv(FIGURES)
    figure = draw(table)
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert low > high, "better is up"
    assert len(axes.collections) == len(table)
    points = [tuple(np.asarray(own.get_offsets())[0]) for own in axes.collections]
    by_cost: list[Any] = list(table.sort_values("cpu_minutes").itertuples())
    assert points == [(row.cpu_minutes, pytest.approx(1 - row.dice)) for row in by_cost]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    for row, label in zip(by_cost, labels, strict=True):
        assert f"{row.dice:.4f}" in label
        assert row.training in label


def test_a_network_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cost.csv"
    path.write_text(FIGURES.read_text().replace("fpn-regnetx", "fpn-regnetz"))
    with pytest.raises(SystemExit, match="fpn-regnetz"):
        main(path, tmp_path / "cost.svg")
    assert not (tmp_path / "cost.svg").exists()


@pytest.mark.parametrize("count", [1, 14, 40])
def test_the_legend_fits_into_the_picture(count: int) -> None:
    rows = [("folded-unet-640x960", 640, 960, "3 epochs after 12 at 384x576", 10.0 + n, 0.99) for n in range(count)]
    figure = draw(pd.DataFrame(rows, columns=["variant", "height", "width", "training", "cpu_minutes", "dice"]))
    figure.canvas.draw()
    legend, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert whole.x0 <= legend.x0 and legend.x1 <= whole.x1 and whole.y0 <= legend.y0 and legend.y1 <= whole.y1
