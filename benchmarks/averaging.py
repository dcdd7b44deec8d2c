"""`python -m benchmarks.averaging`: what averaging the folds' networks adds on a test set whose truth is known.

Out of fold, an image is scored by the one network that has not seen it; a submission has the mean of all folds'
networks. Cross-validation therefore says what a single network is worth. Here both are scored on the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from command_line import UserError, program
from competition import Competition
from ensemble.intervals import mean_interval
from folds import split
from folds.images import find_training_set, list_images, read_mask
from folds.run_layout import FOLDS_FILE
from folds.scoring import full_size_score
from kernels import rle
from predict.members import Member, find_members, parse_members
from predict.replicas import ReplicaPool
from program_flags import places


def dice_of_folds(
    member: Member, names: Sequence[str], images: Path, masks: Path, competition: Competition
) -> np.ndarray:
    """Dice of each fold's network alone and of their mean.

    Args:
        member: the trained variant, with F folds; its own test-time augmentation is used.
        names: N images that none of them has seen.
        images, masks: the folders that they and their true masks are in.
        competition: its facts.

    Returns:
        (N, F + 1) Dice at full size, the mean's last.
    """
    size, frame, count = competition.size, member.frame, len(member.folds)
    pool = ReplicaPool([replace(member, folds=(folder,)) for folder in member.folds], 1)
    batch = pool.batch(member.variant)
    dice = np.empty((len(names), count + 1))
    bar = tqdm(total=len(names), desc=f"predict {member.name}", unit="image", disable=None)
    with bar, pool.running(), pool.take() as networks:
        for start in range(0, len(names), batch):
            some = names[start : start + batch]
            inputs = np.stack([frame.load(images / name, size)[0] for name in some])
            logits = np.stack([network.logits(inputs, some)[:, 0] for network in networks])
            for k, name in enumerate(some):
                mask = read_mask(masks / competition.mask_name(name), size)
                truth = rle.encode(mask)
                planes = [*logits[:, k], logits[:, k].mean(0)]
                dice[start + k] = [full_size_score(plane, frame, truth, size) for plane in planes]
            bar.update(len(some))
    return dice


def table_lines(dice: dict[str, np.ndarray], groups: np.ndarray) -> list[str]:
    """The result as lines of text.

    Args:
        dice: (N, F + 1) of each member, as `dice_of_folds` gives it.
        groups: (N,) group of every image; intervals are over them.
    """
    folds = next(iter(dice.values())).shape[1] - 1
    singles = "".join(f"{f'fold {k}':>9}" for k in range(folds))
    gains = f"gain (95 % over {len(set(groups))} groups)"
    lines = [f"{'test Dice':28}{singles}{'their mean':>12}{f'{folds} averaged':>12}  {gains}"]
    for name, values in dice.items():
        gain = values[:, -1] - values[:, :-1].mean(1)
        low, high = mean_interval(gain, groups)
        alone = "".join(f"{mean:9.4f}" for mean in values[:, :-1].mean(0))
        lines.append(
            f"{name:28}{alone}{values[:, :-1].mean():12.4f}{values[:, -1].mean():12.4f}"
            f"  {gain.mean():+.4f} ({low:+.4f}..{high:+.4f})"
        )
    return lines


@program
def main(
    competition: str = "studio", members: str = "all", data: Path | None = None, runs: Path = Path("runs")
) -> None:
    """Score each fold's network, and their mean, on the test images.

    Args:
        competition: a name from competition.py; one whose test masks are known.
        members: variants, a comma list; all takes every variant whose folds are all trained.
        data: the competition's files; data/<competition> by default.
        runs: where trained variants are.
    """
    facts, data, root = places(competition, data, runs)
    masks = data / (facts.test_masks_dir or "")
    if not facts.test_masks_dir or not masks.is_dir():
        raise UserError(f"{data} has no test masks: take a competition whose test truth is known (studio).")
    training = find_training_set(facts, data)
    if not (root / FOLDS_FILE).exists():
        raise UserError(f"{root / FOLDS_FILE} is missing: train variants first (make folds V=...).")
    folds = int(split.read(root / FOLDS_FILE, training)["fold"].max()) + 1
    names = list_images(data / facts.test_dir, facts)
    groups = np.array([facts.group(name) for name in names])
    found = find_members(root, parse_members(members, root), folds)
    dice = {member.name: dice_of_folds(member, names, data / facts.test_dir, masks, facts) for member in found}
    for line in table_lines(dice, groups):
        print(line)


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
