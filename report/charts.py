"""The report's charts: matplotlib figures as SVG data URIs, each drawn for a light and for a dark page."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler

from kernels.metrics import DICE, Metric
from report.thumbnail import data_uri

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, told apart by colour-blind eyes; on white without yellow, on black brighter
COLOURS = {
    "light": ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"),
    "dark": ("#56B4E9", "#E69F00", "#2FC79B", "#E39CC3", "#F0E442", "#FF7F3F"),
}
INK = {"light": "#222222", "dark": "#dddddd"}
_FAINT = {"light": "#dddddd", "dark": "#444444"}


@dataclass(frozen=True)
class Chart:
    """One chart: its two data URIs, what it shows in words, and its width over its height."""

    light: str
    dark: str
    alt: str
    width: int
    height: int


def _style(theme: str) -> Any:
    ink = INK[theme]
    return {
        "font.size": 10,
        "svg.fonttype": "path",
        # the same figures give the same bytes
        "svg.hashsalt": "report",
        "text.color": ink,
        "axes.edgecolor": ink,
        "axes.labelcolor": ink,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": _FAINT[theme],
        "grid.linewidth": 0.6,
        "xtick.color": ink,
        "ytick.color": ink,
        "legend.frameon": False,
        "axes.prop_cycle": cycler(color=COLOURS[theme]),
    }


def drawn(draw: Callable[[Figure, str], None], size: tuple[float, float], alt: str) -> Chart:
    """Draw a chart once for light and once for dark pages.

    Args:
        draw: draws onto a figure, given the theme: a key of `INK` and `COLOURS`.
        size: (width, height) in inches of 72 pixels.
        alt: what it shows, in words.
    """
    uris = {}
    for theme in ("light", "dark"):
        with plt.rc_context(_style(theme)):
            figure = plt.figure(figsize=size, layout="constrained")
            draw(figure, theme)
            file = io.BytesIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
            plt.close(figure)
        uris[theme] = data_uri(file.getvalue(), "image/svg+xml")
    return Chart(uris["light"], uris["dark"], alt, round(size[0] * 72), round(size[1] * 72))


def _error_axis(axis: Axes, metric: Metric) -> None:
    axis.set_yscale("log")
    axis.set_ylabel(f"1 − {metric.label} (log scale, lower is better)")


def correlation_map(names: Sequence[str], correlation: np.ndarray) -> Chart:
    """Heat map of the (M, M) correlation of errors."""

    def draw(figure: Figure, theme: str) -> None:
        axis = figure.add_subplot()
        axis.imshow(correlation, vmin=0, vmax=1, cmap="viridis")
        axis.grid(False)
        axis.set_xticks(range(len(names)), names, rotation=35, ha="right")
        axis.set_yticks(range(len(names)), names)
        for (row, column), value in np.ndenumerate(correlation):
            colour = "black" if value > 0.6 else "white"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)

    side = 2.2 + 0.6 * len(names)
    return drawn(draw, (side + 0.8, side), f"correlation of errors between {', '.join(names)}")


def lines_by_view(error: Mapping[str, Mapping[str, float]], metric: Metric = DICE) -> Chart:
    """1 - score against the view, one line a network or blend: {name: {view: mean error}}."""

    def draw(figure: Figure, theme: str) -> None:
        axis = figure.add_subplot()
        for name, values in error.items():
            views = sorted(values)
            heavy = name == next(iter(error))
            axis.plot(views, [max(values[v], 1e-6) for v in views], "o-", ms=3, lw=2.4 if heavy else 1.2, label=name)
        _error_axis(axis, metric)
        axis.set_xlabel("view")
        figure.legend(loc="outside upper center", ncols=2, fontsize=9)

    return drawn(draw, (6.4, 3.8), "error by view angle")


def threshold_curve(thresholds: np.ndarray, scores: np.ndarray, used: float, metric: Metric = DICE) -> Chart:
    """Mean score (T,) of the blend against the threshold (T,) on its logits; the threshold used is marked."""

    def draw(figure: Figure, theme: str) -> None:
        axis = figure.add_subplot()
        axis.plot(thresholds, scores)
        axis.axvline(used, color=INK[theme], ls=":", lw=1.2, label=f"used: {used:g}")
        axis.set_xlabel("threshold on the logits")
        axis.set_ylabel(f"mean {metric.label}, out of fold")
        axis.ticklabel_format(useOffset=False)
        axis.legend()

    return drawn(draw, (6.4, 3.2), f"mean {metric.label} of the blend against its threshold")


def calibration_curve(bins: Sequence[tuple[float, float, int]], metric: Metric = DICE) -> Chart:
    """Measured against expected score of images in bins of (expected, measured, images); on the line both agree."""

    def draw(figure: Figure, theme: str) -> None:
        axis = figure.add_subplot()
        expected, measured = ([each[k] for each in bins] for k in (0, 1))
        ends = [min(*expected, *measured), max(*expected, *measured)]
        axis.plot(ends, ends, color=_FAINT[theme], lw=1.2)
        axis.plot(expected, measured, "o-", ms=5)
        axis.set_xlabel(f"expected {metric.label}")
        axis.set_ylabel(f"{metric.label}, out of fold")
        axis.ticklabel_format(useOffset=False)

    return drawn(draw, (6.4, 3.8), f"measured against expected {metric.label} of out-of-fold images")


def learning_curves(curves: Mapping[str, Mapping[int, Sequence[float]]], metric: Metric = DICE) -> Chart:
    """1 - validation score against the epoch, one panel a network, one line a fold: {name: {fold: score by epoch}}."""

    columns = min(2, len(curves))
    rows = -(-len(curves) // columns)

    def draw(figure: Figure, theme: str) -> None:
        axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axis in axes[len(curves) :]:
            axis.set_visible(False)
        for axis, (name, folds) in zip(axes, curves.items(), strict=False):
            for fold, scores in sorted(folds.items()):
                epochs = np.arange(1, len(scores) + 1)
                axis.plot(epochs, np.maximum(1 - np.asarray(scores), 1e-6), "o-", ms=2.5, lw=1.2, label=f"fold {fold}")
            axis.set_title(name, fontsize=10)
            axis.set_yscale("log")
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axis in axes[::columns]:
            axis.set_ylabel(f"1 − {metric.label}")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=5, fontsize=9)

    return drawn(draw, (3.6 * columns, 2.7 * rows + 0.4), "learning curves")
