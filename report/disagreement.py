"""`python -m report.disagreement`: on which test images networks disagree; failures can be found so without truth.

Reads the stored test logits; writes a table of all images and a page of the worst. `make disagreement` calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tyro

from command_line import UserError, program
from ensemble.blend import Blend
from ensemble.blend_file import (
    DISAGREEMENT_FILE,
    DISAGREEMENT_PAGE_FILE,
    DISAGREEMENT_PICTURES_DIR,
    blend_folder,
    read_blend,
)
from ensemble.stored_masks import StoredMasks
from folds.contents import CONTENTS_FILE, changed, read_contents
from folds.csv_table import write_table
from folds.parallel import cut, in_parallel
from folds.run_layout import TEST_STORE, finished_folds
from folds.store import LogitStore
from kernels.metrics import score_in
from predict.members import Member, find_members
from predict.predictor import predict as predict_images
from predict.test_set import names_of_test_set
from program_flags import CompetitionName, DataFolder, Jobs, NonNegative, RunsFolder, places
from report import page
from report.pictures import Album, case
from report.scan import trusted_networks

_CHUNK = 32


def _counts(reader: StoredMasks, images: Sequence[str]) -> list[tuple[int, int]]:
    cv2.setNumThreads(1)
    counts = []
    for image in images:
        every, some = np.ones(reader.full, bool), np.zeros(reader.full, bool)
        # one mask at a time, whatever the number of networks
        for frame, plane in zip(reader.blend.frames, reader.planes(image), strict=True):
            mask = frame.invert(plane, reader.full) > 0
            every &= mask
            some |= mask
        counts.append((int(np.count_nonzero(every)), int(np.count_nonzero(some))))
    return counts


def measure(reader: StoredMasks, images: Sequence[str], *, jobs: int = -1) -> pd.DataFrame:
    """How much the networks disagree on every image, at full size.

    Args:
        reader: of at least two networks' test logits.
        images: their names.
        jobs: processes, as joblib counts them.

    Returns:
        One row an image, in the order of `images`: image; disagreement, the share (0..1) of the frame's pixels on
        which the masks are not all the same; disagreement_of_object, the same pixels as a share of those that any
        network calls foreground (0 where none does).
    """
    count, parts = partial(_counts, reader), cut(images, _CHUNK)
    counted = in_parallel(count, parts, len(images), label="compare networks", few=0, jobs=jobs)
    counts = [pair for part in counted for pair in part]
    every, some = np.array(counts, np.int64).reshape(-1, 2).T
    disputed = some - every
    return pd.DataFrame(
        {
            "image": list(images),
            "disagreement": disputed / (reader.full[0] * reader.full[1]),
            "disagreement_of_object": disputed / np.maximum(some, 1),
        }
    )


def _predicted(members: Sequence[Member]) -> list[tuple[Member, LogitStore]]:
    """The members that have predicted the whole test set, with their stores."""
    found = []
    for member in members:
        if (member.folder / TEST_STORE).is_dir():
            store = LogitStore.open(member.folder / TEST_STORE)
            if not store.missing():
                found.append((member, store))
    return found


@program
def main(
    competition: CompetitionName = "carvana",
    name: str = "blend",
    members: str = "",
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
    worst: NonNegative = 50,
    predict: bool = False,
    jobs: Jobs = -1,
) -> None:
    """Write disagreement.csv and disagreement.html, the images on which networks disagree most.

    Args:
        name: of the blend (ensemble.fit) whose networks are compared and whose folder takes the result.
        members: networks to compare, a comma list; by default all that have predicted the test set and have at most
            twice the best one's error.
        worst: images on the page.
        predict: have the networks that have not predicted the test set do so first; only what is missing is predicted.
    """
    facts, data, root = places(competition, data, runs)
    folder = blend_folder(root, name)
    blend = read_blend(folder)
    scores = {network: score_in(figures) for network, figures in blend["member_cv"].items()}
    wanted = [part.strip() for part in members.split(",") if part.strip()]
    unknown = [part for part in wanted if part not in scores]
    if unknown:
        raise UserError(f"{unknown[0]!r} is no network of {folder}; known: {', '.join(scores)}.")
    if not wanted:
        names = list(scores)
        wanted = [names[i] for i in trusted_networks(np.array(list(scores.values())))]
    candidates = find_members(root, wanted, len(finished_folds(root / wanted[0])))
    if predict:
        images = names_of_test_set(candidates, data, facts)
        for member in candidates:
            predict_images(member, images, data / facts.test_dir, facts.size)
    found = _predicted(candidates)
    if len(found) < 2:
        have = ", ".join(member.name for member, _ in found) or "none"
        raise UserError(
            f"of {', '.join(wanted)}, {have} has predicted the test set, and it takes two networks to disagree: "
            "have the others predict it too (make disagreement ARGS=--predict)."
        )
    for _, store in found:
        record = store.path / CONTENTS_FILE
        stale = changed(record, read_contents(data / facts.test_dir, store.names, record)) if record.exists() else []
        if stale:
            raise UserError(
                f"{len(stale)} of the test images are not what they were when they were predicted ({stale[0]} first): "
                "have them predicted again (make disagreement ARGS=--predict)."
            )
    images = found[0][1].names
    for member, store in found[1:]:
        if store.names != images:
            raise UserError(
                f"{store.path} holds other images than {found[0][1].path}: remove it and predict again ({member.name})."
            )
    networks, stores = zip(*found, strict=True)
    reader = StoredMasks(Blend(networks, (1 / len(found),) * len(found)), stores, facts.size, data / facts.test_dir)
    table = measure(reader, images, jobs=jobs)
    write_table(folder / DISAGREEMENT_FILE, table)
    album = Album(folder / DISAGREEMENT_PICTURES_DIR, DISAGREEMENT_PICTURES_DIR)
    everyone = np.arange(len(found))
    ranked = table.sort_values("disagreement", ascending=False, kind="stable").head(worst)
    cases = [
        case(
            album,
            reader,
            everyone,
            image,
            data / facts.test_dir / image,
            None,
            f"{100 * of_frame:.2f} % of the frame, {100 * of_object:.1f} % of the object",
        )
        for image, of_frame, of_object in zip(*(ranked[column].tolist() for column in ranked.columns), strict=True)
    ]
    album.remove_others()
    page.write(
        folder / DISAGREEMENT_PAGE_FILE,
        "disagreement.html.j2",
        title=f"{facts.title}: where networks disagree",
        networks=reader.names,
        images=len(table),
        mean=float(table["disagreement"].mean()),
        cases=cases,
    )
    mean = table["disagreement"].mean()
    print(f"{len(table)} images, networks {', '.join(reader.names)}; {mean:.3%} of the pixels in dispute")
    print(f"table  {folder / DISAGREEMENT_FILE}")
    print(f"page   {folder / DISAGREEMENT_PAGE_FILE}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
