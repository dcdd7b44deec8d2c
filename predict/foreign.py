"""Predictions that other programs have made: files of probabilities, logits or labels, read as logits.

nnU-Net's NPZ files are among them (`probabilities` or `softmax`, classes first, with an axis of one slice), and so are
plain NPY arrays and PNG pictures of 8 or 16 bits.
"""

from __future__ import annotations

import hashlib
import lzma
import math
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import cv2
import joblib
import numpy as np
from tqdm import tqdm

from command_line import UserError
from competition import Size
from folder_listing import ends_in, is_junk

Values = Literal["auto", "probabilities", "logits", "labels"]

# the richest first
SUFFIXES = (".npz", ".npy", ".png")
# what nnU-Net calls the array, version 2 and version 1
_KEYS = ("probabilities", "softmax")
# a folder of a path that says the fold, as nnU-Net (`fold_0`) and this project (`fold0`) write it
_FOLD = re.compile(r"fold_?(\d+)")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# what a prediction may have, all classes together
_MOST_VALUES = 1 << 27
# what numpy, its decoders and OpenCV raise for a file that is damaged, encrypted, packed in another way or too large
_UNREADABLE = (
    ValueError, OSError, EOFError, LookupError, RuntimeError, SyntaxError, TypeError, MemoryError, OverflowError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, cv2.error,
)  # fmt: skip
# how far beyond 0 and 1 numbers may be that nobody can tell from probabilities with a slip
_SLIP = 0.5
# how near to 0 and 1 a probability is taken for what it says; an integer's step is coarser
_CERTAIN = 1e-6
_CERTAIN_LABEL = 2.0**-9


@dataclass(frozen=True)
class Found:
    """The file of one image's prediction: its stem, where it is, and the fold that its folders name, if any."""

    stem: str
    path: Path
    fold: int | None


def _best(candidates: Sequence[Found]) -> list[Found]:
    """Of the files of one image those that count: those in folders named after folds, if there are any, as others were
    gathered from them; and of the richest kind, as nnU-Net writes an NPZ of probabilities and a PNG of labels."""
    placed = [file for file in candidates if file.fold is not None] or list(candidates)
    kinds = {file.path: SUFFIXES.index(file.path.suffix.lower()) for file in placed}
    if len({file.fold for file in placed}) > 1:
        return placed
    return [file for file in placed if kinds[file.path] == min(kinds.values())]


def find_files(folder: Path, images: Sequence[str] = ()) -> list[Found]:
    """The predictions in a folder and in those below it, by stem; how many files are skipped is printed.

    Args:
        folder: of the predictions.
        images: names of the images; files that are named after none of them are skipped. Empty takes all.

    Raises:
        UserError: there is none, or two are of one image.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give one that holds a file ({', '.join(SUFFIXES)}) an image.")
    stems = {Path(name).stem for name in images}
    candidates: dict[str, list[Found]] = {}
    strangers: list[Path] = []
    for path in sorted(path for path in folder.rglob("*") if ends_in(path.name, SUFFIXES) and path.is_file()):
        inner = path.relative_to(folder).parts
        if any(map(is_junk, inner)):
            continue
        if stems and path.stem not in stems:
            strangers.append(path)
            continue
        parts = [match for part in inner[:-1] if (match := _FOLD.fullmatch(part))]
        file = Found(path.stem, path, int(parts[-1][1]) if parts else None)
        candidates.setdefault(file.stem, []).append(file)
    found: list[Found] = []
    spare = 0
    for stem in sorted(candidates):
        best = _best(candidates[stem])
        if len(best) > 1:
            raise UserError(f"{best[0].path} and {best[1].path} are both predictions of {stem}: remove one.")
        found += best
        spare += len(candidates[stem]) - 1
    if not found:
        among = f" of the images ({images[0]} first)" if strangers else ""
        raise UserError(
            f"{folder} holds no predictions{among}: give a folder of {', '.join(SUFFIXES)} files, one an image, each "
            "named after its image."
        )
    if strangers:
        print(f"{folder}: {len(strangers)} files are named after no image and skipped ({strangers[0]} first)")
    if spare:
        print(f"{folder}: {spare} files are skipped beside a better one of the same image (NPZ before NPY before PNG)")
    return found


def _check_shape(path: Path, header: BinaryIO, size_bytes: int) -> None:
    """Raise ValueError where an NPY header says more than there is, or than a prediction can have: before it is read
    into memory that nobody has."""
    version = np.lib.format.read_magic(header)
    if version not in _HEADERS:
        raise ValueError(f"NPY format {version[0]}.{version[1]}")
    shape, _, dtype = _HEADERS[version](header)
    count = math.prod(shape)
    if count * dtype.itemsize > size_bytes:
        raise ValueError(f"it says to hold {shape} of {dtype}, more bytes than there are")
    if count > _MOST_VALUES:
        raise ValueError(f"it says to hold {shape}, more than any mask")


def _png_pixels(path: Path) -> int:
    """Pixels that a PNG says to have; 0 of anything else."""
    with path.open("rb") as file:
        head = file.read(24)
    return int.from_bytes(head[16:20]) * int.from_bytes(head[20:24]) if head.startswith(b"\x89PNG\r\n\x1a\n") else 0


def _zipped_array(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        names = [name for name in _KEYS if name in entries] or list(entries)
        if len(names) != 1:
            raise ValueError(f"arrays {', '.join(entries) or 'none'}, expected one, or {' or '.join(_KEYS)}")
        info = entries[names[0]]
        with archive.open(info) as header:
            _check_shape(path, cast(BinaryIO, header), info.file_size)
        with archive.open(info) as content:
            return np.asarray(np.lib.format.read_array(content, allow_pickle=False))


def _array(path: Path) -> np.ndarray:
    """What a file holds. Raises UserError where it cannot be read."""
    try:
        if path.suffix.lower() == ".png":
            if _png_pixels(path) > _MOST_VALUES:
                raise ValueError("it says to have more pixels than any mask")
            picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            if picture is None:
                raise ValueError("no picture")
            return picture
        if zipfile.is_zipfile(path):
            return _zipped_array(path)
        with path.open("rb") as file:
            _check_shape(path, file, path.stat().st_size)
        return np.asarray(np.load(path, allow_pickle=False))
    except _UNREADABLE as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read ({said}): copy the file again, or write it anew.") from None


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
    if not planes.size:
        raise UserError(f"{file.path} holds no pixel: predict the image again, or leave this member out.")
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


def _looks_like_probabilities(facts: _Facts) -> bool:
    return facts.lowest >= 0 and (facts.dtype.kind in "biu" or facts.highest <= 1)


def _refuse_doubt(facts: Sequence[_Facts], files: Sequence[Found]) -> None:
    """Raise UserError where numbers may be probabilities but for a few, or but for a little."""
    like = [_looks_like_probabilities(each) for each in facts]
    strange = like.index(False)
    path, shown = files[strange].path, f"values from {facts[strange].lowest:g} to {facts[strange].highest:g}"
    if 2 * sum(like) > len(like):
        raise UserError(
            f"{path} holds {shown}, and {sum(like)} of {len(like)} files hold probabilities: predict it again, or say "
            "what the numbers are (--values)."
        )
    if min(f.lowest for f in facts) >= -_SLIP and max(f.highest for f in facts) <= 1 + _SLIP:
        raise UserError(
            f"{path} holds {shown}, outside of 0 to 1 and yet too near to it for logits: clip what are probabilities, "
            "or say that they are logits (--values logits)."
        )


def _kind(facts: Sequence[_Facts], files: Sequence[Found], wanted: Values, folder: Path) -> tuple[Values, float]:
    """What the numbers of all files together are, and what stands for certain foreground."""
    lowest, highest = min(f.lowest for f in facts), max(f.highest for f in facts)
    whole = all(f.dtype.kind in "biu" for f in facts)
    if whole and highest <= 1 and lowest >= 0:
        guess: Values = "labels"
    elif all(map(_looks_like_probabilities, facts)):
        guess = "probabilities"
    else:
        guess = "logits"
        if wanted == "auto":
            _refuse_doubt(facts, files)
    values = guess if wanted == "auto" else wanted
    if values == "logits":
        return values, 1.0
    largest = 1.0
    if whole and not (values == "labels" and highest <= 1):
        largest = highest if values == "labels" else float(max(np.iinfo(f.dtype).max for f in facts))
    if lowest < 0 or highest > largest:
        path = next(file.path for file, f in zip(files, facts, strict=True) if f.lowest < 0 or f.highest > largest)
        raise UserError(
            f"{folder} holds values from {lowest:g} to {highest:g} ({path} first), which are no {values}: --values "
            "logits takes them."
        )
    return values, largest


def open_predictions(
    folder: Path, values: Values = "auto", *, images: Sequence[str] = (), jobs: int = -1
) -> Predictions:
    """Look through a folder of predictions.

    Args:
        folder: one NPZ, NPY or PNG an image, in it or in folders below, named after the image.
        values: what the numbers are. "auto" takes whole numbers of 0 and 1 for labels, other whole numbers for
            probabilities in steps of their type's range, fractions within 0..1 for probabilities and all others for
            logits; it looks at all files together.
        images: names of the images, as `find_files` takes them.
        jobs: threads that read, as joblib counts them.

    Raises:
        UserError: a file cannot be read, or holds what is no prediction of a mask; or files differ in size, classes or
            type.
    """
    files = find_files(folder, images)
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
    kind, largest = _kind(facts, files, values, folder)
    digest = hashlib.blake2b(digest_size=8)
    for file, fact in zip(files, facts, strict=True):
        digest.update(file.stem.encode() + b"\0" + fact.digest)
    return Predictions({file.stem: file for file in files}, first.size, kind, largest, digest.hexdigest())
