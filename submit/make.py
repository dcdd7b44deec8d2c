"""`python -m submit.make`: predict the test set with a fitted blend, write the submission, check it, and, where the
competition knows the test truth, score it. `make submission` calls it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import joblib
import tyro
from tqdm import tqdm

import atomic
import provenance
from command_line import UserError, program
from competition import Competition, Size, find_competition
from ensemble.blends import SCORE_FILE, SUBMISSION_FILE, read_blend
from ensemble.members import TEST_STORE
from ensemble.mixture import Mixture, find_mixture
from ensemble.postprocess import apply_kept
from ensemble.predictor import UnreadableImagesError, predict
from folds.images import list_images
from folds.store import LogitStore
from kernels.rle import encode_logits_text, encode_text
from submit.check import check, sample_names
from submit.score import score
from submit.stream import SubmissionStream

OnMissing = Literal["refuse", "empty"]

SHARD_ROWS = 500


@dataclass(frozen=True)
class _Blender:
    """Blends stored logits into rows of the submission; pickles to workers."""

    mixture: Mixture
    stores: Sequence[LogitStore]
    size: Size
    empty: frozenset[str]

    def rows(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """(name, run-length text) of each image."""
        frames, combine = [member.frame for member in self.mixture.members], self.mixture.combine
        for name in names:
            if name in self.empty:
                yield name, b""
                continue
            planes = [store.read(name)[0] for store in self.stores]
            full = combine(planes, frames, self.mixture.weights, self.size)
            if self.mixture.repairs:
                yield name, encode_text(apply_kept(full > self.mixture.threshold, self.mixture.repairs))
            else:
                yield name, encode_logits_text(full, threshold=self.mixture.threshold)

    def write(self, stream: SubmissionStream, shard: int) -> int:
        """Write one shard of the submission; returns its number of rows."""
        cv2.setNumThreads(1)
        names = stream.shard_names(shard)
        stream.write_shard(shard, self.rows(names))
        return len(names)


def rows_wanted(
    competition: Competition, data: Path, images: Path | None, on_missing: OnMissing = "refuse"
) -> tuple[list[str], Path]:
    """Which images the submission has rows for, and where they are.

    Args:
        competition: the competition.
        data: the folder of its files.
        images: a folder of images to submit instead of the test set; all of its images, sorted, become rows.
        on_missing: "empty" allows images that the sample names to be lacking.

    Returns:
        Names in the order of the submission, and their folder.

    Raises:
        UserError: the folder or sample_submission.csv is missing, or the folder lacks an image the sample names.
    """
    if images is not None:
        return list_images(images, competition), images
    folder = data / competition.test_dir
    if not folder.is_dir():
        raise UserError(
            f"{folder} is missing: put the test images there, or name a folder of images to predict instead "
            "(ARGS='--images FOLDER')."
        )
    names = sample_names(data, competition)
    lacking = sorted(set(names) - set(list_images(folder, competition)))
    if lacking and on_missing == "refuse":
        raise UserError(
            f"{folder} lacks {len(lacking)} of the {len(names)} images that {competition.sample_file} names "
            f"({lacking[0]} first): copy them there, leave their rows empty (ARGS='--on-missing empty'), or name a "
            "folder to predict instead (ARGS='--images FOLDER')."
        )
    return names, folder


def _predicted(mixture: Mixture, names: list[str], folder: Path, size: Size, on_missing: OnMissing) -> _Blender:
    """Logits of all images by all members; images that cannot be read are refused, or become empty rows."""
    stores: list[LogitStore] = []
    empty: set[str] = set()
    for member in mixture.members:
        try:
            stores.append(predict(member, names, folder, size))
        except UnreadableImagesError as error:
            if on_missing == "refuse":
                raise UserError(f"{error} Or leave their rows empty (ARGS='--on-missing empty').") from None
            empty.update(error.names)
            stores.append(LogitStore.open(member.folder / TEST_STORE))
    if len(empty) == len(names):
        raise UserError(f"none of the {len(names)} images in {folder} can be read: copy them again.")
    return _Blender(mixture, stores, size, frozenset(empty))


@program
def main(
    competition: str = "carvana",
    name: str = "blend",
    data: Path | None = None,
    runs: Path = Path("runs"),
    images: Path | None = None,
    on_missing: OnMissing = "refuse",
    restart: bool = False,
    jobs: int = -1,
) -> None:
    """Write the submission of a blend: runs/<competition>/<blend>/submission.csv.gz, checked, with its manifest.

    Args:
        competition: a name from competition.py.
        name: of the blend (ensemble.fit).
        data: the competition's files; data/<competition> by default.
        runs: where trained variants and the blend are.
        images: a folder of images to predict instead of the competition's test set.
        on_missing: what becomes of images that are lacking or cannot be read: refuse to make a submission, or give
            them an empty row.
        restart: discard the shards of another submission (other images, blend or weights) of this blend's folder.
        jobs: processes, as joblib counts them.
    """
    facts = find_competition(competition)
    data = data or facts.default_data()
    root = runs / facts.name
    blend = read_blend(root / name)
    mixture = find_mixture(root, name)
    names, folder = rows_wanted(facts, data, images, on_missing)
    blender = _predicted(mixture, names, folder, facts.size, on_missing)
    fingerprint: dict[str, Any] = {
        "blend": name,
        "members": blend["members"],
        "weights": blend["weights"],
        "threshold": blend["threshold"],
        "postprocess": [list(repair) for repair in mixture.repairs],
        "weights_digests": {m.name: m.weights_digest for m in mixture.members},
    }
    if mixture.vote != "logits":
        fingerprint["vote"] = mixture.vote
    empty = sorted(blender.empty)
    if empty:
        fingerprint["empty_rows"] = empty
    stream = SubmissionStream(
        root / name / "shards",
        names,
        header=facts.header,
        size=facts.size,
        order=facts.order,
        shard_rows=SHARD_ROWS,
        fingerprint=fingerprint,
        restart=restart,
    )
    missing = stream.missing()
    # no process more than there are shards: starting one costs seconds
    processes = max(1, min(len(missing), joblib.cpu_count() if jobs < 0 else jobs))
    parallel = joblib.Parallel(n_jobs=processes, return_as="generator_unordered")
    with tqdm(total=len(names), desc="encode", unit="row", disable=None) as bar:
        bar.update(len(names) - sum(len(stream.shard_names(k)) for k in missing))
        for rows in parallel(joblib.delayed(blender.write)(stream, k) for k in missing):
            bar.update(rows)
    path = root / name / SUBMISSION_FILE
    truth = data / facts.test_masks_dir if facts.test_masks_dir and images is None else None
    entries: dict[str, Any] = {
        "competition": facts.name,
        "blend": blend,
        "cv_dice": blend["cv"]["dice"],
        "git_commit": provenance.git_commit(),
        "versions": provenance.versions(),
    }
    stream.join(path, entries)
    report = check(path, competition=facts, names=names)
    if not report.ok:
        raise UserError(f"{path} does not pass the check: {report}")
    print(f"{path}: {len(names)} rows, checked")
    if empty:
        print(f"{len(empty)} of them are empty, as their images cannot be read: {', '.join(empty[:20])}")
    if truth is not None and truth.is_dir():
        test_dice = float(score(path, truth, competition=facts).mean)
        atomic.write_json(root / name / SCORE_FILE, {"test_dice": test_dice, "truth": str(truth)})
        print(f"test Dice of the submitted file: {test_dice:.4f}")


if __name__ == "__main__":
    tyro.cli(main)
