"""From image files straight to rows of the submission: nothing is stored but the submission's own shards.

Every image is read once and goes through all members' networks, in the blocks in which a logit store would be filled;
the logits are rounded as a store rounds them, and blended at full size. So the rows are, to the byte, those that stores
give. The shards are the ledger: one that is whole is not made again, whichever way it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

import atomic
from command_line import UserError
from ensemble.blend import Blend
from folds.logit_code import rounded
from folds.workers import process_count, run_all
from json_file import Schema
from models.frame import Frame, load_for
from predict.blocks import Place, names_by_slot, places, raise_unreadable, stacked
from predict.pipeline import streamed
from predict.predictor import Share
from predict.presence import mask_and_said
from predict.replicas import Replica, ReplicaPool, pool_of_process
from submit.spool import write_all
from submit.stream import SubmissionStream

_Fault = tuple[str, UserError]
# an image's name, its logits by each member, the image itself in the frames in which the blend looks at it, and what
# each member says of it as a whole
_Passed = tuple[str, list[np.ndarray], dict[Frame, np.ndarray], list[float | None]]

_EMPTY_ROWS = Schema(list[str], "remove the folder that it is in")


@dataclass(frozen=True)
class Direct:
    """Makes shards of a submission from image files; pickles to workers.

    Attributes:
        stream: the submission.
        blend: what predicts.
        folder: where the images are.
        empty: images that cannot be read become empty rows; otherwise their shards are not written.
        share: what the process may use of its machine.
    """

    stream: SubmissionStream
    blend: Blend
    folder: Path
    empty: bool = False
    share: Share = field(default_factory=Share)

    def _load(self, place: Place) -> dict[Frame, np.ndarray]:
        frames = (*self.blend.frames, *self.blend.image_frames(self.stream.size))
        return load_for(frames, self.folder / place.name, self.stream.size)[0]

    def rows(
        self, shards: Sequence[int], faults: list[_Fault], pool: ReplicaPool | None = None, bar: tqdm | None = None
    ) -> Iterator[tuple[str, bytes]]:
        """The rows (name, run-length text) of some shards, in order.

        Args:
            shards: their numbers. Blocks are cut from one shard at a time, so that a row is the same whatever other
                shards are made.
            faults: takes the images that cannot be read; unless they become empty rows, which then come last, theirs
                are lacking.
            pool: the members' networks, if they are loaded already.
            bar: is advanced.
        """
        ready = pool or pool_of_process(self.blend.members)
        batches = [ready.batch(member.variant) for member in self.blend.members]
        # whole blocks of every member, as each is a power of two
        batch = max(batches)
        needed = self.blend.image_frames(self.stream.size)

        def forward(images: list[tuple[Place, dict[Frame, np.ndarray]]]) -> Iterator[_Passed]:
            with ready.take() as replicas:
                logits = [_logits(*each, images) for each in zip(replicas, batches, strict=True)]
            for place, inputs in images:
                pictures = {frame: inputs[frame] for frame in needed}
                each_one = [of_member[place.name] for of_member in logits]
                yield place.name, [plane for plane, _ in each_one], pictures, [said for _, said in each_one]

        def keep(result: _Passed) -> tuple[str, bytes]:
            name, planes, pictures, said = result
            as_stored = [rounded(plane) for plane in planes]
            return name, self.blend.row(as_stored, self.stream.size, self.stream.order, pictures, said)

        unread: list[tuple[Place, UserError]] = []
        shard_of = {name: shard for shard in shards for name in self.stream.shard_names(shard)}
        with ready.running():
            yield from streamed(
                (b for k in shards for names in [self.stream.shard_names(k)] for b in places(names, names, batch)),
                load=self._load,
                forward=forward,
                keep=keep,
                faults=unread,
                advance=bar.update if bar is not None else lambda count: None,
                replicas=self.share.replicas_of(ready),
                decoders=self.share.decoders,
                writers=self.share.decoders,
                thread_setup=ready.set_up,
            )
        faults += [(place.name, fault) for place, fault in unread]
        if not self.empty:
            return
        by_shard: dict[int, list[str]] = {}
        for place, _ in unread:
            by_shard.setdefault(shard_of[place.name], []).append(place.name)
        for shard, names in by_shard.items():
            # before the shard can be whole: one with empty rows is known as such
            atomic.write_json(_empty_path(self.stream, shard), names)
            yield from ((name, b"") for name in names)

    def write(self, shard: int) -> tuple[int, list[_Fault]]:
        """Make one shard in a process of its own; returns its number of rows, and the images that cannot be read."""
        faults: list[_Fault] = []
        rows = list(self.rows([shard], faults))
        count = len(self.stream.shard_names(shard))
        if len(rows) == count:
            self.stream.write_shard(shard, rows)
        return count, faults

    def readable(self, name: str) -> bool:
        """Whether an image can be read (now)."""
        try:
            self._load(Place(name, 0, 1))
        except UserError:
            return False
        return True


def _logits(
    replica: Replica, batch: int, images: Sequence[tuple[Place, dict[Frame, np.ndarray]]]
) -> dict[str, tuple[np.ndarray, float | None]]:
    """One member's logits (h, w) float32 of the images of a block, and what it says of each as a whole, by name.

    They go through in the member's own blocks, of `batch` images.
    """
    inputs = {place.name: of_frame[replica.frame] for place, of_frame in images}
    logits: dict[str, tuple[np.ndarray, float | None]] = {}
    for block in places(names_by_slot([place for place, _ in images]), list(inputs), batch):
        planes = replica.logits(stacked([(place, inputs[place.name]) for place in block]), names_by_slot(block))
        logits.update((place.name, mask_and_said(planes[place.slot], replica.variant)) for place in block)
    return logits


def _empty_path(stream: SubmissionStream, shard: int) -> Path:
    return stream.folder / f"empty-{shard:05}.json"


def empty_rows(stream: SubmissionStream) -> list[str]:
    """Names of the images that could not be read and have become empty rows."""
    whole = {_empty_path(stream, k) for k in set(range(stream.shard_count)) - set(stream.missing())}
    paths = sorted(path for path in stream.folder.glob("empty-*.json") if path in whole)
    return [name for path in paths for name in _EMPTY_ROWS.read(path)]


def drop_empty_rows(stream: SubmissionStream, readable: Callable[[str], bool] = lambda name: True) -> None:
    """Remove the shards with an empty row whose image can now be read, so that they are made again.

    Args:
        stream: the submission.
        readable: whether an image can be read.
    """
    for shard in range(stream.shard_count):
        path = _empty_path(stream, shard)
        if path.exists() and any(readable(name) for name in _EMPTY_ROWS.read(path)):
            stream.shard_path(shard).unlink(missing_ok=True)
            path.unlink()


def write_direct(
    stream: SubmissionStream, blend: Blend, folder: Path, *, empty: bool = False, jobs: int = 1, cluster: str = ""
) -> list[str]:
    """Make the missing shards of a submission straight from image files.

    Args:
        stream: the submission, of images of one size.
        blend: what predicts.
        folder: where the images are.
        empty: images that cannot be read become empty rows. Their shards are made again once they can be read.
        jobs: processes, as joblib counts them. One has a thread for each core, or for each GPU.
        cluster: address of a dask scheduler whose workers do it instead; they must see the same folders.

    Returns:
        Names of the images that have become empty rows.

    Raises:
        UnreadableImagesError: images could not be read, and `empty` is not set; the shards without them are done.
        UserError: a network gives NaN; as `submit.spool.write_all`; or processes keep dying.
    """
    processes = process_count(jobs)
    spread = processes > 1 or bool(cluster)
    work = Direct(stream, blend, folder, empty, Share.one_of(processes, bool(cluster)) if spread else Share())
    if empty:
        drop_empty_rows(stream, work.readable)
    else:
        drop_empty_rows(stream)
    faults: list[_Fault] = []
    missing = stream.missing()
    with tqdm(total=stream.count, desc="predict and encode", unit="row", disable=None) as bar:
        bar.update(stream.count - sum(len(stream.shard_names(k)) for k in missing))
        if missing and not spread:
            write_all(stream, work.rows(missing, faults, ReplicaPool(blend.members), bar))
        elif missing:

            def pending() -> list[int]:
                # a shard with images that cannot be read stays missing: it is not tried twice
                bad = {name for name, _ in faults}
                return [k for k in stream.missing() if bad.isdisjoint(stream.shard_names(k))]

            shared = (folder, stream.folder, *(fold for member in blend.members for fold in member.folds))
            precisions = {precision for member in blend.members for precision in member.precisions()}
            done = run_all(work.write, pending, jobs=jobs, cluster=cluster, shared=shared, precisions=precisions)
            for count, some in done:
                bar.update(count)
                faults += some
    if not empty:
        position = {name: k for k, name in enumerate(stream.names)}
        ordered = sorted(faults, key=lambda fault: position[fault[0]])
        raise_unreadable(ordered, stream.count, "done, but for those of the same shards")
    return empty_rows(stream)
