"""The facts of each competition, and nothing else: the one place that knows a competition's numbers.

Imports only the standard library and modules of the root that do, so that every package may import it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from command_line import UserError
from folder_listing import ends_in, without_suffix

Order = Literal["row", "column"]
RowKey = Literal["name", "stem"]
Size = tuple[int, int]


@dataclass(frozen=True)
class Archive:
    """One thing that a competition ships, packed or not, and where its content belongs.

    Attributes:
        name: its name without `.zip`; what `--only` calls it.
        folders: those that it fills, relative to the data folder. Everything in it goes into the only one; of several,
            each file goes into the one whose last part is the name of the folder that the file has in the archive.
            None for a table, which becomes the file `name`.
        better: a folder whose images these are again in a better quality; fetched only where they are asked for.
    """

    name: str
    folders: tuple[str, ...] = ()
    better: str = ""


@dataclass(frozen=True)
class Competition:
    """What a binary-mask competition fixes.

    An image's *name* is the name of its file (`00087a6bd4dc_01.jpg`); what stands for it in a row of the submission,
    and of the tables, is its *key*. Folders are relative to the data folder, and may be nested.

    Attributes:
        name: our own name for it, the value of `C=` and of `--competition`.
        title: for people.
        slug: Kaggle's name for it; None where Kaggle does not hold it.
        size: (height, width) of every image, in pixels.
        order: run-length numbering of the pixels; "row" counts left to right, then down.
        name_pattern: regular expression of a whole image name, its suffix in lower case. It may have the named groups
            `group` (images that share it must stay in one fold: the car) and `view`.
        mask_suffix: what replaces the image's suffix in the name of its mask.
        header: the two columns of the submission, key and run-length text.
        train_count, test_count: images in the full competition; None where that is not fixed.
        archives: what the organiser ships, in the order in which it is fetched.
        image_suffix: of the images' file names, in whatever case a file has it.
        further_suffixes: others that they may have too.
        row_key: how a row names its image: by the file's "name", or by its "stem", the name without suffix.
        train_dir, masks_dir, test_dir: folders of the images and of the training masks.
        truth_table: the training masks as run lengths, in the submission's own form; None where there is none.
        groups_file: CSV with the columns `image` (keys) and `group`, where the names say nothing and somebody has found
            out; where the file is not there, every image is its own group.
        metadata_file: a table of facts about groups, or, without groups, about images; None where there is none.
        metadata_key: its column of groups, or of keys.
        metadata_breakdown: its column by which a report breaks scores down; None where none is worth it.
        sample_file: the sample submission, which fixes the rows and their order.
        metric: key of `kernels.metrics.METRICS`; the competition's score is its mean over images.
        empty_masks: whether images without any foreground are ordinary, and not faults.
        full_masks: whether images of foreground alone are.
        channels: of an image; 3 is RGB.
        targets: heads (folds/heads.py) that there is truth for.
        composed: images are composed of backgrounds and foregrounds when asked for (folds/composites.py); an image is a
            background and a composite, six channels, its size the backgrounds', and `size` what they usually have.
        test_masks_dir: folder of the test images' true masks; None where nobody but the organiser has them.
    """

    name: str
    title: str
    slug: str | None
    size: Size
    order: Order
    name_pattern: str
    mask_suffix: str
    header: tuple[str, str]
    train_count: int | None
    test_count: int | None
    archives: tuple[Archive, ...] = ()
    image_suffix: str = ".jpg"
    further_suffixes: tuple[str, ...] = ()
    row_key: RowKey = "name"
    train_dir: str = "train"
    masks_dir: str = "train_masks"
    test_dir: str = "test"
    channels: int = 3
    targets: tuple[str, ...] = ("mask",)
    composed: bool = False
    test_masks_dir: str | None = None
    truth_table: str | None = None
    groups_file: str | None = None
    metadata_file: str | None = None
    metadata_key: str = "id"
    metadata_breakdown: str | None = None
    sample_file: str = "sample_submission.csv"
    metric: str = "dice"
    empty_masks: bool = False
    full_masks: bool = False

    def _match(self, name: str) -> re.Match[str]:
        match = re.fullmatch(self.name_pattern, self._lowered(name))
        if match is None:
            expected = re.sub(r"\?P<\w+>", "", self.name_pattern)
            raise UserError(
                f"{name!r} is not an image name of the {self.name} competition (expected {expected}): "
                "rename the file or take it out of the folder."
            )
        return match

    @property
    def image_suffixes(self) -> tuple[str, ...]:
        """All that an image's file name may end in."""
        return (self.image_suffix, *self.further_suffixes)

    def suffixes_of(self, folder: str) -> tuple[str, ...]:
        """What the files end in that are meant in one of the competition's folders.

        >>> COMPETITIONS["carvana"].suffixes_of("train"), COMPETITIONS["carvana"].suffixes_of("train_masks")
        (('.jpg',), ('_mask.gif',))
        """
        return (self.mask_suffix,) if folder == self.masks_dir else self.image_suffixes

    def stem(self, name: str) -> str:
        """An image's name without its suffix.

        >>> COMPETITIONS["salt"].stem("575d24d81d.PNG")
        '575d24d81d'
        """
        return without_suffix(name, self.image_suffixes)

    def _lowered(self, name: str) -> str:
        """A name with its suffix in lower case."""
        stem = self.stem(name)
        return stem + name[len(stem) :].lower()

    def follows_pattern(self, name: str) -> bool:
        """Whether a file is named as the competition names its images."""
        return ends_in(name, self.image_suffixes) and bool(re.fullmatch(self.name_pattern, self._lowered(name)))

    @property
    def has_groups(self) -> bool:
        """Whether the file names say which images belong together."""
        return "group" in re.compile(self.name_pattern).groupindex

    @property
    def has_views(self) -> bool:
        """Whether the file names say from where each image was taken."""
        return "view" in re.compile(self.name_pattern).groupindex

    def group(self, name: str) -> str:
        """The key that ties images together (the car), as far as the name says; an image without one is its own group.

        Raises:
            UserError: `name` does not follow the competition's file-name grammar.

        >>> COMPETITIONS["carvana"].group("00087a6bd4dc_01.jpg")
        '00087a6bd4dc'
        """
        return self._match(name).groupdict().get("group") or self.key(name)

    def view(self, name: str) -> str | None:
        """The view within the group (the turntable angle), as the file name spells it; None where there are no views.

        >>> COMPETITIONS["carvana"].view("00087a6bd4dc_01.jpg")
        '01'
        """
        return self._match(name).groupdict().get("view")

    @property
    def row_suffix(self) -> str:
        """What a row leaves off the usual name of its image; nothing where it names the file."""
        return "" if self.row_key == "name" else self.image_suffix

    def key(self, name: str) -> str:
        """What stands for an image in a row of the submission, in whatever case its file has the suffix.

        >>> COMPETITIONS["carvana"].key("00087a6bd4dc_01.JPG"), COMPETITIONS["salt"].key("575d24d81d.png")
        ('00087a6bd4dc_01.jpg', '575d24d81d')
        """
        return self._lowered(name) if self.row_key == "name" else self.stem(name)

    def image_name(self, key: str) -> str:
        """The usual file name of the image that a row names: the opposite of `key` where the suffix is the usual one.

        >>> COMPETITIONS["salt"].image_name("575d24d81d")
        '575d24d81d.png'
        """
        return key + self.row_suffix

    def mask_name(self, name: str) -> str:
        """The file name of an image's mask.

        >>> COMPETITIONS["carvana"].mask_name("00087a6bd4dc_01.jpg")
        '00087a6bd4dc_01_mask.gif'
        """
        return self.stem(name) + self.mask_suffix

    def count(self, folder: str) -> int | None:
        """How many files the full competition has in a folder; None where that is not fixed.

        >>> COMPETITIONS["carvana"].count("train_masks")
        5088
        """
        better = {f: archive.better for archive in self.archives for f in archive.folders}
        known = {self.train_dir: self.train_count, self.masks_dir: self.train_count, self.test_dir: self.test_count}
        return known.get(better.get(folder) or folder)

    def archives_of(self, *parts: str | None) -> list[str]:
        """Names of the archives that folders and tables are in, in the order in which they are fetched.

        >>> COMPETITIONS["salt"].archives_of("train/images", "train/masks", None)
        ['train']
        """
        return [a.name for a in self.archives if a.name in parts or not set(a.folders).isdisjoint(parts)]

    def default_data(self) -> Path:
        """Where the competition's files are unless `DATA=` says otherwise, relative to the repository root."""
        return Path("data") / self.name


def _tables(*names: str) -> tuple[Archive, ...]:
    return tuple(Archive(name) for name in names)


def _folders(*names: str) -> tuple[Archive, ...]:
    """Archives of a folder each, which has the archive's name."""
    return tuple(Archive(name, (name,)) for name in names)


_CAR_VIEW = r"(?P<group>[0-9a-f]{12})_(?P<view>\d\d)\.jpg"

COMPETITIONS = {
    c.name: c
    for c in (
        Competition(
            name="carvana",
            title="Carvana Image Masking Challenge",
            slug="carvana-image-masking-challenge",
            size=(1280, 1918),
            order="row",
            name_pattern=_CAR_VIEW,
            mask_suffix="_mask.gif",
            header=("img", "rle_mask"),
            train_count=5_088,
            test_count=100_064,
            archives=(
                *_tables("metadata.csv", "sample_submission.csv", "train_masks.csv"),
                *_folders("train_masks", "train", "test"),
                Archive("train_hq", ("train_hq",), better="train"),
                Archive("test_hq", ("test_hq",), better="test"),
            ),
            truth_table="train_masks.csv",
            metadata_file="metadata.csv",
            metadata_breakdown="make",
        ),
        Competition(
            name="studio",
            title="Studio, the embedded competition",
            slug=None,
            size=(1280, 1918),
            order="row",
            name_pattern=_CAR_VIEW,
            mask_suffix="_mask.gif",
            header=("img", "rle_mask"),
            train_count=None,
            test_count=None,
            test_masks_dir="test_masks",
            metadata_file="metadata.csv",
            metadata_breakdown="make",
        ),
        Competition(
            name="composites",
            title="Composites, masks and depth of a foreground on a known background",
            slug=None,
            size=(192, 192),
            order="row",
            # block, background, foreground, position, mirrored or as it is
            name_pattern=r"(?P<group>[0-9a-f]{8})_.+_.+_\d\d+[am]\.png",
            mask_suffix=".png",
            header=("img", "rle_mask"),
            train_count=None,
            test_count=None,
            image_suffix=".png",
            channels=6,
            targets=("mask", "depth"),
            composed=True,
        ),
        Competition(
            name="salt",
            title="TGS Salt Identification Challenge",
            slug="tgs-salt-identification-challenge",
            size=(101, 101),
            order="column",
            name_pattern=r"[0-9a-f]{10}\.png",
            mask_suffix=".png",
            header=("id", "rle_mask"),
            train_count=4_000,
            test_count=18_000,
            archives=(
                *_tables("depths.csv", "sample_submission.csv", "train.csv"),
                Archive("train", ("train/images", "train/masks")),
                Archive("test", ("test/images",)),
            ),
            image_suffix=".png",
            row_key="stem",
            train_dir="train/images",
            masks_dir="train/masks",
            test_dir="test/images",
            truth_table="train.csv",
            groups_file="groups.csv",
            metadata_file="depths.csv",
            targets=("mask", "presence"),
            metric="mean_precision",
            empty_masks=True,
            full_masks=True,
        ),
    )
}


def find_competition(name: str) -> Competition:
    """The competition of that name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    try:
        return COMPETITIONS[name]
    except KeyError:
        raise UserError(
            f"unknown competition {name!r}; known: {', '.join(COMPETITIONS)} (add one in competition.py)."
        ) from None
