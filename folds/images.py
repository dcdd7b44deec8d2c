"""The competition's images and masks on disk: listing, reading, verifying.

`python -m folds.images --competition C --data DIR` verifies every training image and mask and names every fault.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import google_crc32c
import numpy as np
import tyro
from PIL import Image

from command_line import UserError, program
from competition import Competition, Size
from folder_listing import Listing, ends_in, list_folder, without_suffix
from folds.csv_table import load_table
from folds.mask_levels import foreground_of, levels_of, refuse_deep_colours, unexpected
from folds.parallel import cut, in_parallel
from models.frame import Frame
from models.image_file import OTHER_SIZE, ImageFile, decode, out_of_memory
from models.image_header import png_of_pixels_alone
from path_names import shown, why_not_in_table
from program_flags import CompetitionName, DataFolder, files_of

# images a process verifies at a time
_CHUNK = 32


def _shared(listing: Listing, suffixes: Sequence[str], competition: Competition) -> Listing:
    """A listing whose others lack those that `suffixes` make images or masks, where both lie in one folder."""
    if competition.train_dir != competition.masks_dir:
        return listing
    return replace(listing, others=tuple(name for name in listing.others if not ends_in(name, suffixes)))


def _report(listing: Listing, meant: str) -> None:
    if note := listing.note(meant):
        print(f"warning: {note}")


def list_images(folder: Path, competition: Competition) -> list[str]:
    """Names of the competition's images in `folder`, sorted; what is skipped, and is not junk, is printed.

    Raises:
        UserError: the folder is missing or holds no image, a name does not follow the competition's grammar, or two
            names differ only in case or in their suffix.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: put the competition's files there, or name their place with DATA=...")
    listing = list_folder(folder, competition.image_suffixes)
    names, kinds = list(listing.names), " or ".join(competition.image_suffixes)
    if not names:
        raise UserError(f"{folder} holds no {kinds} image: copy the competition's files into it.")
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(competition.stem(name).lower(), name)
        if other != name:
            raise UserError(f"{folder} holds both {other} and {name}: remove one of them.")
    for name in names:
        if reason := why_not_in_table(name):
            raise UserError(f"{folder} holds {shown(name)}, but {reason}: rename it.")
        competition.group(name)
    _report(_shared(listing, [competition.mask_suffix], competition), f"{kinds} image")
    return names


def list_masks(folder: Path, competition: Competition) -> dict[str, str]:
    """File names of the masks in a folder, in whatever case their suffixes are, by the names that
    `Competition.mask_name` gives; empty where there is no such folder. What is skipped, and is not junk, is printed.

    Raises:
        UserError: two names differ only in the case of their suffix.
    """
    if not folder.is_dir():
        return {}
    suffix = competition.mask_suffix
    listing = list_folder(folder, [suffix])
    _report(_shared(listing, competition.image_suffixes, competition), f"{suffix} mask")
    found: dict[str, str] = {}
    for name in listing.names:
        other = found.setdefault(without_suffix(name, [suffix]) + suffix, name)
        if other != name:
            raise UserError(f"{folder} holds both {other} and {name}: remove one of them.")
    return found


def as_spelled(names: Sequence[str], folder: Path, competition: Competition) -> list[str]:
    """Names of images, as the submission's rows give them, as a folder's files are named: with another of the
    competition's suffixes, or in another case. A name stays as it is where there is no such file."""
    if not folder.is_dir():
        return list(names)
    found = list_folder(folder, competition.image_suffixes).names
    by_key = {} if set(names) <= set(found) else {competition.key(name): name for name in found}
    return [by_key.get(competition.key(name), name) for name in names]


def read_mask(path: Path, expected: Size) -> np.ndarray:
    """Read a mask.

    Args:
        path: GIF or PNG of at most two levels, the lower one background, in its colour or, where that is the same
            everywhere, in its alpha.
        expected: its size (height, width).

    Returns:
        (H, W) bool.

    Raises:
        UserError: missing, unreadable, of another size, with more than two levels, with two colours of one grey, of
            several pictures, or with one mask in its colour and another in its alpha.
    """
    try:
        data = path.read_bytes()
        refuse_deep_colours(data, path)
        with Image.open(io.BytesIO(png_of_pixels_alone(data))) as file:
            if file.size[::-1] != expected:
                raise UserError(
                    f"{path} has {'x'.join(map(str, file.size[::-1]))} pixels (height x width), expected "
                    f"{expected[0]}x{expected[1]}: {OTHER_SIZE}."
                )
            levels, alpha = levels_of(file, path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: every training image needs its mask; copy it there.") from None
    except MemoryError:
        raise UserError(out_of_memory(path)) from None
    except Image.DecompressionBombError:
        raise UserError(
            f"{path} has more pixels than any mask, expected {expected[0]}x{expected[1]}: {OTHER_SIZE}."
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error):
        raise UserError(f"{path} is not an image that can be read, or is cut off: copy the file again.") from None
    if alpha is None or alpha.min() == alpha.max():
        return foreground_of(levels, path)
    if levels.min() == levels.max():
        return foreground_of(alpha, path)
    mask = foreground_of(levels, path)
    if not np.array_equal(mask, foreground_of(alpha, path)):
        raise UserError(
            f"{path} holds one mask in its colour and another in its alpha: save it in the levels 0 and 255, without "
            "alpha."
        )
    return mask


class Draws(Protocol):
    """Training samples that are drawn anew each epoch, by (epoch, position) alone."""

    def sample(self, epoch: int, position: int, frame: Frame) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """A sample's input (h, w, C) uint8 and, by head, its truth as the head's rule takes it."""


@dataclass(frozen=True)
class TrainingSet:
    """The training images of a competition and where their masks are.

    Attributes:
        competition: the competition.
        data: the folder that holds its files.
        names: image names, sorted.
        digest: identifies the data: 16 hex digits over every image's and mask's name, size in bytes and CRC-32C.
        image_digests: identify each image file whatever its name (`image_digest`), in the order of `names`.
        own_groups: the group of every image, in the same order, where a table says it; empty where the names do.
        mask_files: the file names of the masks as `list_masks` gives them, where any has its suffix in another case.
    """

    competition: Competition
    data: Path
    names: tuple[str, ...]
    digest: str
    image_digests: tuple[str, ...]
    own_groups: tuple[str, ...] = ()
    mask_files: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def image_path(self, name: str) -> Path:
        """Where the image is."""
        return self.data / self.competition.train_dir / name

    def mask_path(self, name: str) -> Path:
        """Where its mask is."""
        mask = self.competition.mask_name(name)
        return self.data / self.competition.masks_dir / self.mask_files.get(mask, mask)

    @property
    def composed(self) -> bool:
        """Whether images are composed when asked for (folds/composites.py), and not files to be decoded and cached."""
        return False

    def picture(self, name: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB: the image, for people. Raises UserError as `decode`."""
        return decode(self.image_path(name))

    def input_of(self, position: int, frame: Frame) -> np.ndarray:
        """(h, w, C) uint8: the image as a network's input. Raises UserError as `Frame.load`."""
        return frame.load(self.image_path(self.names[position]), self.competition.size)[0]

    def mask(self, name: str) -> np.ndarray:
        """(H, W) bool: the true mask. Raises UserError as `read_mask`."""
        return read_mask(self.mask_path(name), self.competition.size)

    def near(self, position: int) -> np.ndarray:
        """(H, W) uint8: nearness, 0 far .. 255 near. Raises UserError where nobody knows the depth, as here."""
        raise UserError(f"{self.data} holds no depth: choose a variant without a depth head.")

    def digests_of(self, position: int) -> frozenset[str]:
        """Digests of the files that an image was made of: of its own file."""
        return frozenset((self.image_digests[position],))

    def draws(self, train: np.ndarray, held_out: np.ndarray, seed: int) -> Draws | None:
        """What a fold trains on where that is drawn anew each epoch; None where it is the images themselves."""
        return None

    def groups(self) -> np.ndarray:
        """(N,) str: the group (car) of every image, in the order of `names`."""
        return np.array(self.own_groups or [self.competition.group(name) for name in self.names])


# what `image_digest` is: digests of one kind are never compared with those of another
IMAGE_DIGEST = "blake2b-48 of size and first, middle and last 4 KiB"


def image_digest(content: bytes) -> str:
    """12 hex digits that identify an image file whatever its name: over its size, first, middle and last 4 KiB."""
    size = len(content)
    digest = hashlib.blake2b(b"%d " % size, digest_size=6)
    for start in (0, max(0, size // 2 - 2048), max(0, size - 4096)):
        digest.update(content[start : start + 4096])
    return digest.hexdigest()


def _digests(path: Path) -> tuple[bytes, str]:
    """A file's part of the data digest, over all of its bytes; and its `image_digest`."""
    content = path.read_bytes()
    part = b"%s %d %08x\n" % (path.name.encode(), len(content), google_crc32c.value(content))
    return part, image_digest(content)


def read_groups(path: Path, competition: Competition, names: Sequence[str]) -> tuple[str, ...]:
    """The group of every image from a table of the columns `image`, by key, and `group`; it may know more images."""
    try:
        table = load_table(path, dtype=str, keep_default_na=False)
    except ValueError:
        raise UserError(f"{path} is not a CSV file: give one with the columns image and group.") from None
    if not {"image", "group"} <= set(table.columns):
        raise UserError(f"{path} needs the columns image and group; it has {', '.join(map(str, table.columns))}.")
    doubles = table["image"][table["image"].duplicated()]
    if len(doubles):
        raise UserError(f"{path} lists {doubles.iloc[0]} twice: keep one row an image.")
    groups = dict(zip(table["image"], table["group"], strict=True))
    lacking = [key for key in map(competition.key, names) if not groups.get(key)]
    if lacking:
        raise UserError(
            f"{path} gives no group for {lacking[0]} ({len(lacking)} of {len(names)} images): add the row, or remove "
            "the file to have every image be its own group."
        )
    return tuple(groups[competition.key(name)] for name in names)


def find_training_set(competition: Competition, data: Path) -> TrainingSet:
    """List the training images and check that each has a mask and each mask an image.

    Raises:
        UserError: a folder is missing or empty, images and masks do not pair up, or a table of groups lacks an image or
            lists one twice; the message names the first.
    """
    if competition.composed:
        # imports this module
        from folds.composites import find_composites

        return find_composites(competition, data)
    names = list_images(data / competition.train_dir, competition)
    masks_dir = data / competition.masks_dir
    if not masks_dir.is_dir():
        raise UserError(f"{masks_dir} is missing: the training masks belong there.")
    masks = list_masks(masks_dir, competition)
    wanted = {competition.mask_name(name): name for name in names}
    lacking = sorted(set(wanted) - set(masks))
    if lacking:
        more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        raise UserError(f"{masks_dir / lacking[0]}{more} is missing: copy the mask of {wanted[lacking[0]]} there.")
    orphans = sorted(masks[name] for name in set(masks) - set(wanted))
    if orphans:
        more = f" (and {len(orphans) - 1} more)" if len(orphans) > 1 else ""
        raise UserError(
            f"{masks_dir / orphans[0]}{more} has no image in {data / competition.train_dir}: the folder is half "
            "copied; copy the image too, or remove the mask."
        )
    digest = hashlib.blake2b(digest_size=8)
    with ThreadPoolExecutor(8) as pool:
        paths = [data / competition.train_dir / n for n in names] + [masks_dir / masks[m] for m in sorted(wanted)]
        found = list(pool.map(_digests, paths))
    for part, _ in found:
        digest.update(part)
    image_digests = tuple(each for _, each in found[: len(names)])
    groups_path = data / (competition.groups_file or "")
    groups = read_groups(groups_path, competition, names) if groups_path.is_file() else ()
    odd = masks if any(own != name for name, own in masks.items()) else {}
    return TrainingSet(competition, data, tuple(names), digest.hexdigest(), image_digests, groups, odd)


def _faults(training: TrainingSet, names: Sequence[str]) -> list[str]:
    size = training.competition.size
    found = []
    for name in names:
        path = training.image_path(name)
        try:
            file = ImageFile(path)
            file.check()
            if file.size != size:
                shown, expected = ("x".join(map(str, each)) for each in (file.size, size))
                found.append(f"{path} has {shown} pixels (height x width), expected {expected}.")
                continue
            mask_path = training.mask_path(name)
            if sentence := unexpected(np.count_nonzero(read_mask(mask_path, size)), mask_path, training.competition):
                found.append(sentence)
        except UserError as error:
            found.append(str(error))
    return found


def faults(training: TrainingSet, *, jobs: int = -1) -> Iterable[str]:
    """Read every image and mask; one sentence for each that cannot be used, or is damaged.

    Args:
        training: what `find_training_set` found.
        jobs: processes, as joblib counts them.
    """
    names = training.names
    for found in in_parallel(partial(_faults, training), cut(names, _CHUNK), len(names), label="verify", jobs=jobs):
        yield from found


@program
def main(competition: CompetitionName = "carvana", data: DataFolder = None, verify: bool = True) -> None:
    """Verify the training images and masks: every file opens, sizes and levels are right, all pair up.

    Args:
        verify: read every file; otherwise only their names are compared.
    """
    training = find_training_set(*files_of(competition, data))
    found = list(faults(training)) if verify else []
    for sentence in found[:20]:
        print(sentence)
    if found:
        raise UserError(f"{len(found)} of {len(training.names)} training images cannot be used (first 20 above).")
    groups = len(set(training.groups()))
    done = "verified" if verify else "found"
    print(f"{len(training.names)} images of {groups} groups {done} in {training.data}, digest {training.digest}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
