"""`python -m submit.make`: predict the test set with a fitted blend, write the submission, check it, and, where the
competition knows the test truth, score it. `make submission` calls it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import tyro
from tqdm import tqdm

import atomic
import provenance
from command_line import UserError, program
from competition import Competition, Size
from ensemble.blend import Blend, find_blend
from ensemble.blend_file import SCORE_FILE, SHARDS_DIR, SUBMISSION_FILE, FittedBlend, blend_folder, read_blend
from folder_lock import fill
from folds.contents import CONTENTS_FILE, Content, read_contents, renew
from folds.images import as_spelled, list_images
from folds.run_layout import TEST_STORE
from folds.store import LogitStore
from folds.workers import available_precisions, check_address, run_all
from kernels.metrics import find_metric, score_in
from models.frame import load_for
from models.openvino_runtime import require_openvino
from models.runtimes import OPENVINO, TORCH, Backend, choose_runtime
from predict import blocks
from predict.blocks import UnreadableImagesError
from predict.predictor import begun_or_available, predict
from predict.presence import said_of
from program_flags import BlendName, CompetitionName, DataFolder, ProcessesOrChosen, RunsFolder, places
from submit.check import check, sample_names
from submit.direct import drop_empty_rows, write_direct
from submit.score import score
from submit.stream import SubmissionStream

OnMissing = Literal["refuse", "empty"]


@dataclass(frozen=True)
class _Blender:
    """Blends stored logits into rows of the submission; pickles to workers."""

    blend: Blend
    stores: Sequence[LogitStore]
    folder: Path
    empty: frozenset[str]

    def rows(self, stream: SubmissionStream, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """(name, run-length text) of each image."""
        frames = self.blend.image_frames(stream.size)
        for name in names:
            if name in self.empty:
                yield name, b""
                continue
            planes = [store.head(name) for store in self.stores]
            images = load_for(frames, self.folder / name, stream.size)[0] if frames else {}
            said = said_of(self.stores, name) if self.blend.gate is not None else []
            yield name, self.blend.row(planes, stream.size, stream.order, images, said)

    def write(self, stream: SubmissionStream, shard: int) -> int:
        """Write one shard of the submission; returns its number of rows."""
        cv2.setNumThreads(1)
        names = stream.shard_names(shard)
        stream.write_shard(shard, self.rows(stream, names))
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
    names = as_spelled(sample_names(data, competition), folder, competition)
    lacking = sorted(set(names) - set(list_images(folder, competition)))
    if lacking and on_missing == "refuse":
        raise UserError(
            f"{folder} lacks {len(lacking)} of the {len(names)} images that {competition.sample_file} names "
            f"({lacking[0]} first): copy them there, leave their rows empty (ARGS='--on-missing empty'), or name a "
            "folder to predict instead (ARGS='--images FOLDER')."
        )
    return names, folder


def _with_way_out(error: UnreadableImagesError) -> UserError:
    return UserError(f"{error} Or leave their rows empty (ARGS='--on-missing empty').")


def _predicted(
    blend: Blend,
    names: list[str],
    folder: Path,
    size: Size,
    on_missing: OnMissing,
    contents: Mapping[str, Content],
    jobs: int,
    cluster: str,
) -> _Blender:
    """Logits of all images by all members; images that cannot be read are refused, or become empty rows."""
    stores: list[LogitStore] = []
    empty: set[str] = set()
    for member in blend.members:
        try:
            stores.append(predict(member, names, folder, size, jobs=jobs, cluster=cluster, contents=contents))
        except UnreadableImagesError as error:
            if on_missing == "refuse":
                raise _with_way_out(error) from None
            empty.update(error.names)
            stores.append(LogitStore.open(member.folder / TEST_STORE))
    if len(empty) == len(names):
        raise UserError(f"none of the {len(names)} images in {folder} can be read: copy them again.")
    # as they were predicted
    members = tuple(begun_or_available(m, store.path) for m, store in zip(blend.members, stores, strict=True))
    return _Blender(replace(blend, members=members), stores, folder, frozenset(empty))


def _runtime(backend: Backend, blend: Blend, images: int, cluster: str, *, stream: bool = False) -> str:
    """What computes the networks: what has begun to, unless it is asked for; torch on a cluster, whose workers may have
    nothing else.

    Raises:
        UserError: it is missing or broken, and images are left to be predicted.
    """
    if backend != "auto":
        return choose_runtime(backend, images)
    if cluster:
        return TORCH
    by_runtime: dict[str, list[Path]] = {}
    for member in blend.members:
        if found := member.begun_runtime():
            by_runtime.setdefault(found, []).append(member.folder / TEST_STORE)
    if not by_runtime:
        return choose_runtime(backend, images)
    begun = next(iter(by_runtime))
    if begun == OPENVINO and (stream or not all(member.is_predicted() for member in blend.members)):
        stores = " and ".join(map(str, by_runtime[OPENVINO]))
        require_openvino(f"remove {stores}, which it has begun, to have all predicted anew by torch")
    return begun


def _encode(blender: _Blender, rows: SubmissionStream, jobs: int, cluster: str) -> None:
    """Make the missing shards from stored logits."""
    missing = rows.missing()
    with tqdm(total=rows.count, desc="encode", unit="row", disable=None) as bar:
        bar.update(rows.count - sum(len(rows.shard_names(k)) for k in missing))
        images = (blender.folder,) if blender.blend.image_frames(rows.size) else ()
        shared = (rows.folder, *images, *(store.path for store in blender.stores))
        for count in run_all(partial(blender.write, rows), rows.missing, jobs=jobs, cluster=cluster, shared=shared):
            bar.update(count)


def _fingerprint(name: str, blend: Blend, images: Path | None, empty: Collection[str]) -> dict[str, Any]:
    """What decides the submission's bytes, and so whose shards may be gone on with."""
    fingerprint: dict[str, Any] = {
        "blend": name,
        "members": [member.name for member in blend.members],
        **blend.state(),
        "weights": list(blend.weights),
    }
    imported = {m.name: m.imported_digest() for m in blend.members if m.imported}
    if imported:
        fingerprint["imported"] = imported
    if images is not None:
        fingerprint["images"] = images.absolute().name
    if empty:
        fingerprint["empty_rows"] = sorted(empty)
    return fingerprint


def _finish(rows: SubmissionStream, path: Path, facts: Competition, fitted: FittedBlend, empty: list[str]) -> None:
    """Join the shards to a file and check it; only then does it become the submission, with its manifest."""
    entries: dict[str, Any] = {
        "competition": facts.name,
        "blend": fitted,
        f"cv_{facts.metric}": score_in(fitted["cv"]),
        "git_commit": provenance.git_commit(),
        "versions": provenance.versions(),
    }
    if empty:
        entries["empty_rows"] = empty
    warnings: list[str] = []

    def look(file: Path) -> None:
        report = check(file, competition=facts, names=rows.names, expected=fitted.get("foreground"))
        if not report.ok:
            raise UserError(
                f"what would become {path} does not pass the check, and is not kept: {report.counted()} "
                f"({report.first[0]}); remove {rows.folder} and run the same command again."
            )
        warnings.extend(report.warnings)

    rows.join(path, entries, look)
    print(f"{path}: {rows.count} rows, checked")
    for warning in warnings:
        print(f"warning: {warning}")
    if empty:
        print(f"{len(empty)} of them are empty, as their images cannot be read: {', '.join(empty[:20])}")


@program
def main(
    competition: CompetitionName = "carvana",
    name: BlendName = "blend",
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
    images: Path | None = None,
    on_missing: OnMissing = "refuse",
    restart: bool = False,
    stream: bool = False,
    jobs: ProcessesOrChosen = 0,
    cluster: str = "",
    backend: Backend = "auto",
) -> None:
    """Write the submission of a blend: runs/<competition>/<blend>/submission.csv.gz, checked, with its manifest.

    Args:
        images: a folder of images to predict instead of the competition's test set.
        on_missing: what becomes of images that are lacking or cannot be read: refuse to make a submission, or give
            them an empty row.
        restart: discard the shards of another submission (other images, blend or weights) of this blend's folder.
        stream: keep no logits: every image goes straight to its row, through all networks at once.
        jobs: processes, as joblib counts them; 0 predicts in one, with a thread for each core or GPU, and blends in
            one for each core.
        cluster: address of a dask scheduler (tcp://host:8786); its workers do the work, and must see the same folders.
        backend: what computes the networks on a CPU: torch, or OpenVINO (requirements-cpu.txt), which is up to twice as
            fast. auto takes OpenVINO where it is installed and the images are many, or what a run has begun with.
    """
    # 1) which images, by which blend
    facts, data, root = places(competition, data, runs)
    if cluster:
        check_address(cluster)
        # the workers have working folders of their own
        data, root, images = data.resolve(), root.resolve(), images and images.resolve()
    home = blend_folder(root, name)
    fitted = read_blend(home)
    fill(home, f"the submission in {home}", name=".submission.lock")
    blend = find_blend(root, name)
    if stream:
        for member in blend.members:
            member.require_network()
    names, folder = rows_wanted(facts, data, images, on_missing)
    blend = blend.on(_runtime(backend, blend, len(names), cluster, stream=stream))
    if stream:
        blend = blend.within(available_precisions(cluster))
    predictors = jobs or 1

    # what the images hold, once for all that is made of them
    records = [home / SHARDS_DIR, *(member.folder / TEST_STORE for member in blend.members)]
    contents = read_contents(folder, names, *(record / CONTENTS_FILE for record in records))

    # 2) logits of all images by all members, unless they go straight to rows
    blender = None
    if not stream:
        blender = _predicted(blend, names, folder, facts.size, on_missing, contents, predictors, cluster)
    if blender is not None:
        blend = blender.blend

    # 3) rows, shard by shard
    rows = SubmissionStream(
        home / SHARDS_DIR,
        names,
        header=facts.header,
        key=facts.key,
        size=facts.size,
        order=facts.order,
        shard_rows=blocks.PART_IMAGES,
        fingerprint=_fingerprint(name, blend, images, blender.empty if blender else ()),
        restart=restart,
    )
    if stale := renew(rows.folder / CONTENTS_FILE, contents, rows.drop):
        print(f"{stale} shards in {rows.folder} are of images that have changed since: they are made again")
    if damaged := rows.drop_damaged():
        print(f"{len(damaged)} shards in {rows.folder} are damaged: they are made again")
    if blender is None:
        skip = on_missing == "empty"
        try:
            empty = write_direct(rows, blend, folder, empty=skip, jobs=predictors, cluster=cluster)
        except UnreadableImagesError as error:
            raise _with_way_out(error) from None
    else:
        empty = sorted(blender.empty)
        drop_empty_rows(rows)
        _encode(blender, rows, jobs or -1, cluster)
    if len(empty) == len(names):
        raise UserError(f"none of the {len(names)} images in {folder} can be read: copy them again.")

    # 4) the file, checked, and its score where the truth is known
    path = home / SUBMISSION_FILE
    _finish(rows, path, facts, fitted, empty)
    truth = data / facts.test_masks_dir if facts.test_masks_dir and images is None else None
    if truth is not None and truth.is_dir():
        found = float(score(path, truth, competition=facts).mean)
        atomic.write_json(home / SCORE_FILE, {f"test_{facts.metric}": found, "truth": str(truth)})
        print(f"test {find_metric(facts.metric).label} of the submitted file: {found:.4f}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
