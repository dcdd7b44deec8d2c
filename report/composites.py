"""`python -m report.composites`: both heads of every trained network of composites: table, picture and page.

Figures are out of fold, at the backgrounds' size: of the composites that finished folds hold out, whose backgrounds and
foregrounds the networks have not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import tyro

import atomic
from command_line import UserError, program
from competition import Competition
from folds import png_file
from folds.composites import CompositeSet
from folds.depth import DEPTH_METRICS, nearness
from folds.heads import DEPTH_HEAD, MASK_HEAD
from folds.images import find_training_set
from folds.run_layout import OOF_STORE, finished_folds, trained_runs
from folds.store import LogitStore
from folds.task import read_manifest
from kernels.dice import counts
from kernels.metrics import METRICS
from models.frame import Frame, frame_of
from models.variant import Variant
from program_flags import Positive, places
from report import page
from report.pictures import Album, Case, error_picture

PICTURE_FILE, PAGE_FILE, PICTURES_DIR = "both_heads.png", "both_heads.html", "both_heads"
_MASK_METRICS = ("dice", "iou")
COLUMNS = (*_MASK_METRICS, *DEPTH_METRICS)
_SHOWN = 6
# what others published, each on composites of their own, which are not ours: their own validation images
PUBLISHED: dict[str, dict[str, float]] = {
    "D, published": {"dice": 0.7517, "ssim": 0.9158},
    "U^2-Net, 1.8 M, 64x64": {"iou": 0.9493, "rmse": 0.0666},
    "U^2-Net, 1.8 M, 96x96": {"iou": 0.9640, "rmse": 0.0601},
    "U^2-Net, 1.8 M, 224x224": {"iou": 0.9685, "rmse": 0.0801},
}


@dataclass(frozen=True)
class Trained:
    """A trained network's out-of-fold logits.

    Attributes:
        variant: what it is.
        store, frame: of its logits.
        names: the images that its finished folds hold out.
        parameters: how many it has.
    """

    variant: Variant
    store: LogitStore
    frame: Frame
    names: tuple[str, ...]
    parameters: int

    def has_depth(self) -> bool:
        """Whether it has a depth head."""
        return self.store.has(DEPTH_HEAD)

    def mask(self, name: str, competition: Competition) -> np.ndarray:
        """(H, W) bool."""
        return self.frame.invert(self.store.head(name, MASK_HEAD), competition.size) > 0

    def near(self, name: str, competition: Competition) -> np.ndarray:
        """(H, W) float32 nearness, 0..1."""
        return nearness(self.store.head(name, DEPTH_HEAD), self.frame, competition.size)


def find_trained(root: Path, training: CompositeSet) -> list[Trained]:
    """The networks with a finished fold that were trained on these data.

    Raises:
        UserError: there is none.
    """
    found = []
    for run in trained_runs(root):
        manifests = [manifest for fold in finished_folds(run) if (manifest := read_manifest(fold))]
        store = LogitStore.open(run / OOF_STORE)
        if manifests[0]["data_digest"] != training.digest or set(store.names) != set(training.names):
            continue
        variant = Variant.from_json(manifests[0]["variant"])
        lacking = set(store.missing())
        names = tuple(name for name in training.names if name not in lacking)
        found.append(Trained(variant, store, frame_of(variant), names, manifests[0]["parameters"]))
    if not found:
        raise UserError(f"{root} has no network that was trained on {training.data}: make fold C=composites V=... F=0.")
    return found


def score(trained: Trained, training: CompositeSet, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Each figure of each image, (n,), by the name of the metric; those of depth only where there is a depth head."""
    result: dict[str, list[float]] = {}
    facts = training.competition
    for name in names:
        overlap = counts(trained.mask(name, facts), training.mask(name))
        for metric in _MASK_METRICS:
            result.setdefault(metric, []).append(METRICS[metric].of(overlap))
        if trained.has_depth():
            near, truth = trained.near(name, facts), training.near(training.position(name)) / np.float32(255)
            for metric, of in DEPTH_METRICS.items():
                result.setdefault(metric, []).append(of(near, truth))
    return {metric: np.array(values) for metric, values in result.items()}


def colours(near: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: nearness (H, W) in 0..1 as a colour map, dark far and bright near."""
    return (matplotlib.colormaps["magma"](near)[..., :3] * 255).astype(np.uint8)


def panes(trained: Trained, training: CompositeSet, name: str) -> dict[str, np.ndarray]:
    """Pictures of one image: inputs, and truth and prediction of both heads."""
    facts, mask = training.competition, training.mask(name)
    white = np.uint8(255)
    shown = {
        "background": training.background(name),
        "composite": training.picture(name),
        "mask": mask * white,
        f"mask, {trained.variant.name}": trained.mask(name, facts) * white,
        "error": error_picture(trained.mask(name, facts), mask),
    }
    if trained.has_depth():
        shown["depth"] = colours(training.near(training.position(name)) / 255)
        shown[f"depth, {trained.variant.name}"] = colours(trained.near(name, facts))
    return shown


def draw(path: Path, rows: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Pictures side by side, a row an image, as PNG."""
    drawn = [
        np.hstack([cv2.cvtColor(p, cv2.COLOR_GRAY2RGB) if p.ndim == 2 else p for p in row.values()]) for row in rows
    ]
    content = png_file.encode(np.vstack(drawn))
    with atomic.replacing(path, needed_bytes=len(content)) as temporary:
        temporary.write_bytes(content)


def _line(name: str, row: Mapping[str, float], more: str = "") -> str:
    return f"{name:26}" + "".join(f"{row[c]:>12.4f}" if c in row else f"{'-':>12}" for c in COLUMNS) + more


def tell(competition: str, data: Path | None, runs: Path, images: int = 400) -> None:
    """What `main` does."""
    facts, data, root = places(competition, data, runs)
    training = find_training_set(facts, data)
    if not isinstance(training, CompositeSet):
        raise UserError(
            f"{facts.name} has no composites: give --competition composites, or make report C={facts.name}."
        )
    rows: dict[str, dict[str, float]] = {}
    best: tuple[Trained, Sequence[str], np.ndarray] | None = None
    trained = find_trained(root, training)
    size = "x".join(map(str, training.competition.size))
    print(f"out of fold at {size}".ljust(26) + "".join(f"{column:>12}" for column in COLUMNS) + "  images  parameters")
    for each in trained:
        chosen = each.names[:: max(1, len(each.names) // images)]
        scores = score(each, training, chosen)
        rows[each.variant.name] = {metric: float(values.mean()) for metric, values in scores.items()}
        print(_line(each.variant.name, rows[each.variant.name], f"{len(chosen):8}{each.parameters:12,}"))
        # pictures are of the best that has both heads
        if best is None or (each.has_depth(), scores["dice"].mean()) > (best[0].has_depth(), best[2].mean()):
            best = each, chosen, scores["dice"]
    for name, row in PUBLISHED.items():
        print(_line(name, row, "  others' data"))
    assert best is not None
    network, names, dice = best
    order = np.argsort(dice, kind="stable")
    # the worst, some in between, the best
    picked = [names[order[i]] for i in np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).round().astype(int)]
    drawn = [panes(network, training, name) for name in picked]
    draw(root / PICTURE_FILE, drawn)
    album = Album(root / PICTURES_DIR, PICTURES_DIR)
    cases = [
        Case(name, f"Dice {dice[names.index(name)]:.4f}", [album.pane(name, title, p) for title, p in row.items()])
        for name, row in zip(picked, drawn, strict=True)
    ]
    album.remove_others()
    page.write(
        root / PAGE_FILE,
        "composites.html.j2",
        title=facts.title,
        size=size,
        columns=COLUMNS,
        rows=rows,
        published=PUBLISHED,
        network=network.variant.name,
        cases=cases,
    )
    print(f"picture  {root / PICTURE_FILE}\npage     {root / PAGE_FILE}")


@program
def main(
    competition: str = "composites", data: Path | None = None, runs: Path = Path("runs"), images: Positive = 400
) -> None:
    """Print the figures of both heads; draw both_heads.png and both_heads.html.

    Args:
        competition: a name from competition.py, of composites.
        data: the folder of parts; data/<competition> by default.
        runs: where trained variants are.
        images: of each network that are scored, spread over all that it has held out.
    """
    tell(competition, data, runs, images)


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
