"""`python -m benchmarks.systems`: the published systems and our own on the real competition, trained and tabled.

Each row is one run of `folds.train`; a row whose folds are finished is not trained again, so a killed call goes on
where it was. The table holds what was measured, and says so of what was not.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from command_line import UserError, program
from competition import find_competition
from ensemble.intervals import figures
from folds import split
from folds.images import find_training_set
from folds.recipes import find_recipe
from folds.run_layout import CACHE_DIR, FOLDS_FILE, OOF_STORE, begun_folds, fold_folder
from folds.scoring import full_size_score
from folds.store import LogitStore
from folds.task import mean_over_images, read_manifest, read_recipe
from folds.truth import load_truth
from models.frame import frame_of
from models.variant import Variant
from models.variants import find_variant


@dataclass(frozen=True)
class System:
    """One row.

    Attributes:
        name: what it is.
        published: its authors' figure, Dice unless it says otherwise.
        variant, recipe: what is trained and how; "" is the variant's own recipe.
        fold: the folds trained, as `folds.train --fold` takes them.
        epochs: instead of the recipe's; 0 keeps them.
        cpu_epochs: of a row that needs a GPU, what two cores can train in an hour or two; 0 is none.
        init_from: the variant, of a row above, whose weights it starts from; "" starts anew.
        needs: what it trains on within hours.
    """

    name: str
    published: str
    variant: str
    fold: str = "0"
    recipe: str = ""
    epochs: int = 0
    cpu_epochs: int = 0
    init_from: str = ""
    needs: Literal["cpu", "gpu"] = "gpu"

    def trained_by(self, train: str) -> bool:
        """Whether `--train` says so."""
        return train == "all" or train == self.needs or (train == "cpu" and self.cpu_epochs > 0)


SYSTEMS = (
    System("A: average mask", "0.7434", "average-mask", fold="0..4", needs="cpu"),
    System("A: simple CNN", "0.8894", "a-cnn-128", needs="cpu"),
    System("A: U-Net", "0.9891", "a-unet-128", cpu_epochs=6),
    System("B: U-Net", "0.9964, private leaderboard", "b-unet-768"),
    System("B: U-Net of dense blocks", "-", "b-dense-unet-768"),
    System("C: U-Net", "about 0.983, accuracy", "c-unet-128", cpu_epochs=2),
    System("3rd place: dilated U-Net, one fold", "0.9972", "dilated-unet-1024x1536"),
    System("ours: U-Net on MobileNetV3", "-", "unet-mobilenetv3", "0..4", "cpu-hour", epochs=10, needs="cpu"),
    System("ours: it, then higher", "-", "unet-mobilenetv3-320x512", "0..4", init_from="unet-mobilenetv3", needs="cpu"),
    System("ours: windowed, from ImageNet weights", "-", "windowed-unet-lite0-640x960", "0..4", needs="cpu"),
    System(
        "ours: it, on all pixels",
        "-",
        "windowed-unet-lite0-full",
        "0..4",
        init_from="windowed-unet-lite0-640x960",
        needs="cpu",
    ),
    System("ours: U-Net on ResNet34", "-", "unet-resnet34-1024"),
    System("ours: U-Net on EfficientNet-B3", "-", "unet-efficientnetb3-1024"),
)


def _train(system: System, competition: str, data: Path, runs: Path, train: str, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "folds.train", "--competition", competition, "--data", str(data)]
    command += ["--runs", str(runs), "--variant", system.variant, "--fold", system.fold]
    command += ["--recipe", system.recipe] if system.recipe else []
    epochs = system.cpu_epochs if train == "cpu" and system.needs == "gpu" else system.epochs
    command += ["--epochs", str(epochs)] if epochs else []
    command += ["--init-from", str(runs / competition / system.init_from)] if system.init_from else []
    print(f"\n{system.name}: {' '.join(command[1:] + arguments)}", flush=True)
    if subprocess.run(command + arguments, cwd=Path(__file__).parent.parent).returncode:
        raise UserError(
            f"{system.name} was not trained, for the reason above: fix that, or leave it out with --variants."
        )


def _begun_for(run: Path) -> int:
    """The epochs that a run's folds were begun for, the most of them; 0 where none was begun."""
    recipes = [read_recipe(fold) for fold in begun_folds(run)]
    return max((recipe["epochs"] for recipe in recipes if recipe), default=0)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Table:
    """Scores finished folds from their stores.

    Args:
        competition: a name from competition.py.
        data: its files.
        root: `runs/<competition>`.
    """

    def __init__(self, competition: str, data: Path, root: Path) -> None:
        self._root = root
        self._training = find_training_set(find_competition(competition), data)
        self._truth = load_truth(self._training, root / CACHE_DIR)
        self._groups = self._training.groups()
        path = root / FOLDS_FILE
        self._fold = split.read(path, self._training)["fold"].to_numpy() if path.exists() else None

    def _dice(self, variant: Variant, positions: np.ndarray) -> np.ndarray:
        store, frame = LogitStore.open(self._root / variant.name / OOF_STORE), frame_of(variant)
        size, names = self._training.competition.size, self._training.names
        return np.array(
            [full_size_score(store.read(names[p])[0], frame, self._truth.of(int(p)), size) for p in positions]
        )

    def row(self, system: System) -> str:
        """A line of the table in Markdown: measured over the finished ones of the system's folds."""
        variant = find_variant(system.variant)
        size = f"{variant.size[0]}x{variant.size[1]}"
        manifests: list[dict[str, Any]] = []
        if self._fold is not None:
            wanted = split.parse_folds(system.fold, int(self._fold.max()) + 1)
            found = [read_manifest(fold_folder(self._root / variant.name, k)) for k in wanted]
            manifests = [manifest for manifest in found if manifest]
        if self._fold is None or not manifests:
            reason = ", needs a GPU" if system.needs == "gpu" else ""
            return f"| {system.name}, {size} | {system.published} | not yet measured{reason} | |"
        positions = np.flatnonzero(np.isin(self._fold, [m["fold"] for m in manifests]))
        seen = figures(self._dice(variant, positions), self._groups[positions])
        low, high = seen["interval"]
        cars = len(np.unique(self._groups[positions]))
        folds = (
            "fold"
            + "s" * (len(manifests) > 1)
            + " "
            + ", ".join(str(m["fold"]) for m in manifests)
            + f" ({cars} unseen cars)"
        )
        last = mean_over_images(manifests, "last_dice")
        # the epoch kept was chosen by these very images
        chosen = last is not None and any(m["last_dice"] != m["dice"] for m in manifests)
        end = f", the best epoch's; the last one's {last:.4f}" if chosen else ""
        whole = system.epochs or find_recipe(system.recipe or variant.recipe).epochs
        trained = manifests[0].get("recipe", {}).get("epochs", whole)
        fewer = f"{trained} of {whole} epochs, " if trained < whole else ""
        hardware = manifests[0].get("hardware", "CPU")
        spent = _duration(sum(m["seconds"] for m in manifests) / len(manifests))
        return (
            f"| {system.name}, {size} | {system.published} | {seen['dice']:.4f} ({low:.4f}..{high:.4f}){end} | "
            f"{folds}, {fewer}{hardware}, {spent} a fold |"
        )


@program
def main(
    competition: str = "carvana",
    data: Path | None = None,
    runs: Path = Path("runs"),
    train: Literal["none", "cpu", "gpu", "all"] = "none",
    variants: str = "",
    arguments: str = "",
) -> None:
    """Train what is asked for, then print the table of the published systems beside ours, in Markdown.

    Args:
        competition: a name from competition.py.
        data: its files; data/<competition> by default.
        runs: where results are, and go.
        train: rows to train first: none, those a CPU can (some for fewer epochs than published), those that need a
            GPU, or all.
        variants: only the rows of these variants, comma separated.
        arguments: further ones of folds.train, as one text ("--workers 8").
    """
    chosen = [s for s in SYSTEMS if not variants or s.variant in variants.split(",")]
    unknown = set(filter(None, variants.split(","))) - {s.variant for s in SYSTEMS}
    if unknown:
        raise UserError(
            f"no row has the variant {', '.join(sorted(unknown))}; those there are: "
            f"{', '.join(s.variant for s in SYSTEMS)}."
        )
    if train in ("gpu", "all") and not torch.cuda.is_available():
        raise UserError("there is no GPU here that torch can use: --train cpu trains the rows that need none.")
    data = data or find_competition(competition).default_data()
    for system in chosen:
        begun = _begun_for(runs / competition / system.variant)
        if train == "cpu" and system.needs == "gpu" and begun > system.cpu_epochs > 0:
            # on a GPU: training for fewer epochs would be refused, or drop what is not finished
            print(f"{system.name} was begun for {begun} epochs, and is left as it is")
        elif system.trained_by(train):
            _train(system, competition, data, runs, train, arguments.split())
    table = Table(competition, data, runs / competition)
    print("\n| system | published | ours: Dice (95 % over cars) | measured on |\n|---|---|---|---|")
    for system in chosen:
        print(table.row(system))


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
