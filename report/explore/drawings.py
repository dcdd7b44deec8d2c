"""The charts and small pictures of the page about the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from command_line import UserError
from kernels.metrics import Metric
from models.frame import Frame
from models.image_file import ImageFile
from report.charts import COLOURS, INK, Chart, drawn
from report.explore.ceilings import Ceiling
from report.explore.facts import Fact
from report.explore.listing import Pictures
from report.explore.survey import Survey, View
from report.thumbnail import Thumbnail, jpeg_uri

_BINS = 40
_WIDTH_IN = 4.6
# of a mask on its image
_OUTLINE = (255, 40, 120)


def histogram(values: Mapping[str, np.ndarray], label: str, *, log: bool = False) -> Chart:
    """Shares of images by a number, one outline a set: {set: (N,)}; values that are not finite are left out."""
    finite = {name: own[np.isfinite(own)] for name, own in values.items()}
    finite = {name: own for name, own in finite.items() if len(own)}
    every = np.concatenate([*finite.values(), np.zeros(0)])
    low, high = np.percentile(every, [0.1, 99.9]) if len(every) > 1000 else (every.min(), every.max())
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1).tolist()

    def draw(figure: Figure, theme: str) -> None:
        axis = figure.add_subplot()
        for i, (name, own) in enumerate(finite.items()):
            weights = np.full(len(own), 1 / len(own))
            colour, clipped = COLOURS[theme][i], np.clip(own, edges[0], edges[-1])
            axis.hist(clipped, edges, weights=weights, color=colour, alpha=0.25)
            axis.hist(clipped, edges, weights=weights, color=colour, histtype="step", lw=1.6, label=name)
        axis.set_xlabel(label)
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_ylabel("share of images")
        if log:
            axis.set_yscale("log")
        if len(finite) > 1:
            axis.legend(fontsize=9)

    return drawn(draw, (_WIDTH_IN, 2.7), f"histogram: {label} in {' and '.join(finite)}")


def fact_chart(fact: Fact, sets: Sequence[str]) -> Chart:
    """Shares of train and test by a column of the metadata: bars for words, upright ones for numbers."""
    values = [value for value, _, _ in fact.counts]
    shares = [np.array([row[1 + i] for row in fact.counts], float) for i in range(len(sets))]
    shares = [own / max(own.sum(), 1) for own in shares]
    places, thick = np.arange(len(values)), 0.8 / len(sets)

    def draw(figure: Figure, theme: str) -> None:
        axis = figure.add_subplot()
        axis.set_axisbelow(True)
        for i, (name, own) in enumerate(zip(sets, shares, strict=True)):
            where = places + (i - (len(sets) - 1) / 2) * thick
            (axis.bar if fact.numbers else axis.barh)(where, own, thick, color=COLOURS[theme][i], label=name)
        share, word = (axis.yaxis, axis.xaxis) if fact.numbers else (axis.xaxis, axis.yaxis)
        share.set_major_formatter(PercentFormatter(1, decimals=0))
        word.grid(False)
        if fact.numbers:
            shown = places[:: -(-len(places) // 8)]
            axis.set_xticks(shown, [values[i] for i in shown])
            axis.set_xlabel(fact.column)
        else:
            axis.set_yticks(places, [value[:24] for value in values])
            axis.set_ylim(len(values) - 0.4, -0.6)
        if len(sets) > 1:
            axis.legend(fontsize=9, loc="upper right" if fact.numbers else "lower right")

    height = 2.7 if fact.numbers else 0.7 + 0.2 * len(values) + 0.12 * len(sets)
    return drawn(draw, (_WIDTH_IN, height), f"shares of {' and '.join(sets)} by {fact.column}")


def centres(rows: np.ndarray, columns: np.ndarray, aspect: float) -> Chart:
    """Where masks have their centre of mass: (N,) shares of height and width; nan for empty ones."""

    def draw(figure: Figure, theme: str) -> None:
        axis = figure.add_subplot()
        axis.scatter(columns, rows, s=6, alpha=0.35, color=COLOURS[theme][0], linewidths=0, rasterized=True)
        axis.set(xlim=(0, 1), ylim=(1, 0), aspect=aspect, xlabel="column, left to right", ylabel="row, downwards")

    return drawn(draw, (_WIDTH_IN, 0.7 + 3.9 * aspect), "centres of mass of the masks within the frame")


def ceiling_chart(ceilings: Sequence[Ceiling], metric: Metric) -> Chart:
    """What is lost at each input size."""
    pixels = [c.size[0] * c.size[1] for c in ceilings]
    lost = [max(1 - c.score, 1e-6) for c in ceilings]

    def draw(figure: Figure, theme: str) -> None:
        axis = figure.add_subplot()
        axis.set(xscale="log", yscale="log")
        for named, style in ((False, "o-"), (True, "D")):
            at = [i for i, c in enumerate(ceilings) if bool(c.variants) == named]
            label = "of variants here" if named else "fractions of the full size"
            colour = COLOURS[theme][1 if named else 0]
            axis.plot([pixels[i] for i in at], [lost[i] for i in at], style, ms=5, lw=1.2, label=label, color=colour)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("pixels of the input (log scale)")
        axis.set_ylabel(f"1 − {metric.label} (log scale)")
        axis.legend(fontsize=9)

    return drawn(draw, (6.4, 3.2), f"what is lost of {metric.label} at each input size")


def view_map(views: Sequence[str], iou: np.ndarray) -> Chart:
    """Heat map (V, V) of the mean IoU of masks of one group in two views; nan where none was compared."""

    def draw(figure: Figure, theme: str) -> None:
        axis = figure.add_subplot()
        drawn_map = axis.imshow(iou, cmap="viridis", vmin=np.nanmin(iou), vmax=1)
        axis.grid(False)
        axis.set_xticks(range(len(views)), views, rotation=90, fontsize=8)
        axis.set_yticks(range(len(views)), views, fontsize=8)
        bar = figure.colorbar(drawn_map, ax=axis, shrink=0.85)
        bar.ax.tick_params(colors=INK[theme])

    return drawn(draw, (_WIDTH_IN, 3.9), "mean IoU of masks of the same group between views")


def step_chart(steps: Sequence[tuple[str, float, float, float]]) -> Chart:
    """IoU between neighbouring views: (step, 5 %, median, 95 %) each."""
    names = [step[0] for step in steps]
    low, middle, high = (np.array([step[i] for step in steps]) for i in (1, 2, 3))

    def draw(figure: Figure, theme: str) -> None:
        axis = figure.add_subplot()
        axis.fill_between(range(len(names)), low, high, color=COLOURS[theme][0], alpha=0.2, lw=0, label="5 .. 95 %")
        axis.plot(range(len(names)), middle, "o-", ms=3, color=COLOURS[theme][0], label="median")
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axis.set_ylabel("IoU of the two masks")
        axis.legend(fontsize=9)

    return drawn(draw, (_WIDTH_IN, 3.3), "agreement of masks between neighbouring views")


def thumbnail(pictures: Pictures, name: str, survey: Survey, note: str = "", *, outline: bool = True) -> Thumbnail:
    """An image at reduced size, with the outline of its mask where there is one."""
    training = pictures.training
    if training is not None and training.composed:
        full = training.picture(name)
    else:
        file = ImageFile(pictures.folder / name)
        reduced = file.reduced(survey.small)
        full = file.image() if reduced is None else reduced
    picture = cv2.resize(full, survey.small[::-1], interpolation=cv2.INTER_AREA)
    if outline and training is not None:
        coverage = Frame(survey.small).apply_mask(training.mask(name))
        lines, _ = cv2.findContours((coverage > 127).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        picture = cv2.drawContours(picture.copy(), lines, -1, _OUTLINE, 1)
    return Thumbnail(jpeg_uri(picture), name, note)


def thumbnails(pictures: Pictures, wanted: Iterable[tuple[str, str]], survey: Survey) -> list[Thumbnail]:
    """Some images, (name, note) each; those that cannot be read are left out."""
    found = []
    for name, note in wanted:
        try:
            found.append(thumbnail(pictures, name, survey, note))
        except UserError:
            continue
    return found


def mean_pictures(sums: View, title: str, *, masks: bool) -> list[Thumbnail]:
    """The mean image of a view, and where there are masks the mean mask: white where all have foreground."""
    found = [Thumbnail(jpeg_uri((sums.image / sums.count).round().astype(np.uint8)), title, f"mean of {sums.count}")]
    if masks:
        found.append(Thumbnail(jpeg_uri((sums.coverage / sums.count).round().astype(np.uint8)), title, "mean mask"))
    return found
