"""`python -m benchmarks.few_labels`: what pseudo-labels are worth where few labels are known.

Of a training set with all its labels some groups are drawn whose labels are known; half of the others are images
without labels, and the rest is seen by nobody. The project's own commands train on them, label, and train once more;
the truth that was withheld tells what that gained. Everything is kept and found again: killed, it goes on.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from benchmarks.averaging import dice_of_folds
from command_line import UserError, program
from competition import Competition
from ensemble.blend_file import BLEND_FILE
from ensemble.intervals import mean_interval
from folds.csv_table import read_table, write_table
from folds.images import find_training_set
from folds.pseudo_set import PSEUDO_FILE
from predict.members import find_members
from program_flags import CompetitionName, DataFolder, Epochs, FoldCount, LeastScore, Positive, places

KNOWN, UNLABELLED, UNSEEN = "known", "unlabelled", "unseen"
# rounds beside the networks that they all start from, and whose labels they take
ROUNDS: Mapping[str, str] = {"control": "", "ownfold": "--own-fold", "blend": "--no-own-fold"}
_BASE, _BLEND = "base", "blend"


@dataclass(frozen=True)
class Trial:
    """One draw of the labels that are known.

    Attributes:
        facts: the competition.
        data: its files, with all labels.
        out: under which each draw of each settings has a folder.
        known: groups whose labels are known.
        variant: the name of what is trained.
        folds: how many.
        epochs: of the first training.
        more: epochs of a round; without labels twice as many, which are as many steps.
        least: expected score of a label that is taken; below 0 as `make pseudo` chooses it.
        seed: of draw, split and training.
    """

    facts: Competition
    data: Path
    out: Path
    known: int
    variant: str
    folds: int
    epochs: int
    more: int
    least: float
    seed: int

    @property
    def folder(self) -> Path:
        """Of this draw; named by the settings, so that what others left is neither taken for its own nor mixed in."""
        least = f"-least{self.least:g}" if self.least >= 0 else ""
        settings = f"{self.known}known-{self.folds}folds-{self.epochs}and{self.more}epochs{least}"
        return self.out / f"{self.variant}-{settings}-seed{self.seed}"

    @property
    def _root(self) -> Path:
        return self.folder / "runs" / self.facts.name

    def draw(self, names: Sequence[str]) -> dict[str, list[str]]:
        """The images by what is known of them: their labels, themselves, nothing."""
        known = self.known
        groups = sorted({self.facts.group(name) for name in names})
        if len(groups) < known + 2:
            raise UserError(f"{self.data} has {len(groups)} groups: ask for {len(groups) - 2} or fewer (--known).")
        order = np.random.default_rng(self.seed).permutation(groups)
        middle = known + (len(groups) - known) // 2
        part = {KNOWN: set(order[:known]), UNLABELLED: set(order[known:middle]), UNSEEN: set(order[middle:])}
        return {what: [n for n in names if self.facts.group(n) in own] for what, own in part.items()}

    def lay_out(self, drawn: Mapping[str, Sequence[str]]) -> None:
        """A competition's folder with the known labels alone, and a folder of images without labels."""
        facts, here = self.facts, self.folder / "data"
        for name in drawn[KNOWN]:
            _link(self.data / facts.train_dir / name, here / facts.train_dir / name)
            mask = facts.mask_name(name)
            _link(self.data / facts.masks_dir / mask, here / facts.masks_dir / mask)
        for name in drawn[UNLABELLED]:
            _link(self.data / facts.train_dir / name, self.folder / UNLABELLED / name)

    def _call(self, module: str, *flags: str) -> None:
        where = ("--competition", self.facts.name, "--data", str(self.folder / "data"))
        command = [sys.executable, "-m", module, *where, "--runs", str(self.folder / "runs"), "--jobs", "1", *flags]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], check=False)
        if done.returncode:
            raise UserError(f"{' '.join(command[1:])} ended with {done.returncode}: see above, then run this again.")

    def _train(self, tag: str, epochs: int, *flags: str) -> None:
        common = ("--variant", self.variant, "--fold", "all", "--epochs", str(epochs))
        self._call("folds.train", *common, "--tag", tag, *flags)

    def run(self, rounds: Sequence[str]) -> None:
        """Train, label, and train once more in each of `ROUNDS` that is asked for."""
        seed = str(self.seed)
        self._train(_BASE, self.epochs, "--folds", str(self.folds), "--seed", seed, "--split-seed", seed)
        if not (self._root / _BLEND / BLEND_FILE).exists():
            self._call("ensemble.fit", "--members", f"{self.variant}-{_BASE}")
        start = ("--init-from", str(self._root / f"{self.variant}-{_BASE}"), "--seed", str(self.seed + 1000))
        for name in rounds:
            flag = ROUNDS[name]
            if not flag:
                self._train(name, 2 * self.more, *start)
                continue
            labels = self._root / _BLEND / name
            if not (labels / PSEUDO_FILE).exists():
                which = ("--images", str(self.folder / UNLABELLED), "--least", str(self.least))
                self._call("report.pseudo", *which, flag, "--out", name)
            self._train(name, self.more, *start, "--pseudo", str(labels), "--pseudo-share", "0.5")

    def score(self, drawn: Mapping[str, Sequence[str]], rounds: Sequence[str], views: int) -> pd.DataFrame:
        """One row an image that nobody gave a label of: columns image, group, what, and the Dice of the mean of the
        folds' networks of each training, on some images of every group."""
        tables = []
        runs = [f"{self.variant}-{tag}" for tag in (_BASE, *rounds)]
        members = find_members(self._root, runs, self.folds)
        for what in (UNLABELLED, UNSEEN):
            images = pd.DataFrame({"image": drawn[what], "group": [self.facts.group(name) for name in drawn[what]]})
            step = max(1, int(images.groupby("group").size().max()) // views)
            images = images[images.groupby("group").cumcount() % step == step // 2].assign(what=what)
            for tag, member in zip((_BASE, *rounds), members, strict=True):
                names = images["image"].tolist()
                place, masks = self.data / self.facts.train_dir, self.data / self.facts.masks_dir
                images[tag] = dice_of_folds(member, names, place, masks, self.facts)[:, -1]
            tables.append(images)
        return pd.concat(tables, ignore_index=True)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.symlink_to(source.absolute())


def table_lines(scores: pd.DataFrame, rounds: Sequence[str]) -> list[str]:
    """What each round gained over the training it started from, with 95 % intervals over groups.

    Args:
        scores: as `Trial.score` gives them, of one draw or of several, column `seed`.
        rounds: of `ROUNDS`.
    """
    lines = [f"{'images':>12}{'draws':>7}{'groups':>8}{'base':>9}  " + "  ".join(f"{name:>30}" for name in rounds)]
    for what, table in scores.groupby("what", sort=False):
        shown = []
        for name in rounds:
            low, high = mean_interval((table[name] - table[_BASE]).to_numpy(), table["group"].to_numpy())
            gain = table[name].mean() - table[_BASE].mean()
            shown.append(f"{table[name].mean():.4f} {gain:+.4f} ({low:+.4f}..{high:+.4f})".rjust(30))
        groups = table["group"].nunique()
        lines.append(
            f"{what:>12}{table['seed'].nunique():>7}{groups:>8}{table[_BASE].mean():9.4f}  " + "  ".join(shown)
        )
    return lines


@program
def main(
    out: Path,
    competition: CompetitionName = "carvana",
    data: DataFolder = None,
    variant: str = "unet-mobilenetv3",
    known: Positive = 30,
    seeds: Positive = 5,
    folds: FoldCount = 3,
    epochs: Epochs = 12,
    more: Positive = 4,
    least: LeastScore = -1.0,
    views: Positive = 2,
    rounds: str = "control,ownfold",
) -> None:
    """Withhold the labels of all groups but a few, and tell what pseudo-labels give back.

    Args:
        out: folder of trainings and scores.
        variant: what is trained.
        known: groups whose labels are known.
        seeds: draws of those groups.
        folds: of the known groups.
        epochs: of the first training.
        more: epochs of a round; without labels it takes twice as many, which are as many steps.
        least: expected score of a label that is taken; by default the first networks' own, out of fold.
        views: images of each group that are scored.
        rounds: control (no labels), ownfold, blend; a comma list.
    """
    facts, data, _ = places(competition, data, out)
    asked = rounds.split(",")
    for name in asked:
        if name not in ROUNDS:
            raise UserError(f"{name!r} is not a round: take of {', '.join(ROUNDS)} (--rounds).")
    training = find_training_set(facts, data)
    done = []
    for seed in range(seeds):
        trial = Trial(facts, data, out, known, variant, folds, epochs, more, least, seed)
        path = trial.folder / f"scores-{'-'.join(asked)}-{views}views.csv"
        if not path.exists():
            drawn = trial.draw(training.names)
            trial.lay_out(drawn)
            trial.run(asked)
            write_table(path, trial.score(drawn, asked, views), float_format=None)
        hint = "remove it, and run this again"
        scores = read_table(path, ["image", "group", "what"], hint, numbers=[_BASE, *asked])
        done.append(scores.assign(seed=seed))
        for line in table_lines(pd.concat(done), asked):
            print(line)


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
