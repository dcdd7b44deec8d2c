"""`python -m ensemble.report`: the figures of a blend as a table, and a contact sheet of its out-of-fold masks."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pandas as pd
import tyro

import atomic
from command_line import UserError, program
from competition import Size, find_competition
from ensemble.blends import CONTACT_SHEET_FILE, SCORE_FILE, SCORES_FILE, SUBMISSION_FILE, read_blend, table_lines
from ensemble.members import Member, find_members
from ensemble.voting import weighted_logits
from folds.images import TrainingSet, find_training_set, read_mask
from models.frame import decode

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_THUMBNAIL_WIDTH_PX = 640
# error colours: hit, false alarm, miss
_HIT, _FALSE_ALARM, _MISS = (235, 235, 235), (230, 60, 40), (40, 110, 240)


def error_picture(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where two masks (H, W) bool differ: (H, W, 3) uint8 RGB, black where both are background, light grey where both
    are foreground, red where only the prediction is, blue where only the truth is."""
    picture = np.zeros((*truth.shape, 3), np.uint8)
    picture[predicted & truth] = _HIT
    picture[predicted & ~truth] = _FALSE_ALARM
    picture[~predicted & truth] = _MISS
    return picture


def _reduce(picture: np.ndarray, full: Size) -> np.ndarray:
    # thin errors would vanish in an average; the error picture is thickened by the caller
    size = (_THUMBNAIL_WIDTH_PX, round(_THUMBNAIL_WIDTH_PX * full[0] / full[1]))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _thicken(picture: np.ndarray) -> np.ndarray:
    """Make errors one pixel wide visible after the reduction: colours spread by two pixels over grey and black."""
    kernel = np.ones((5, 5), np.uint8)
    result = picture.copy()
    for colour in (_FALSE_ALARM, _MISS):
        spread = cv2.dilate((picture == colour).all(2).astype(np.uint8), kernel).astype(bool)
        result[spread] = colour
    return result


def contact_sheet(
    path: Path, training: TrainingSet, members: list[Member], weights: list[float], rows: list[tuple[str, float]]
) -> None:
    """Draw image, truth, blend and error for some training images; PNG, whole or not at all.

    Args:
        path: of the PNG.
        training: the images.
        members, weights: the blend; its out-of-fold logits are drawn, so no network saw the image it is drawn on.
        rows: (image name, its Dice).
    """
    full = training.competition.size
    stores = [member.oof() for member in members]
    figure, axes = plt.subplots(len(rows), 4, figsize=(16, 2.75 * len(rows) + 0.5), squeeze=False)
    for line, (name, dice) in zip(axes, rows, strict=True):
        image = decode(training.image_path(name))[0]
        truth = read_mask(training.mask_path(name), full)
        logits = weighted_logits([s.read(name)[0] for s in stores], [m.frame for m in members], weights, full)
        predicted = logits > 0
        white = np.uint8(255)
        pictures = (
            (name, image),
            ("truth", truth * white),
            (f"blend, Dice {dice:.4f}", predicted * white),
            ("error: red too much, blue too little", _thicken(error_picture(predicted, truth))),
        )
        for axis, (title, picture) in zip(line, pictures, strict=True):
            axis.imshow(_reduce(picture, full), cmap="gray" if picture.ndim == 2 else None)
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    figure.tight_layout(pad=0.6)
    with atomic.replacing(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png")
    plt.close(figure)


def _sheet_rows(scores: pd.DataFrame) -> list[tuple[str, float]]:
    """The two worst images, two about the median, and the two best."""
    ranked = scores.sort_values(["nested", "image"])[["image", "nested"]]
    middle = len(ranked) // 2
    picked = sorted({*range(min(2, len(ranked))), middle - 1, middle, len(ranked) - 2, len(ranked) - 1})
    return [(str(ranked.iloc[i]["image"]), float(ranked.iloc[i]["nested"])) for i in picked if i >= 0]


@program
def main(
    competition: str = "carvana", name: str = "blend", data: Path | None = None, runs: Path = Path("runs")
) -> None:
    """Print a blend's figures and draw its contact sheet.

    Args:
        competition: a name from competition.py.
        name: of the blend (ensemble.fit).
        data: the competition's files; data/<competition> by default.
        runs: where trained variants and the blend are.
    """
    facts = find_competition(competition)
    folder = runs / facts.name / name
    blend = read_blend(folder)
    training = find_training_set(facts, data or facts.default_data())
    try:
        scores = pd.read_csv(folder / SCORES_FILE)
    except FileNotFoundError:
        raise UserError(f"{folder / SCORES_FILE} is missing: choose the blend again (make fit).") from None
    members = find_members(runs / facts.name, blend["members"], int(scores["fold"].max()) + 1)
    contact_sheet(folder / CONTACT_SHEET_FILE, training, members, blend["weights"], _sheet_rows(scores))
    print()
    for line in table_lines(blend):
        print(line)
    if (folder / SCORE_FILE).exists():
        print(
            f"{'test Dice of the submitted file':36}  {json.loads((folder / SCORE_FILE).read_text())['test_dice']:.4f}"
        )
    if (folder / SUBMISSION_FILE).exists():
        print(f"submission     {folder / SUBMISSION_FILE}")
    print(f"contact sheet  {folder / CONTACT_SHEET_FILE}")


if __name__ == "__main__":
    tyro.cli(main)
