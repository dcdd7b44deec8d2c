"""From image files to a variant's logits: its folds and its test-time augmentations averaged, then stored.

The store is the ledger: an image whose logits are there is not predicted again. Blocks are cut from fixed parts of the
whole list of images and keep their shape however few of them are missing, and a forward pass on a CPU has one thread:
so what is stored does not depend on where a run was resumed, nor on how many threads, processes or machines did it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from command_line import UserError
from competition import Size
from cores import core_count, thread_count
from folds.contents import CONTENTS_FILE, Content, read_contents, renew
from folds.run_layout import TEST_STORE
from folds.store import LogitStore
from folds.workers import available_precisions, process_count, run_all
from models.openvino_runtime import require_openvino
from models.precision import FLOAT32
from models.runtimes import OPENVINO
from predict import blocks
from predict.blocks import Place, names_by_slot, places, raise_unreadable, stacked
from predict.members import Member
from predict.pipeline import overlapped
from predict.replicas import ReplicaPool, pool_of_process

# on a CPU the forward pass has the cores; GPUs must be fed
DECODERS = max(2, min(16, core_count() // 2))


@dataclass(frozen=True)
class Share:
    """What a process may use of its machine.

    Attributes:
        replicas: forward passes at once on a CPU; GPUs are all taken. 0 is a core each.
        decoders: threads that read images.
    """

    replicas: int = 0
    decoders: int = DECODERS

    @staticmethod
    def one_of(processes: int, cluster: bool) -> Share:
        """The share of one of some processes of this machine, or of a thread of a cluster's worker."""
        replicas = 1 if cluster else max(1, min(thread_count(), core_count() // processes))
        return Share(replicas, max(1, min(DECODERS, replicas)))

    def replicas_of(self, pool: ReplicaPool) -> int:
        """How many of a pool's replicas may be taken at once."""
        return pool.count if pool.device == "cuda" or not self.replicas else min(self.replicas, pool.count)


@dataclass(frozen=True)
class _Task:
    """Images of one store, predicted by one process; pickles."""

    member: Member
    folder: Path
    size: Size
    store: LogitStore
    batch: int
    share: Share

    def load(self, place: Place) -> np.ndarray:
        return self.member.frame.load(self.folder / place.name, self.size)[0]

    def run(
        self, parts: Sequence[Sequence[str]], bar: tqdm | None = None, pool: ReplicaPool | None = None
    ) -> list[_Fault]:
        """Predict what is missing of some parts of the list of images; returns the images that cannot be read."""
        ready = pool or pool_of_process([self.member])
        wanted = self.store.missing_of([name for part in parts for name in part])
        batch = self.batch or ready.batch(self.member.variant)

        def forward(images: list[tuple[Place, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
            with ready.take() as (replica,):
                planes = replica.logits(stacked(images), names_by_slot([place for place, _ in images]))
            for place, _ in images:
                yield place.name, planes[place.slot]

        with ready.running():
            faults = overlapped(
                (block for part in parts for block in places(part, wanted, batch)),
                load=self.load,
                forward=forward,
                keep=lambda result: self.store.write(*result),
                advance=bar.update if bar is not None else lambda count: None,
                replicas=self.share.replicas_of(ready),
                decoders=self.share.decoders,
                thread_setup=ready.set_up,
            )
        return [(place.name, fault) for place, fault in faults]

    def run_part(self, part: Sequence[str]) -> tuple[int, list[_Fault]]:
        """`run` in a process of its own; also returns the number of images that are through."""
        count = len(self.store.missing_of(part))
        return count, self.run([part])


_Fault = tuple[str, UserError]


def begun_or_available(member: Member, path: Path, cluster: str = "") -> Member:
    """A member whose networks predict in what the store at `path` was begun in; in a new one, in what this machine, or
    the cluster's workers, have."""
    begun = member.begun_precisions(path)
    if begun:
        return replace(member, available=frozenset({FLOAT32, *begun}))
    return member if member.available is not None else replace(member, available=available_precisions(cluster))


def _refuse_what_is_not_available(member: Member, path: Path, cluster: str) -> None:
    """Refuse to go on in a precision that devices would emulate, and say so where it is not the one trained in."""
    lacking = sorted(set(member.precisions()) - {FLOAT32} - available_precisions(cluster))
    if lacking:
        raise UserError(
            f"{path} was begun in {lacking[0]}, which no device {'of the cluster' if cluster else 'here'} computes in "
            "itself: go on where one does, or remove that folder to have all predicted anew."
        )
    if words := member.other_precision():
        print(f"{member.name} {words}", flush=True)


def predict(
    member: Member,
    names: Sequence[str],
    folder: Path,
    size: Size,
    *,
    batch: int = 0,
    pool: ReplicaPool | None = None,
    decoders: int = DECODERS,
    store: Path | None = None,
    jobs: int = 1,
    cluster: str = "",
    contents: Mapping[str, Content] | None = None,
) -> LogitStore:
    """Predict images and keep their logits in `<member's folder>/test.zarr`; those of images whose files hold something
    else than when they were predicted are made again.

    Args:
        member: the trained variant.
        names: image names, in the order of the submission.
        folder: where the images are.
        size: the size (height, width) every image must have.
        batch: images a forward pass; 0 chooses. The logits' last bits may depend on it.
        pool: the member's networks, if they are loaded already; for a single process.
        decoders: threads that read images; for a single process.
        store: where to keep the logits instead.
        jobs: processes, as joblib counts them. One has a thread for each core, or for each GPU.
        cluster: address of a dask scheduler whose workers predict instead; they must see the same folders.
        contents: what the images hold, where the caller has looked already.

    Returns:
        The complete store.

    Raises:
        UnreadableImagesError: images could not be read: all others are completed first.
        UserError: the store holds other images (names, or a folder of another name) or another training's logits; or
            a network gives NaN; or processes keep dying, or the cluster cannot be used.
    """
    if member.imported:
        return member.imported_logits(names)
    path = store or member.folder / TEST_STORE
    member = begun_or_available(member, path, cluster)
    kept = LogitStore.create(
        path,
        names,
        (member.variant.out_channels, *member.variant.size),
        variant=member.name,
        **member.variant.head_attributes(),
        tta=list(member.variant.tta),
        runtime=member.runtime,
        precision=member.precisions(),
        weights_digest=member.weights_digest,
        frame_version=member.frame.version(size),
        # another folder may hold other images of the same names: Carvana's test and test_hq
        images=folder.absolute().name,
    )
    record = kept.path / CONTENTS_FILE
    now = read_contents(folder, names, record) if contents is None else contents
    if stale := renew(record, now, kept.drop):
        print(f"{kept.path}: {stale} images are not what they were when they were predicted, predicted again")
    damaged = kept.verify()
    if damaged:
        print(f"{kept.path}: the logits of {len(damaged)} images are damaged ({damaged[0]} first), predicted again")
    missing = kept.missing()
    if not missing:
        return kept
    _refuse_what_is_not_available(member, path, cluster)
    if member.runtime == OPENVINO and not member.variant.fitted:
        require_openvino(f"remove {kept.path}, which it has begun, and predict with --backend torch")
    part_images = blocks.PART_IMAGES
    parts = [names[start : start + part_images] for start in range(0, len(names), part_images)]
    processes = process_count(jobs)
    faults: list[_Fault] = []
    with tqdm(total=len(missing), desc=f"predict {member.name}", unit="image", disable=None) as bar:
        if processes == 1 and not cluster:
            task = _Task(member, folder, size, kept, batch, Share(decoders=decoders))
            faults = task.run(parts, bar, pool or ReplicaPool([member]))
        else:
            task = _Task(member, folder, size, kept, batch, Share.one_of(processes, bool(cluster)))

            def pending() -> list[Sequence[str]]:
                # an image that cannot be read stays missing: it is not tried twice
                lacking = set(kept.missing()) - {name for name, _ in faults}
                return [part for part in parts if not lacking.isdisjoint(part)]

            shared = (folder, kept.path, *member.folds)
            precisions = member.precisions()
            done = run_all(task.run_part, pending, jobs=jobs, cluster=cluster, shared=shared, precisions=precisions)
            for count, some in done:
                bar.update(count)
                faults += some
    position = {name: k for k, name in enumerate(names)}
    raise_unreadable(sorted(faults, key=lambda fault: position[fault[0]]), len(names), "stored")
    return kept
