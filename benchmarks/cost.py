"""`python -m benchmarks.cost`: draws the Dice of single networks on real cars against what their trainings cost.

The figures are those of EXPERIMENTS.md, gathered in experiments/cost.csv; a picture of them stands in the README.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import tyro

import atomic
from command_line import program
from folds.csv_table import read_table
from folds.outputs import digest
from models.variants import find_variant

matplotlib.use("Agg")
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Okabe and Ito's colours, told apart by colour-blind eyes
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MINUTES = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
_DICE = (0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.993, 0.995, 0.996, 0.997)
_PADDING = 1.4


def kind(variant: str) -> str:
    """What networks of one colour have in common: all but their resolution.

    >>> kind("unet-mobilenetv3-320x512"), kind("average-mask"), kind("windowed-unet-full")
    ('unet-mobilenetv3', 'average-mask', 'windowed-unet')
    """
    head, _, size = variant.rpartition("-")
    return head if head and (size == "full" or size.replace("x", "").isdigit()) else variant


def draw(table: pd.DataFrame) -> Figure:
    """The picture; a row of the table is a training: variant, height, width, training, cpu_minutes, dice."""
    # as tall as the legend, whose entries have two lines each
    figure = Figure(figsize=(10, max(5, 0.2 + 0.4 * len(table))), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    errors = 1 - table["dice"]
    kinds = list(dict.fromkeys(table["variant"].map(kind)))
    rows: list[Any] = list(table.sort_values("cpu_minutes").itertuples())
    for number, row in enumerate(rows, 1):
        name = kind(row.variant)
        label = f"{number}  {name}, {row.height}x{row.width}\n    {row.training}: {row.dice:.4f}"
        at = (row.cpu_minutes, 1 - row.dice)
        axes.scatter(*at, color=_COLOURS[kinds.index(name) % len(_COLOURS)], label=label, s=150, zorder=3)
        axes.annotate(str(number), at, ha="center", va="center", fontsize=9, color="white", zorder=4)
    axes.set(xscale="log", yscale="log", xlabel="minutes of one processor core (log scale)")
    axes.set_ylabel("Dice on 51 unseen real cars (log scale of the error)")
    axes.set_xlim(table["cpu_minutes"].min() / _PADDING, table["cpu_minutes"].max() * _PADDING)
    # better is up
    axes.set_ylim(errors.max() * _PADDING, errors.min() / _PADDING)
    axes.xaxis.set_major_locator(FixedLocator(_MINUTES))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(FixedLocator([1 - value for value in _DICE]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{1 - value:.3f}".rstrip("0")))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.grid(color="#dddddd", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, markerscale=0.6)
    return figure


@program
def main(figures: Path = Path("experiments/cost.csv"), out: Path = Path("docs/cost.svg")) -> None:
    """Draw Dice against minutes.

    Args:
        figures: the trainings.
        out: the picture, SVG.
    """
    table = read_table(
        figures, ["variant", "training"], "take the one that is committed", numbers=["cpu_minutes", "dice"]
    )
    for name in table["variant"]:
        find_variant(name)
    # the same figures give the same bytes, and name what they were drawn from
    metadata = {"Date": None, "Source": digest(figures.read_bytes())}
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "cost"}), atomic.replacing(out) as temporary:
        draw(table).savefig(temporary, format="svg", metadata=metadata)
    print(f"written: {out}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
