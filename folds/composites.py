"""Composites as a training set that takes no disk: backgrounds and foregrounds in two folders, composed when asked for.

    bg/, fg/              pictures; foregrounds are PNG (or whatever keeps it) with transparency
    bg_depth/, fg_depth/  for a depth head: `<stem>.png` of each, 8 bits, 0 far .. 255 near
    composites.json       settings, if others than the defaults of `Settings`

**The rule of the folds.** A composite is held out only if both its background and its foreground are. So backgrounds
and foregrounds are dealt into blocks, and a fold holds whole blocks out. The composites of a block are the images of
the training set: they are scored, each by the fold that has seen neither of its parts. All others, whose parts lie in
different blocks, only train: each epoch draws its samples from all composites of the parts of the blocks that it trains
on (`Draws`); those that mix a part that is held out with one that is not are dropped.
"""

from __future__ import annotations

import functools
import hashlib
import json
from bisect import bisect_left
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from command_line import UserError
from competition import Competition
from folder_listing import list_folder
from folds.composite_parts import (
    BACKGROUND_DEPTH_DIR,
    BACKGROUNDS_DIR,
    FOREGROUND_DEPTH_DIR,
    FOREGROUNDS_DIR,
    list_parts,
    read_parts,
)
from folds.images import TrainingSet, image_digest
from json_file import Count, Schema, closed
from kernels import rle
from kernels.composite_grid import Grid, Item
from kernels.composition import Parts
from kernels.paste import OPAQUE
from models.frame import Frame

SETTINGS_FILE = "composites.json"


@closed
@dataclass(frozen=True)
class Settings:
    """What decides the composites beside their parts.

    Attributes:
        seed: of the places, and of the blocks.
        positions: places a pair of background and foreground.
        mirrored: each foreground also mirrored.
        scored: at how many of the positions, at most, the composites of a block are images of the set; the others only
            train.
        blocks: into how many blocks the parts are dealt, at most; fewer where there are fewer parts.
    """

    seed: Count = 0
    positions: Annotated[int, Field(ge=1, le=10_000)] = 20
    mirrored: bool = True
    blocks: Annotated[int, Field(ge=2)] = 20
    scored: Annotated[int, Field(ge=1)] = 2


_SETTINGS = Schema(Settings, "remove it, or write it again")


def read_settings(data: Path) -> Settings:
    """The settings of a folder of parts; the defaults where it has none.

    Raises:
        UserError: a field is unknown, or out of its range.
    """
    return _SETTINGS.read_if_there(data / SETTINGS_FILE) or Settings()


@functools.lru_cache(maxsize=2)
def _parts(data: Path, digest: str) -> Parts:
    """Read once a process; `digest` so that other content is read anew."""
    return read_parts(data, list_parts(data / BACKGROUNDS_DIR), list_parts(data / FOREGROUNDS_DIR))


def deal(backgrounds: int, foregrounds: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """The block of each background and of each foreground, (B,) and (F,) int64, as equal in number as possible."""
    count = min(settings.blocks, backgrounds, foregrounds)
    rng = np.random.default_rng((settings.seed, backgrounds, foregrounds))
    background, foreground = (rng.permutation(np.arange(parts) % count) for parts in (backgrounds, foregrounds))
    return background, foreground


@dataclass(frozen=True, kw_only=True)
class CompositeSet(TrainingSet):
    """The composites of each block's backgrounds and foregrounds, as a training set; pickles without their pixels.

    An image's name is `<block>_<background>_<foreground>_<position><m or a>.png`, the position mirrored or as it is,
    and its group is the block: 8 hex digits that follow from the content of the block's files.

    Attributes:
        settings: that decide the composites.
        grid: all composites, of which these are some.
        indices: (N,) their numbers in the grid, in the order of `names`.
        part_digests: identify the files of the backgrounds, then of the foregrounds.
    """

    settings: Settings
    grid: Grid
    indices: tuple[int, ...]
    part_digests: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def composed(self) -> bool:
        """Its images are not files: nothing of them is cached."""
        return True

    @property
    def parts(self) -> Parts:
        """The pictures; read at the first call in each process."""
        return _parts(self.data, self.digest)

    def position(self, name: str) -> int:
        """Where an image is in `names`."""
        return bisect_left(self.names, name)

    def _index(self, name: str) -> int:
        return self.indices[self.position(name)]

    def picture(self, name: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB: the composite, for people."""
        return self.parts.compose(self.grid, self.settings.seed, [self._index(name)]).images[0]

    def background(self, name: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB: the background alone."""
        return self.parts.backgrounds[self.grid.item(self._index(name)).background]

    def input_of(self, position: int, frame: Frame) -> np.ndarray:
        """(h, w, 6) uint8: background and composite, each brought to the network's size."""
        return self.sample(self.indices[position], frame)[0]

    def mask(self, name: str) -> np.ndarray:
        """(H, W) bool: where the foreground covers at least half a pixel."""
        return self.parts.compose(self.grid, self.settings.seed, [self._index(name)]).alphas[0] >= OPAQUE

    def near(self, position: int) -> np.ndarray:
        """(H, W) uint8: nearness, 0 far .. 255 near. Raises UserError where there are no depth maps."""
        found = self.parts.compose(self.grid, self.settings.seed, [self.indices[position]]).nears
        if found is None:
            raise UserError(
                f"{self.data / BACKGROUND_DEPTH_DIR} and {self.data / FOREGROUND_DEPTH_DIR} are missing: put depth "
                "maps there, have them made (python -m folds.label_depth), or train a variant without depth "
                "(compact-mask-96)."
            )
        return found[0]

    def digests_of(self, position: int) -> frozenset[str]:
        """Digests of the files that an image was made of: its background's and its foreground's."""
        item = self.grid.item(self.indices[position])
        return frozenset((self.part_digests[0][item.background], self.part_digests[1][item.foreground]))

    def sample(self, index: int, frame: Frame) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Any composite of the grid: its input at a network's size, and the truth of its heads as their rules take it.

        Returns:
            (h, w, 6) uint8; "mask": (R, 2) int64 runs; "depth", where there are depth maps: (H, W) uint8 nearness.
        """
        found = self.parts.compose(self.grid, self.settings.seed, [index])
        under = self.parts.backgrounds[self.grid.item(index).background]
        pixels = np.concatenate([frame.apply(under), frame.apply(found.images[0])], axis=2)
        truths = {"mask": rle.encode(found.alphas[0] >= OPAQUE)}
        if found.nears is not None:
            truths["depth"] = found.nears[0]
        return pixels, truths

    def draws(self, train: np.ndarray, held_out: np.ndarray, seed: int) -> Draws:
        """What one fold trains on, drawn anew each epoch.

        Args:
            train, held_out: positions of a fold.
            seed: of the draws.

        Raises:
            UserError: a background or a foreground is on both sides, which would be a leak.
        """
        sides = []
        for positions in (train, held_out):
            items = [self.grid.item(self.indices[int(position)]) for position in positions]
            sides.append((sorted({i.background for i in items}), sorted({i.foreground for i in items})))
        for kind, (ours, theirs) in enumerate(zip(*sides, strict=True)):
            shared = set(ours) & set(theirs)
            if shared:
                name = self._part_name(kind, min(shared))
                raise UserError(
                    f"{name} is trained on and held out by one fold, so its score would be a lie: keep each block in "
                    "one fold (remove folds.csv to have it made anew)."
                )
        return Draws(self, tuple(sides[0][0]), tuple(sides[0][1]), seed)

    def _part_name(self, kind: int, number: int) -> str:
        folder = self.data / (BACKGROUNDS_DIR, FOREGROUNDS_DIR)[kind]
        return str(list_parts(folder)[number])


@dataclass(frozen=True)
class Draws:
    """Training samples: any composite of some backgrounds and foregrounds, by (epoch, position) alone.

    Attributes:
        training: whose composites.
        backgrounds, foregrounds: that may be drawn.
        seed: of the draws.
    """

    training: CompositeSet
    backgrounds: tuple[int, ...]
    foregrounds: tuple[int, ...]
    seed: int

    def index(self, epoch: int, position: int) -> int:
        """The number of the composite that stands for a position in an epoch."""
        grid = self.training.grid
        words = np.random.SeedSequence((self.seed, epoch, position)).generate_state(4)
        sizes = len(self.backgrounds), len(self.foregrounds), grid.positions, 1 + grid.mirrored
        b, f, place, mirrored = (int(word) * size >> 32 for word, size in zip(words, sizes, strict=True))
        return grid.index(Item(self.backgrounds[b], self.foregrounds[f], place, bool(mirrored)))

    def sample(self, epoch: int, position: int, frame: Frame) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """As `CompositeSet.sample`."""
        return self.training.sample(self.index(epoch, position), frame)


@dataclass(frozen=True)
class NearTruth:
    """The nearness of every image of a training set, composed when asked for."""

    training: TrainingSet

    def checked(self) -> NearTruth:
        """This, if there is depth; else UserError."""
        self.training.near(0)
        return self

    def of(self, position: int) -> np.ndarray:
        """(H, W) uint8, 0 far .. 255 near."""
        return self.training.near(position)


def find_composites(competition: Competition, data: Path) -> CompositeSet:
    """The composites of a folder of parts. All parts are read once, so that what is wrong with one is said at once.

    Returns:
        The set; its competition has the backgrounds' size.

    Raises:
        UserError: a folder is missing or too empty, a file cannot be used, or two are the same; the message names it.
    """
    settings = read_settings(data)
    paths = list_parts(data / BACKGROUNDS_DIR), list_parts(data / FOREGROUNDS_DIR)
    digest = hashlib.blake2b(json.dumps(asdict(settings), sort_keys=True).encode(), digest_size=8)
    digests = tuple(tuple(image_digest(path.read_bytes()) for path in part) for part in paths)
    depths = [folder for folder in (data / BACKGROUND_DEPTH_DIR, data / FOREGROUND_DEPTH_DIR) if folder.is_dir()]
    for path, own in zip((*paths[0], *paths[1]), (*digests[0], *digests[1]), strict=True):
        digest.update(f"{path.parent.name}/{path.name} {own}\n".encode())
    for folder in depths:
        for path in (folder / name for name in list_folder(folder, [".png"]).names):
            digest.update(f"{folder.name}/{path.name} {image_digest(path.read_bytes())}\n".encode())
    # not the cache's: files may have been changed by something that left their digests alone
    parts = _parts(data, digest.hexdigest())
    grid = parts.grid(positions=settings.positions, mirrored=settings.mirrored)
    dealt = deal(grid.backgrounds, grid.foregrounds, settings)
    named: dict[str, int] = {}
    digests_by_name: dict[str, str] = {}
    for block in range(int(dealt[0].max()) + 1):
        under, over = np.flatnonzero(dealt[0] == block), np.flatnonzero(dealt[1] == block)
        content = "".join([digests[0][b] for b in under] + [digests[1][f] for f in over])
        group = hashlib.blake2b(content.encode(), digest_size=4).hexdigest()
        for b in under.tolist():
            for f in over.tolist():
                for place in range(min(settings.scored, grid.positions)):
                    for mirrored in (False, True)[: 1 + grid.mirrored]:
                        way = "m" if mirrored else "a"
                        name = f"{group}_{paths[0][b].stem}_{paths[1][f].stem}_{place:02}{way}.png"
                        named[name] = grid.index(Item(b, f, place, mirrored))
                        digests_by_name[name] = f"{digests[0][b]}+{digests[1][f]}"
    names = sorted(named)
    for name in names[:: max(1, len(names) // 1000)]:
        competition.group(name)
    return CompositeSet(
        replace(competition, size=parts.size),
        data,
        tuple(names),
        digest.hexdigest(),
        tuple(digests_by_name[name] for name in names),
        settings=settings,
        grid=grid,
        indices=tuple(named[name] for name in names),
        part_digests=(digests[0], digests[1]),
    )
