"""Predictions that other programs have made: files of probabilities, logits or labels, read as logits.

nnU-Net's NPZ files are among them (`probabilities` or `softmax`, classes first, with an axis of one slice), and so are
plain NPY arrays and PNG pictures of 8 or 16 bits.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import joblib
import numpy as np
from tqdm import tqdm

from command_line import UserError
from competition import Size

Values = Literal["auto", "probabilities", "logits", "labels"]

SUFFIXES = (".npz", ".npy", ".png")
# what nnU-Net calls the array, version 2 and version 1
_KEYS = ("probabilities", "softmax")
# a folder of a path that says the fold, as nnU-Net (`fold_0`) and this project (`fold0`) write it
_FOLD = re.compile(r"fold_?(\d+)")
# how near to 0 and 1 a probability is taken for what it says; an integer's step is coarser
_CERTAIN = 1e-6
_CERTAIN_LABEL = 2.0**-9


@dataclass(frozen=True)
class Found:
    """The file of one image's prediction: its stem, where it is, and the fold that its folders name, if any."""

    stem: str
    path: Path
    fold: int | None


def find_files(folder: Path) -> list[Found]:
    """The predictions in a folder and in those below it, by stem.

    Raises:
        UserError: there is none, or two are of one image.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give one that holds a file ({', '.join(SUFFIXES)}) an image.")
    found: dict[str, Found] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        parts = [match for part in path.relative_to(folder).parts[:-1] if (match := _FOLD.fullmatch(part))]
        file = Found(path.stem, path, int(parts[-1][1]) if parts else None)
        if file.stem in found:
            raise UserError(f"{found[file.stem].path} and {path} are both predictions of {file.stem}: remove one.")
        found[file.stem] = file
    if not found:
        raise UserError(f"{folder} holds no predictions: give a folder of {', '.join(SUFFIXES)} files, one an image.")
    return list(found.values())


def _array(path: Path) -> np.ndarray:
    """What a file holds. Raises UserError where it cannot be read."""
    try:
        if path.suffix.lower() == ".png":
            picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            if picture is None:
                raise ValueError("no picture")
            return picture
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = [name for name in _KEYS if name in loaded.files] or loaded.files
            if len(names) != 1:
                raise ValueError(f"arrays {', '.join(loaded.files) or 'none'}, expected one, or {' or '.join(_KEYS)}")
            return np.asarray(loaded[names[0]])
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, cv2.error) as error:
        raise UserError(f"{path} cannot be read ({error}): copy the file again.") from None


def _planes(path: Path) -> np.ndarray:
    """(C, h, w), C = 1 (foreground) or 2 (background, foreground). Raises UserError for any other shape."""
    array = _array(path)
    shape = array.shape
    if array.dtype.kind not in "biuf":
        raise UserError(f"{path} holds {array.dtype}: give probabilities, logits or labels as numbers.")
    if path.suffix.lower() == ".png" and array.ndim == 3:
        if not (array == array[..., :1])[..., :3].all():
            raise UserError(f"{path} is in colour: save the foreground's probability in shades of grey.")
        array = array[..., 0]
    if array.ndim > 2:
        array = array.reshape([side for side in array.shape if side != 1])
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3 and array.shape[0] == 2:
        return array
    if array.ndim == 3 and array.shape[2] == 2:
        return array.transpose(2, 0, 1)
    raise UserError(
        f"{path} holds an array of shape {shape}: give (h, w) of the foreground, or (2, h, w) of background and "
        "foreground."
    )


@dataclass(frozen=True)
class _Facts:
    """What one file says of itself."""

    size: Size
    classes: int
    dtype: np.dtype
    lowest: float
    highest: float
    digest: bytes


def _facts(file: Found) -> _Facts:
    planes = _planes(file.path)
    if not np.isfinite(planes).all():
        raise UserError(f"{file.path} holds NaN or infinity: predict the image again, or leave this member out.")
    lowest, highest = float(planes.min()), float(planes.max())
    digest = hashlib.blake2b(file.path.read_bytes(), digest_size=8).digest()
    return _Facts((planes.shape[1], planes.shape[2]), len(planes), planes.dtype, lowest, highest, digest)


@dataclass(frozen=True)
class Predictions:
    """Predictions of one network, all of one kind.

    Attributes:
        files: by the stem of the image's name.
        size: (h, w) of every prediction.
        values: what the numbers are.
        largest: of integers, what stands for certain foreground; 1 of others.
        digest: 16 hex digits that identify the files' contents and stems.
    """

    files: Mapping[str, Found]
    size: Size
    values: Values
    largest: float
    digest: str

    def logits(self, stem: str) -> np.ndarray:
        """(h, w) float32: the foreground's logits of one image."""
        planes = _planes(self.files[stem].path)
        if self.values == "logits":
            values = planes.astype(np.float32)
            return values[0] if len(values) == 1 else values[1] - values[0]
        certain = _CERTAIN if planes.dtype.kind == "f" else max(_CERTAIN, 0.5 / self.largest)
        if self.values == "labels":
            certain = _CERTAIN_LABEL
        probability = np.clip(planes[-1].astype(np.float64) / self.largest, certain, 1 - certain)
        return np.log(probability / (1 - probability)).astype(np.float32)


def _kind(facts: Sequence[_Facts], wanted: Values, folder: Path) -> tuple[Values, float]:
    """What the numbers of all files together are, and what stands for certain foreground."""
    lowest, highest = min(f.lowest for f in facts), max(f.highest for f in facts)
    whole = all(f.dtype.kind in "biu" for f in facts)
    if whole and highest <= 1 and lowest >= 0:
        guess: Values = "labels"
    else:
        guess = "probabilities" if lowest >= 0 and (whole or highest <= 1) else "logits"
    values = guess if wanted == "auto" else wanted
    if values == "logits":
        return values, 1.0
    largest = 1.0
    if whole and not (values == "labels" and highest <= 1):
        largest = highest if values == "labels" else float(max(np.iinfo(f.dtype).max for f in facts))
    if lowest < 0 or highest > largest:
        raise UserError(
            f"{folder} holds values from {lowest:g} to {highest:g}, which are no {values}: --values logits takes them."
        )
    return values, largest


def open_predictions(folder: Path, values: Values = "auto", *, jobs: int = -1) -> Predictions:
    """Look through a folder of predictions.

    Args:
        folder: one NPZ, NPY or PNG an image, in it or in folders below, named after the image.
        values: what the numbers are. "auto" takes whole numbers of 0 and 1 for labels, other whole numbers for
            probabilities in steps of their type's range, fractions within 0..1 for probabilities and all others for
            logits; it looks at all files together.
        jobs: threads that read, as joblib counts them.

    Raises:
        UserError: a file cannot be read, or holds what is no prediction of a mask; or files differ in size, classes or
            type.
    """
    files = find_files(folder)
    reading = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
    found = reading(joblib.delayed(_facts)(file) for file in files)
    facts = list(tqdm(found, "look through", len(files), unit="file", disable=None))
    first = facts[0]
    for file, other in zip(files, facts, strict=True):
        for what, own, theirs in (
            ("size", other.size, first.size),
            ("number of classes", other.classes, first.classes),
            ("type", other.dtype, first.dtype),
        ):
            if own != theirs:
                raise UserError(
                    f"{file.path} has another {what} ({own}) than {files[0].path} ({theirs}): give the predictions of "
                    "one network, all written alike."
                )
    kind, largest = _kind(facts, values, folder)
    digest = hashlib.blake2b(digest_size=8)
    for file, fact in zip(files, facts, strict=True):
        digest.update(file.stem.encode() + b"\0" + fact.digest)
    return Predictions({file.stem: file for file in files}, first.size, kind, largest, digest.hexdigest())
