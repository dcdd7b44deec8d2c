"""What a fold's weights have seen, by group and by image file, through every run that they were started from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

import atomic
from folds.images import IMAGE_DIGEST, TrainingSet
from folds.run_layout import SEEN_FILE
from json_file import Schema, closed


@closed
class _Record(TypedDict):
    """The content of seen.json."""

    digest: NotRequired[str]
    groups: dict[str, str]


_RECORD = Schema(_Record, "put a good copy back, or train the fold again")


@dataclass(frozen=True)
class Seen:
    """Training images, known again wherever they turn up: in other data, in another split, or under another name.

    A group is known by its name, whatever becomes of its masks or of its files; an image file by its content, whatever
    its name. An image that is both renamed and encoded anew is not known again.

    Attributes:
        groups: per name of a group, the digests of its image files (`TrainingSet.image_digests`).
    """

    groups: Mapping[str, frozenset[str]]

    @staticmethod
    def of(training: TrainingSet, positions: Iterable[int]) -> Seen:
        """Some images of a training set, by their positions in its names."""
        groups: dict[str, set[str]] = {}
        group_of = training.groups().tolist()
        for position in positions:
            groups.setdefault(group_of[position], set()).update(training.digests_of(position))
        return Seen({group: frozenset(digests) for group, digests in groups.items()})

    def __or__(self, other: Seen) -> Seen:
        names = self.groups.keys() | other.groups.keys()
        none: frozenset[str] = frozenset()
        return Seen({name: self.groups.get(name, none) | other.groups.get(name, none) for name in names})

    def among(self, training: TrainingSet, positions: Iterable[int], but: Seen) -> list[str]:
        """Names of those of some images of a training set that were seen, or whose group was.

        Args:
            training: the images.
            positions: which of them.
            but: image files that do not count: what the fold itself trains on. (Data may hold a file twice, under the
                names of two groups.)
        """
        digests = frozenset().union(*self.groups.values()) - frozenset().union(*but.groups.values())
        group_of = training.groups().tolist()
        return [
            training.names[position]
            for position in positions
            if group_of[position] in self.groups or training.digests_of(position) & digests
        ]

    def write(self, folder: Path) -> None:
        """Write `seen.json` into a fold's folder: one line a group, the digests in order, separated by spaces."""
        groups = {name: " ".join(sorted(self.groups[name])) for name in sorted(self.groups)}
        atomic.write_json(folder / SEEN_FILE, {"digest": IMAGE_DIGEST, "groups": groups})

    @staticmethod
    def read(folder: Path) -> Seen | None:
        """What `write` wrote into a fold's folder; None where there is nothing, or digests of another kind.

        Raises:
            UserError: the file is damaged.
        """
        record = _RECORD.read_if_there(folder / SEEN_FILE)
        if record is None or record.get("digest") != IMAGE_DIGEST:
            return None
        return Seen({name: frozenset(digests.split()) for name, digests in record["groups"].items()})
