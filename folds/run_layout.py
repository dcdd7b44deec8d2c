"""The layout of `runs/<competition>/`: its names, and which of it is finished.

    folds.csv                       the split
    cache/                          what is derived from the training images
    explore/                        the page about the data, and its numbers
    suspects/                       labels that networks contradict
    labels/                         labels of groups, told from their images
    activations/, masks/            pages about networks; masks of photographs
    sent.json, kaggle/              what was sent to Kaggle, and which jobs were pushed there
    <run>/                          a variant; trained with --tag, <variant>-<tag>
        fold<k>/                    one network, its recipe and its curves; manifest.json is written last
            resume/                 while it trains
        oof.zarr, test.zarr         logits, all folds together
        tta.json
        round.json                  of a round of self-training, the verdict
    <blend>/                        what `ensemble.blend_file` names; manifest.json is its submission's

What each file holds, FORMATS.md says.
"""

from __future__ import annotations

import re
from pathlib import Path

from command_line import UserError
from folder_lock import LOCK_FILE

# a network's own two files are models.checkpoint's, which lies below this package
from models.variant import VARIANT_FILE, WEIGHTS_FILE

FOLDS_FILE = "folds.csv"
CACHE_DIR = "cache"
SENT_FILE = "sent.json"
JOBS_DIR = "kaggle"
EXPLORE_DIR = "explore"
EXPLORE_PAGE_FILE = "explore.html"
EXPLORE_NUMBERS_FILE = "explore.json"
EXPLORE_IMAGES_FILE = "images.csv"
SUSPECTS_DIR = "suspects"
SUSPECTS_PAGE_FILE = "suspects.html"
SUSPECTS_FILE = "suspects.csv"
CONFIDENCE_FILE = "confidence.csv"
LABELS_DIR = "labels"
LABELS_PAGE_FILE = "labels.html"
LABELS_FILE = "guesses.csv"
ACTIVATIONS_DIR = "activations"
# of photographs, unless OUT= names another folder
MASKS_DIR = "masks"
# of a blend, unless --name gives another
BLEND_DIR = "blend"

OOF_STORE = "oof.zarr"
TEST_STORE = "test.zarr"
# Zarr's own, beside the chunks: of which images the logits are, and by which network
STORE_METADATA_FILE = "zarr.json"
TTA_FILE = "tta.json"
# of a run that learned from pseudo-labels: whether it is kept
ROUND_FILE = "round.json"

RECIPE_FILE = "recipe.json"
SEEN_FILE = "seen.json"
METRICS_FILE = "metrics.csv"
CURVES_FILE = "curves.png"
DIVERGED_FILE = "diverged.json"
RESUME_DIR = "resume"
# with how many threads the fold was begun
THREADS_FILE = "threads.json"
# and in what it computes
PRECISION_FILE = "precision.json"
# the states after the last completed epoch and after the one before
LAST_STATE_FILE = "last.ckpt"
PREVIOUS_STATE_FILE = "previous.ckpt"
# of a fold and of a submission: if it is there, the rest is whole
MANIFEST_FILE = "manifest.json"
# what predicting with a fold, or starting from it, takes
TRAINED_FILES = (WEIGHTS_FILE, VARIANT_FILE, RECIPE_FILE, MANIFEST_FILE)

# of what lies in `runs/<competition>` beside the runs and the blends
_TAKEN = (FOLDS_FILE, CACHE_DIR, SENT_FILE, JOBS_DIR, EXPLORE_DIR, SUSPECTS_DIR, LABELS_DIR, ACTIVATIONS_DIR, MASKS_DIR)

_FOLD = "fold"


def fold_folder(run: Path, fold: int) -> Path:
    """The folder of one fold.

    >>> fold_folder(Path("runs/carvana/a-unet-128"), 3).as_posix()
    'runs/carvana/a-unet-128/fold3'
    """
    return run / f"{_FOLD}{fold}"


def fold_number(folder: Path) -> int | None:
    """The opposite of `fold_folder`; None for a folder that is no fold's.

    >>> fold_number(Path("a-unet-128/fold3")), fold_number(Path("a-unet-128"))
    (3, None)
    """
    match = re.fullmatch(rf"{_FOLD}(\d+)", folder.name)
    return int(match[1]) if match else None


def check_name_of_run(root: Path, name: str, flag: str) -> None:
    """Refuse a name for a new run in `runs/<competition>` that something else has, or will have.

    Args:
        root: `runs/<competition>`.
        name: one part of a path.
        flag: what gave it.

    Raises:
        UserError: it is taken.
    """
    run = root / name
    if name in (*_TAKEN, BLEND_DIR):
        raise UserError(f"{run} is the place of something else than a network: choose another name ({flag}).")
    # a folder that another import has just begun has its lock alone
    others = run.exists() and (not run.is_dir() or any(entry.name != LOCK_FILE for entry in run.iterdir()))
    if others and not begun_folds(run) and not (run / OOF_STORE).exists():
        raise UserError(f"{run} is there, and is no run of a network: choose another name ({flag}).")


def check_name_of_blend(root: Path, name: str, flag: str) -> None:
    """As `check_name_of_run`, for a blend; UserError where the name is taken."""
    run = root / name
    if name in _TAKEN:
        raise UserError(f"{run} is the place of something else than a blend: choose another name ({flag}).")
    if begun_folds(run) or (run / OOF_STORE).exists():
        raise UserError(f"{run} holds a network, not a blend: choose another name ({flag}).")


def is_finished(folder: Path) -> bool:
    """Whether a fold, or a submission, is complete."""
    return (folder / MANIFEST_FILE).exists()


def begun_folds(run: Path) -> list[Path]:
    """The folders of a run's folds, finished or not, by number; none where there is no such run."""
    numbered = {number: path for path in run.glob(f"{_FOLD}*") if (number := fold_number(path)) is not None}
    return [numbered[number] for number in sorted(numbered)]


def finished_folds(run: Path) -> list[Path]:
    """The folders of a run's finished folds, by number."""
    return [folder for folder in begun_folds(run) if is_finished(folder)]


def trained_runs(root: Path) -> list[Path]:
    """The runs in `runs/<competition>` of which a fold is finished, by name."""
    return [run for run in sorted(root.glob("*")) if finished_folds(run)]
