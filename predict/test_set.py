"""Which images the test set has, in the submission's order."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from competition import Competition
from folds.csv_table import read_table
from folds.images import as_spelled, list_images
from folds.run_layout import TEST_STORE
from folds.store import DamagedStoreError, LogitStore
from path_names import inside
from predict.members import Member


def names_of_test_set(members: Sequence[Member], data: Path, competition: Competition) -> list[str]:
    """The test images in the submission's order, as stores that are there already have them."""
    for member in members:
        if (member.folder / TEST_STORE).is_dir():
            # one that is damaged is made anew when it is written
            with contextlib.suppress(DamagedStoreError):
                return LogitStore.open(member.folder / TEST_STORE).names
    sample = data / competition.sample_file
    if sample.exists():
        keys = read_table(sample, competition.header[:1], "copy it again", numbers=[])[competition.header[0]]
        for name in (names := [competition.image_name(key) for key in keys]):
            inside(data / competition.test_dir, name, str(sample))
        return as_spelled(names, data / competition.test_dir, competition)
    return list_images(data / competition.test_dir, competition)
